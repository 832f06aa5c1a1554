"""Formulas: what they compute, how they print, and that a text leads back to the same formula."""

from __future__ import annotations

import copy
import doctest
import inspect
import pickle
from collections.abc import Callable
from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_gym.scoring.evaluation import NUMBERS, Score
from prune_gym.simulation.formula import formula
from prune_gym.simulation.score_functions import elementwise, of_rows
from prune_gym.simulation.target import Target
from prune_gym.simulation.terms import QUANTITIES, Formula, Function, Number, Quantity, Shaping, Transition

BASELINE = Score(accuracy=0.9, macs=1000, params=200, flops_reduction=0.0, params_reduction=0.0, channel_sparsity=0.0)
BEFORE = Score(accuracy=0.8, macs=800, params=150, flops_reduction=0.2, params_reduction=0.25, channel_sparsity=0.1)
AFTER = Score(accuracy=0.5, macs=400, params=50, flops_reduction=0.6, params_reduction=0.75, channel_sparsity=0.4)
TARGET = Target("macs_reduction", 0.5)
LAST = Transition(BEFORE, AFTER, BASELINE, TARGET, terminal=True)
EARLIER = LAST._replace(terminal=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("accuracy", 0.5),
        ("before.accuracy - baseline.accuracy + after.accuracy", 0.8 - 0.9 + 0.5),
        ("removed - target", 0.6 - 0.5),
        ("before.removed", 0.2),
        ("accuracy + 0.25 * flops_reduction", 0.65),
        ("2 * accuracy / (1 + accuracy)", 1.0 / 1.5),
        ("1 - accuracy - 0.25", 0.25),
        ("1 - (accuracy - 0.25)", 0.75),
        ("8 / accuracy / 2", 8.0),
        ("-accuracy * 2", -1.0),
        ("-(1 - accuracy) * log(macs)", -0.5 * log(400)),
        ("exp(log(params)) + abs(-1)", 51.0),
        ("min(accuracy, 0.25) + max(accuracy, 0.75)", 1.0),
        ("clip(macs, 0, 100)", 100.0),
        ("where(removed >= target, accuracy + 1, -3)", 1.5),
        ("where(removed < target, accuracy + 1, -3)", -3.0),
        ("(accuracy > 0.4) + (accuracy <= 0.4)", 1.0),
        ("terminal * accuracy", 0.5),
        ("shaping(accuracy, 0.9)", -0.8),
        ("shaping(accuracy, 0.9, 2)", -2.8),
        ("difference(accuracy, 0.9)", 0.9 * 0.5 - 0.8),
        ("difference(accuracy + removed, 0.9, 1)", 0.9 * 2.1 - 2.0),
        ("-accuracy + 123456789012345678", 123456789012345678 - 0.5),
        ("macs * macs * macs * macs * macs * macs * macs * macs", 400.0**8),
        ("mine: 1 + accuracy", 1.5),
    ],
)
def test_by_hand(text: str, expected: float) -> None:
    assert formula(text)(*LAST) == pytest.approx(expected, abs=1e-12)


def test_on_the_way_the_potential_of_the_next_state_counts() -> None:
    assert formula("shaping(accuracy, 0.9, 2)")(*EARLIER) == pytest.approx(0.9 * 2.5 - 2.8)
    assert formula("terminal * accuracy")(*EARLIER) == 0
    assert formula("difference(accuracy, 0.9)")(*EARLIER) == formula("difference(accuracy, 0.9)")(*LAST)


CONSTANTS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda number: Number(number + 0.0))
LEAVES = CONSTANTS | st.sampled_from(
    [Quantity(name) for name in QUANTITIES] + [Quantity(name, of) for name in NUMBERS for of in ("before", "baseline")]
)


def _joined(inner: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
    pairs = st.tuples(inner, inner)
    functions: list[Callable[[Any], Formula]] = [
        lambda pair: pair[0] + pair[1],
        lambda pair: pair[0] - pair[1],
        lambda pair: pair[0] * pair[1],
        lambda pair: pair[0] / pair[1],
        lambda pair: -pair[0],
        lambda pair: pair[0].clip(-1, 2.5),
        lambda pair: Shaping(formula("accuracy * removed"), 0.9, 0.5, kept=True) + Shaping(Quantity("params"), 0.25) * pair[0],
        lambda pair: formula(f"where(({pair[0]}) >= ({pair[1]}), log({pair[0]}), min({pair[1]}, {pair[0]}))"),
        lambda pair: formula(f"({pair[0]}) < ({pair[1]})"),
    ]
    return st.one_of(*[pairs.map(function) for function in functions])


FORMULAS = st.recursive(LEAVES, _joined, max_leaves=12)


@given(FORMULAS)
def test_a_text_leads_back_to_the_formula(made: Formula) -> None:
    assert formula(str(made)) == made
    assert hash(formula(str(made))) == hash(made)
    assert formula(str(made.named("mine"))) == made.named("mine")
    assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made
    assert formula(str(-made.named("mine"))) == -made


@given(FORMULAS, st.integers(0, 2**32 - 1))
def test_many_transitions_at_once_as_one_after_the_other(made: Formula, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [[Score(*row) for row in rng.random((5, len(NUMBERS))).tolist()] for _ in range(2)]
    ends = rng.random(5) < 0.5
    arrays = [Score(*np.array([[getattr(score, name) for name in NUMBERS] for score in scores]).T) for scores in rows]
    at_once = np.broadcast_to(made(*arrays, BASELINE, TARGET, ends), (5,))
    alone = [made(before, after, BASELINE, TARGET, bool(end)) for before, after, end in zip(*rows, ends, strict=True)]
    np.testing.assert_allclose(at_once, alone, rtol=1e-12)
    assert made.elementwise


@given(FORMULAS)
def test_formulas_are_computed_as_python_would(made: Formula) -> None:
    names: dict[str, Any] = {
        "log": lambda x: np.log(np.float64(x)),
        "exp": np.exp,
        "abs": abs,
        "min": np.minimum,
        "max": np.maximum,
        "clip": np.clip,
    }
    names |= {"where": lambda condition, one, other: one if condition else other}
    names |= {name: np.float64(getattr(AFTER, name)) for name in NUMBERS}
    names |= {"before": BEFORE, "after": AFTER, "baseline": BASELINE, "removed": 0.6, "target": 0.5, "terminal": 1.0}
    if any(isinstance(part, Shaping) for part in made.walk()):
        return  # see above
    with np.errstate(all="ignore"):
        try:
            expected = eval(str(made), {"__builtins__": {}}, names)  # of our own text
        except ZeroDivisionError:
            return  # an infinite number here, and whatever follows from it
    np.testing.assert_allclose(float(made(*LAST)), float(expected), rtol=1e-12)


def test_names_are_for_whole_formulas() -> None:
    mine = formula("mine: accuracy")
    assert str(mine) == "mine: accuracy"
    assert str(mine + 1) == "accuracy + 1"
    assert mine + 1 == formula("accuracy + 1")
    assert mine != formula("accuracy")
    with pytest.raises(ValueError, match="name: expected one word, got 'two words'"):
        mine.named("two words")


def test_functions_go_wherever_a_formula_goes() -> None:
    def drop(before: Score, after: Score, baseline: Score) -> float:
        return before.accuracy - after.accuracy

    def at_the_end(before: Score, after: Score, baseline: Score, target: Target, terminal: bool) -> float:
        return target.reduction if terminal else 0.0

    def with_defaults(before: Score, after: Score, baseline: Score, target: Any = None, terminal: bool = False) -> float:
        return after.accuracy * terminal

    assert formula(with_defaults)(*LAST) == 0.5
    assert formula(lambda *parts: 2 * formula("terminal * accuracy")(*parts))(*LAST) == 1.0
    assert formula(lambda before, after, baseline, scale=2: scale * after.accuracy)(*LAST) == 1.0
    both = 2 * formula(drop) + at_the_end
    assert both(*LAST) == pytest.approx(0.6 + 0.5)
    assert both(*EARLIER) == pytest.approx(0.6)
    assert not both.elementwise
    assert (formula("accuracy") + elementwise(drop)).elementwise
    assert formula(drop) == formula(drop)
    assert str(formula(drop)) == "drop"
    assert isinstance(formula(drop), Function)
    with pytest.raises(TypeError, match=r"reward: expected a function of \(before, after, baseline\), got <lambda>\(score\)"):
        formula(lambda score: 0.0)


def test_rows_of_functions_and_of_formulas() -> None:
    scores = Score(*[np.array([getattr(AFTER, name)] * 3) for name in NUMBERS])  # type: ignore[arg-type]
    ends = np.array([True, False, True])

    def end(before: Score, after: Score, baseline: Score, target: Target, terminal: bool) -> float:
        assert isinstance(after.macs, int)
        return after.accuracy * terminal

    for reward in (formula(end), formula("terminal * accuracy")):
        np.testing.assert_array_equal(of_rows("reward", reward, [scores, scores], BASELINE, TARGET, ends), [0.5, 0.0, 0.5])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accurcy + 1", r"reward: expected one of accuracy, .*; got 'accurcy'\. Did you mean 'accuracy'\?"),
        ("before.terminal", "reward: expected one of accuracy, .*; got 'terminal'"),
        ("other.accuracy", "reward: expected a formula of numbers, .* got 'other.accuracy'"),
        ("sqrt(accuracy)", "reward: expected one of log, .*; got 'sqrt'"),
        ("log(accuracy, 2)", "reward: expected 1 operands of log, got 2"),
        (
            "shaping(accuracy)",
            r"reward: expected shaping\(potential, gamma\) or shaping\(potential, gamma, shift\), both numbers",
        ),
        ("shaping(accuracy, accuracy)", r"reward: expected shaping\(potential, gamma\)"),
        ("shaping()", r"reward: expected shaping\(potential, gamma\)"),
        ("shaping(accuracy, 1.5)", r"gamma: expected a number in \[0, 1\], got 1.5"),
        ("accuracy ** 2", "reward: expected a formula of numbers, .* got 'accuracy \\*\\* 2'"),
        ("0 < accuracy < 1", "reward: expected a formula of numbers, .* got '0 < accuracy < 1'"),
        ("accuracy if macs else 0", "reward: expected a formula of numbers"),
        ("__import__('os').system('true')", "reward: expected a formula of numbers"),
        ("clip(accuracy, low=0)", "reward: expected a formula of numbers"),
        ("True", "reward: expected a formula of numbers"),
        ("1e999", "reward: expected a formula of numbers"),
        ("accuracy +", "reward: expected a formula such as 'accuracy .*', got 'accuracy \\+'"),
        ("", "reward: expected a formula such as"),
        ("(" * 500 + "1" + ")" * 500, "reward: expected a formula such as"),
        ("-" * 1900 + "accuracy", "reward: expected a formula"),
        ("1 + " * 600 + "1", "reward: expected a formula of at most 2000 characters, got 2401"),
        ("1 + " * 300 + "1", "reward: expected a formula of at most 100 operations in each other"),
        ("x: " * 100 + "1", "reward: expected a formula such as"),
        ("1" * 400, "reward: expected a formula of numbers"),
        ("shaping(terminal * accuracy, 0.9)", "potential: expected a formula of one network, and terminal \\* accuracy reads"),
        ("shaping(before.accuracy, 0.9)", "potential: expected a formula of one network"),
        ("difference(shaping(accuracy, 1), 1)", "potential: expected a formula of one network"),
        ("one two: accuracy", "reward: expected a formula such as"),
    ],
)
def test_what_is_no_formula(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formula(text)


def test_what_is_no_formula_at_all() -> None:
    with pytest.raises(TypeError, match="potential: expected a formula, its text or a function, got None"):
        formula(None, "potential")
    with pytest.raises(ValueError, match="number: expected"):
        formula("accuracy") + float("nan")
    for operand in ("macs", True, None):
        with pytest.raises(TypeError, match=f"operand: expected a formula, a number or a function, got {operand!r}"):
            formula("accuracy") + operand
    with pytest.raises(TypeError, match="potential: expected a formula, got 'accuracy'"):
        Shaping("accuracy", 0.9)  # type: ignore[arg-type]


def test_a_formula_of_the_target_needs_one() -> None:
    assert formula("accuracy")(BEFORE, AFTER, BASELINE) == 0.5
    with pytest.raises(ValueError, match="target: expected one, as the formula reads 'removed'; got None"):
        formula("removed")(BEFORE, AFTER, BASELINE)


def test_what_is_not_finite_is_for_the_caller_to_see() -> None:
    zero = Score(0.0, 0, 0, 0.0, 0.0, 0.0)
    assert formula("1 / accuracy")(zero, zero, zero) == np.inf
    assert np.isnan(formula("log(0 - 1)")(zero, zero, zero))


def test_a_target_that_is_met_is_reached() -> None:
    """1 - 0.55 is a little less than 0.45."""
    score = Score(0.5, 55, 10, 1 - 55 / 100, 0.5, 0.5)
    assert score.flops_reduction < 0.45
    assert formula("removed >= target")(score, score, score, Target("macs_reduction", 0.45)) == 1.0


def test_the_examples_of_the_docstring() -> None:
    found = doctest.testmod(inspect.getmodule(formula))
    assert (found.failed, found.attempted) == (0, 2)


@pytest.mark.parametrize("sparsity", [1 / 3, 100 / 464, 2 / 7])
def test_what_meets_a_target_has_removed_at_least_it(sparsity: float) -> None:
    """Whatever digits the target has."""
    score = Score(0.5, 1, 1, 0.0, 0.0, sparsity)
    reached = formula("where(removed >= target, 1, -100)")
    assert reached(score, score, score, Target("sparsity", sparsity), True) == 1
    short = replace(score, channel_sparsity=sparsity - 1e-6)
    assert reached(short, short, score, Target("sparsity", sparsity), False) == -100


def test_ties_in_rounding_are_broken_alike() -> None:
    for p in range(1, 5120):
        target = Target("sparsity", p / 5120)
        assert target.removed(replace(AFTER, channel_sparsity=p / 5120)) >= target.required
