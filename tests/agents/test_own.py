"""What describes a function: the same for the same function, in every process, and another one for another."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import numpy as np
import pytest
import torch

from prune_gym.agents.own import Own, describe_function

SOURCE = """
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache, partial
import numpy as np

WEIGHT = 0.5
NAMES = {"accuracy", "flops_reduction", "params_reduction"}
TABLE = np.arange(3.0)

def helper(score):
    return WEIGHT * score.accuracy

def reward(before, after, baseline=None, *, scale=1.0):
    return scale * helper(after) + sum(getattr(after, name) for name in NAMES) + TABLE[0] + (lambda x: x + 1)(0)

@dataclass(frozen=True)
class Weighted:
    weight: float = 0.5

    def __call__(self, before, after, baseline):
        return self.scaled(after.accuracy)

    def scaled(self, value):
        return self.weight * value

def made(weight):
    def inner(before, after, baseline):
        return weight * after.accuracy
    return inner

def endless(before, after, baseline):
    return endless(before, after, baseline)

class Base:
    SHARE = 0.5

    @property
    def twice(self):
        return 2 * self.SHARE

    @cached_property
    def half(self):
        return self.SHARE / 2

    @staticmethod
    def of(score):
        return score.accuracy

    def combined(self, score):
        return self.of(score)

@dataclass(frozen=True, slots=True)
class Slotted:
    power: int = 2

class Derived(Base):
    def __init__(self):
        self.slotted, self.fraction, self.pattern = Slotted(), Fraction(1, 3), re.compile("a+")

    def __call__(self, before, after, baseline):
        return self.twice * self.combined(after) ** self.slotted.power

@lru_cache
def cached(before, after, baseline):
    return after.accuracy

found = [reward, Weighted(), made(0.5), partial(reward, scale=2.0), Weighted().scaled, endless, Derived(), cached]
"""


def describe(source: str) -> list[str]:
    module = sys.modules["mine"] = ModuleType("mine")  # dataclasses look for it there
    exec(compile(source, "mine.py", "exec", dont_inherit=True), vars(module))
    return [describe_function(function) for function in module.found]


CHANGES = [  # what is changed, and which of the functions are others then
    ("WEIGHT = 0.5\n", "WEIGHT = 0.25\n", {0, 3}),
    ("WEIGHT * score", "WEIGHT + score", {0, 3}),
    ("score.accuracy\n", "score.macs\n", {0, 3}),
    ("scale=1.0", "scale=1.5", {0, 3}),
    ("baseline=None", "baseline=1", {0, 3}),
    ("x + 1", "x + 2", {0, 3}),
    ("arange(3.0)", "arange(4.0)", {0, 3}),
    ('"params_reduction"}', '"macs"}', {0, 3}),
    ("weight: float = 0.5", "weight: float = 0.25", {1, 4}),
    ("self.weight * value", "self.weight + value", {1, 4}),
    ("made(0.5)", "made(0.25)", {2}),
    ("weight * after", "weight - after", {2}),
    ("scale=2.0", "scale=3.0", {3}),
    ("return endless(", "return -endless(", {5}),
    ("SHARE = 0.5", "SHARE = 0.25", {6}),
    ("2 * self.SHARE", "3 * self.SHARE", {6}),
    ("self.SHARE / 2", "self.SHARE / 3", {6}),
    ("return score.accuracy\n\n    def combined", "return score.macs\n\n    def combined", {6}),
    ("return self.of(score)", "return -self.of(score)", {6}),
    ("power: int = 2", "power: int = 3", {6}),
    ("Fraction(1, 3)", "Fraction(2, 3)", {6}),
    ('compile("a+")', 'compile("a*")', {6}),
    ("baseline):\n    return after.accuracy\n\nfound", "baseline):\n    return after.macs\n\nfound", {7}),
    ("\nWEIGHT", "\n# a comment, and other lines\n\nWEIGHT", set()),
]


@pytest.mark.parametrize(("old", "new", "others"), CHANGES)
def test_what_computes_something_else_is_described_in_another_way(old: str, new: str, others: set[int]) -> None:
    before, after = describe(SOURCE), describe(SOURCE.replace(old, new, 1))
    assert SOURCE.replace(old, new, 1) != SOURCE
    assert {number for number, (a, b) in enumerate(zip(before, after, strict=True)) if a != b} == others


def test_names_are_told() -> None:
    names = [description.split()[0] for description in describe(SOURCE)]
    assert names == [
        "mine.reward",
        "mine.Weighted",
        "mine.made.<locals>.inner",
        "mine.reward",
        "mine.Weighted.scaled",
        "mine.endless",
        "mine.Derived",
        "mine.cached",
    ]


@pytest.mark.slow
def test_other_processes_describe_functions_alike(tmp_path) -> None:
    """Whatever the order of their sets is."""
    (tmp_path / "mine.py").write_text(SOURCE)
    program = "import mine; from prune_gym.agents.own import describe_function; print([describe_function(f) for f in mine.found])"
    environment = {"PYTHONHASHSEED": "1", "PATH": ""}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{describe(SOURCE)}\n"


@dataclass(frozen=True, eq=False)
class Holding:
    value: object

    def __call__(self, after, baseline):
        return 0.0


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (1, 1.0),
        ("1", 1),
        (torch.zeros(2), torch.ones(2)),
        (np.zeros(2), np.zeros(2, np.float32)),
        ([1, 2], [2, 1]),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        (None, False),
        (b"a", b"b"),
        (np.float32(1), np.float32(2)),
        (max, min),
        (np, torch),
        (partial(max, 1), partial(max, 2)),
        (np.mean, np.sum),
        (int, float),
    ],
)
def test_what_an_object_holds_counts(value: object, other: object) -> None:
    assert describe_function(Holding(value)) == describe_function(replace(Holding(other), value=value))
    assert describe_function(Holding(value)) != describe_function(Holding(other))


def test_what_cannot_be_told_apart_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected what a copy can be made of, so that a run folder can .*, got <unlocked"):
        describe_function(Holding(threading.Lock()))
    with pytest.raises(TypeError, match=r"^yardstick: expected what a copy can be made of"):
        Own(yardstick=Holding(threading.Lock())).describe()


def test_what_a_run_is_given(tiny_task, own_tiny_task) -> None:
    assert Own().describe() == {}
    described = Own(tiny_task, max, min).describe()
    assert list(described) == ["task", "reward", "yardstick"]
    assert described["task"].startswith("tiny ")
    assert Own(own_tiny_task).describe()["task"] == described["task"]
    renamed = replace(own_tiny_task, val=tiny_task.test)
    assert Own(renamed).describe()["task"] != described["task"]
