"""Errors for numbers out of range and for names that nobody knows, and devices by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch

from prune_gym.arguments import (
    AtLeast,
    OneOf,
    Within,
    check_integer,
    check_number,
    check_settings,
    choose_device,
    unknown,
)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, 1)", [0.5, np.float32(0.5), 1e-300], [0, 1, -1, float("nan")]),
        ("[0, 1)", [0, np.int64(0), 0.999], [1.0, -1e-300]),
        ("(0, 1]", [1, 0.1], [0.0, 1.001]),
        ("[0, inf)", [0, 1e300], [float("inf"), -1, 10**400]),
    ],
)
def test_numbers(interval: str, inside: list, outside: list) -> None:
    for value in inside:
        check_number("size", value, interval)
    for value in outside:
        with pytest.raises(ValueError, match=r"^size: expected a number in [\[(].*[\])], got .*\.$") as error:
            check_number("size", value, interval)
        assert f"{interval}, got {value!r}" in str(error.value)
    for value in ("0.5", None, True, 0.5j, [0.5]):
        with pytest.raises(TypeError, match="size: expected a number in"):
            check_number("size", value, interval)


def test_integers() -> None:
    for value in (1, 9, np.int32(9)):
        check_integer("count", value, 1, 10)
    for value in (0, 10, 1.0, np.float64(2), float("nan")):
        with pytest.raises(ValueError, match=r"count: expected an integer in \[1, 10\), got "):
            check_integer("count", value, 1, 10)
    with pytest.raises(ValueError, match="count: expected an integer >= 1, got 0"):
        check_integer("count", 0, 1)
    for value in ("1", None, False):
        with pytest.raises(TypeError, match="count: expected an integer >= 1, got"):
            check_integer("count", value, 1)


def test_unknown_says_what_came_what_is_known_and_what_could_be_meant() -> None:
    assert (
        str(unknown("fruit", "aple", ("pear", "apple")))
        == "fruit: expected one of pear, apple; got 'aple'. Did you mean 'apple'?"
    )
    assert str(unknown("fruit", "xyz", {"pear": 1, "apple": 2})) == "fruit: expected one of pear, apple; got 'xyz'."
    assert str(unknown("fruit", "APLE", ["Apple"])).endswith("Did you mean 'Apple'?")
    assert str(unknown("fruit", None, ["pear"])) == "fruit: expected one of pear; got None."


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(ValueError, match=rf"device: expected a device of this machine, got '{name}', but it has 0 GPUs"):
            choose_device(name)
    with pytest.raises(ValueError, match=r"device: expected one of auto, cpu, .*; got 'cpuu'\. Did you mean 'cpu'\?"):
        choose_device("cpuu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:0") == torch.device("cuda", 0)


# ------------------------------------------------------------------------------------------------ configurations

KNOWN = {"red": 1}


@dataclass(frozen=True)
class Inner:
    count: Annotated[int, AtLeast(2)] = 2

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Config:
    size: Annotated[float, Within("(0, 1]")] = 0.5
    seed: Annotated[int, AtLeast(0, below=10)] = 0
    limit: Annotated[float, Within("(0, 1)")] | None = None
    colour: Annotated[str, OneOf(KNOWN)] = "red"
    decay: Literal["linear", "cosine"] = "linear"
    flip: bool = False
    weight: float = 1.0
    text: str = ""
    file: Path | None = None
    pair: tuple[Annotated[int, AtLeast(1)], float] | None = None
    names: tuple[str, ...] = ()
    widths: Annotated[float, Within("(0, inf)")] | dict[str, Annotated[float, Within("(0, inf)")]] = 1.0
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        check_settings(self)


@pytest.mark.parametrize(
    ("setting", "good", "bad", "error", "message"),
    [
        ("size", [1, 1e-9, 0.5], [0, 1.1, float("nan")], ValueError, r"a number in \(0, 1\]"),
        ("size", [], ["1", None, True], TypeError, r"a number in \(0, 1\]"),
        ("seed", [0, 9], [-1, 10, 1.0], ValueError, r"an integer in \[0, 10\)"),
        ("seed", [], ["1", None, True], TypeError, r"an integer in \[0, 10\)"),
        ("limit", [None, 0.5], [0, 1], ValueError, r"a number in \(0, 1\)"),
        ("colour", ["red"], ["green", None, 1], ValueError, "one of red"),
        ("decay", ["linear", "cosine"], ["Linear", None], ValueError, "one of linear, cosine"),
        ("flip", [True, False], [1, "yes", None], TypeError, "True or False"),
        ("weight", [-1, 1e300], [float("inf")], ValueError, "a number in"),
        ("weight", [], ["1", True], TypeError, "a number in"),
        ("text", ["a"], [1, None], TypeError, "a value of type str"),
        ("file", [None, Path("a")], [1, b"a"], TypeError, "a path"),
        ("pair", [None, (1, 0.5)], [(1,), (1, 2, 3), 3], ValueError, "2 values"),
        ("pair", [], [(0, 0.5)], ValueError, "an integer >= 1"),
        ("pair", [], [(1, "a")], TypeError, "a number in"),
        ("names", [(), ("a",), ("a", "b", "c")], ["abc", None], ValueError, "a tuple"),
        ("widths", [0.5, {}, {"a": 1, "b": 0.5}], [0, {"a": 1, "b": -1}], ValueError, r"a number in \(0, inf\)"),
        ("widths", [], ["1", {"a": None}], TypeError, r"a number in \(0, inf\)"),
        ("widths", [], [{5: 0.5}], TypeError, "values by name"),
        ("names", [], [("a", 1)], TypeError, "a value of type str"),
        ("inner", [Inner(3)], [None, {"count": 3}], TypeError, "a value of type Inner"),
    ],
)
def test_settings_are_checked_by_their_annotations(
    setting: str, good: list, bad: list, error: type[Exception], message: str
) -> None:
    for value in good:
        assert getattr(Config(**{setting: value}), setting) == value
    for value in bad:
        with pytest.raises(error, match=f"^{setting}: expected {message}"):
            Config(**{setting: value})


def test_settings_are_kept_as_json_and_comparisons_want_them() -> None:
    config = Config(
        size=np.float32(0.5),
        seed=np.int64(3),
        flip=np.bool_(True),
        text=np.str_("a"),
        file="a/b",  # type: ignore[arg-type]
        pair=[np.int8(1), np.float64(2)],  # type: ignore[arg-type]
        names=["a"],  # type: ignore[arg-type]
        limit=np.float64(0.25),
    )
    assert config == Config(0.5, 3, 0.25, flip=True, text="a", file=Path("a/b"), pair=(1, 2.0), names=("a",))
    kinds = [type(getattr(config, name)) for name in ("size", "seed", "flip", "text", "pair", "names", "limit")]
    assert kinds == [float, int, bool, str, tuple, tuple, float]
    assert config.pair is not None
    assert [type(value) for value in config.pair] == [int, float]


def test_names_are_those_known_at_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN, "blue", 2)
    assert Config(colour="blue").colour == "blue"
