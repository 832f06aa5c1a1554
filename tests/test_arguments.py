"""Errors for numbers out of range and for names that nobody knows, and devices by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prune_gym.arguments import check_integer, check_number, choose_device, unknown


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, 1)", [0.5, np.float32(0.5), 1e-300], [0, 1, -1, float("nan")]),
        ("[0, 1)", [0, np.int64(0), 0.999], [1.0, -1e-300]),
        ("(0, 1]", [1, 0.1], [0.0, 1.001]),
        ("[0, inf)", [0, 1e300], [float("inf"), -1]),
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
