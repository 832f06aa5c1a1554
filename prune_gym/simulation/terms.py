"""What formulas of transitions are made of; see :mod:`prune_gym.simulation.formula`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from prune_gym.arguments import check_number
from prune_gym.scoring.evaluation import NUMBERS, Score
from prune_gym.simulation.score_functions import check_takes, wants_all
from prune_gym.simulation.target import Target

QUANTITIES = (*NUMBERS, "removed", "target", "terminal")


class Transition(NamedTuple):
    """A step: the scores before and after it and of the original network, the target, and whether the episode ends with it.

    Scores may hold arrays, and ``terminal`` be one: many transitions at once.
    """

    before: Score
    after: Score
    baseline: Score
    target: Target
    terminal: Any = False


Custom = Callable[..., Any]  # (before, after, baseline) of scores, or a transition's five parts, -> a number


class Formula(ABC):
    """A function of a transition, immutable; equal to others that are made in the same way.

    Call it with the parts of a :class:`Transition`; the last two may be left out where it reads neither the target nor the end.
    With scores of arrays it gives an array.
    """

    def __call__(self, before: Score, after: Score, baseline: Score, target: Target | None = None, terminal: Any = False) -> Any:
        with np.errstate(all="ignore"):  # whoever needs a finite number checks for it
            return self.value(Transition(before, after, baseline, target, terminal))  # type: ignore[arg-type]

    @abstractmethod
    def value(self, transition: Transition) -> Any:
        """What it is for a transition: a number, or an array for one of arrays."""

    @abstractmethod
    def __str__(self) -> str: ...

    def parts(self) -> tuple[Formula, ...]:
        """The formulas that it is made of."""
        return ()

    def walk(self) -> Iterator[Formula]:
        """Itself and all formulas inside."""
        yield self
        for part in self.parts():
            yield from part.walk()

    @property
    def elementwise(self) -> bool:
        """Whether it takes scores of arrays, see :mod:`prune_gym.simulation.score_functions`."""
        return all(part.elementwise for part in self.parts())

    @property
    def reads_before(self) -> bool:
        """Whether it reads the network before the step; of functions of yours this is not known, and they count as if not."""
        return any(isinstance(part, Shaping) or (isinstance(part, Quantity) and part.of == "before") for part in self.walk())

    @property
    def reads_end(self) -> bool:
        """Whether it reads whether the episode ends; functions of yours count as if not."""
        return any(isinstance(part, Shaping) or part == Quantity("terminal") for part in self.walk())

    def check_widths(self, argument: str, widths: np.ndarray) -> None:
        """Raise ValueError, which begins with ``argument``, if a part is of networks whose groups have other widths."""
        for part in self.parts():
            part.check_widths(argument, widths)

    def __repr__(self) -> str:
        return f"Formula({str(self)!r})"

    def __add__(self, other: Any) -> Formula:
        return operation("+", self, other)

    def __radd__(self, other: Any) -> Formula:
        return _operand(other) + self

    def __sub__(self, other: Any) -> Formula:
        return operation("-", self, other)

    def __rsub__(self, other: Any) -> Formula:
        return _operand(other) - self

    def __mul__(self, other: Any) -> Formula:
        return operation("*", self, other)

    def __rmul__(self, other: Any) -> Formula:
        return _operand(other) * self

    def __truediv__(self, other: Any) -> Formula:
        return operation("/", self, other)

    def __rtruediv__(self, other: Any) -> Formula:
        return _operand(other) / self

    def __neg__(self) -> Formula:
        return operation("negative", self)

    def clip(self, low: float, high: float) -> Formula:
        """Not below ``low`` and not above ``high``."""
        return operation("clip", self, low, high)

    def named(self, name: str) -> Formula:
        """The same with a name, for tables and pictures; its text is ``name: formula``. Raises ValueError unless the name is one
        word."""
        return Named(name, self)


@dataclass(frozen=True, repr=False)
class Number(Formula):
    """A constant."""

    number: float

    def __post_init__(self) -> None:
        check_number("number", self.number, "(-inf, inf)")
        object.__setattr__(self, "number", float(self.number))

    def value(self, transition: Transition) -> Any:
        return self.number

    def __str__(self) -> str:
        return str(int(self.number)) if self.number.is_integer() and abs(self.number) < 1e15 else repr(self.number)

    def __neg__(self) -> Formula:
        return Number(-self.number)


@dataclass(frozen=True, repr=False)
class Quantity(Formula):
    """A number of a transition, by name; ``of`` says of which network: ``"before"``, ``"after"`` or ``"baseline"``."""

    name: str
    of: str = "after"

    def value(self, transition: Transition) -> Any:
        match self.name:
            case "terminal":
                return transition.terminal * 1.0
            case "target" | "removed" if transition.target is None:
                raise ValueError(f"target: expected one, as the formula reads {self.name!r}; got None.")
            case "target":
                return transition.target.required
            case "removed":
                return transition.target.removed(getattr(transition, self.of))
        return getattr(getattr(transition, self.of), self.name) * 1.0  # products of MACs are too large for integers

    def __str__(self) -> str:
        return self.name if self.of == "after" else f"{self.of}.{self.name}"


class Rule(NamedTuple):
    """How an operation is computed and printed; ``binding`` says how tightly, as in Python."""

    compute: Callable[..., Any]
    text: str
    operands: int
    binding: int


def _where(condition: Any, one: Any, other: Any) -> Any:
    if isinstance(condition, np.ndarray):
        return np.where(condition, one, other)
    return one if condition else other


CALL = 9
RULES: dict[str, Rule] = {
    ">=": Rule(lambda a, b: (a >= b) * 1.0, "{} >= {}", 2, 1),
    ">": Rule(lambda a, b: (a > b) * 1.0, "{} > {}", 2, 1),
    "<=": Rule(lambda a, b: (a <= b) * 1.0, "{} <= {}", 2, 1),
    "<": Rule(lambda a, b: (a < b) * 1.0, "{} < {}", 2, 1),
    "+": Rule(lambda a, b: a + b, "{} + {}", 2, 2),
    "-": Rule(lambda a, b: a - b, "{} - {}", 2, 2),
    "*": Rule(lambda a, b: a * b, "{} * {}", 2, 3),
    "/": Rule(np.true_divide, "{} / {}", 2, 3),
    "negative": Rule(lambda a: -a, "-{}", 1, 4),
    "log": Rule(np.log, "log({})", 1, CALL),
    "exp": Rule(np.exp, "exp({})", 1, CALL),
    "abs": Rule(np.abs, "abs({})", 1, CALL),
    "min": Rule(np.minimum, "min({}, {})", 2, CALL),
    "max": Rule(np.maximum, "max({}, {})", 2, CALL),
    "clip": Rule(np.clip, "clip({}, {}, {})", 3, CALL),
    "where": Rule(_where, "where({}, {}, {})", 3, CALL),
}
SHAPINGS = {"shaping": False, "difference": True}  # whether the potential of the last state is kept
FUNCTIONS = (*(name for name, rule in RULES.items() if rule.binding == CALL), *SHAPINGS, "latency")


@dataclass(frozen=True, repr=False)
class Operation(Formula):
    """One of the :data:`RULES`, applied to formulas."""

    name: str
    operands: tuple[Formula, ...]

    def value(self, transition: Transition) -> Any:
        return RULES[self.name].compute(*[operand.value(transition) for operand in self.operands])

    def parts(self) -> tuple[Formula, ...]:
        return self.operands

    def __str__(self) -> str:
        rule = RULES[self.name]
        texts = [_inside(operand, rule.binding, last=i > 0) for i, operand in enumerate(self.operands)]
        return rule.text.format(*texts)


def operation(name: str, *operands: Any) -> Operation:
    """An operation on formulas, numbers and functions of yours. Raises TypeError for anything else."""
    formulas = [_operand(operand) for operand in operands]
    return Operation(name, tuple(each.formula if isinstance(each, Named) else each for each in formulas))


def _inside(operand: Formula, binding: int, last: bool) -> str:
    """An operand's text, in parentheses where it would be read otherwise without."""
    if binding == CALL or not isinstance(operand, Operation):
        return str(operand)
    own = RULES[operand.name].binding
    alone = own < binding or (own == binding and (last or binding in (1, 4)))  # a < b < c is something else in Python
    return f"({operand})" if alone else str(operand)


@dataclass(frozen=True, repr=False)
class Named(Formula):
    """A formula with a name, which it loses where it becomes a part of another."""

    name: str
    formula: Formula

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"name: expected one word, got {self.name!r}.")

    def value(self, transition: Transition) -> Any:
        return self.formula.value(transition)

    def __neg__(self) -> Formula:
        return -self.formula

    def parts(self) -> tuple[Formula, ...]:
        return (self.formula,)

    def __str__(self) -> str:
        return f"{self.name}: {self.formula}"


@dataclass(frozen=True, repr=False)
class Shaping(Formula):
    r"""What shaping by a potential adds to a reward: :math:`\gamma \Phi(s') - \Phi(s)` (Ng, Harada and Russell, 1999).

    The potential of a network is the value of a formula for it, ``before`` and ``after`` the same. In the step that ends the
    episode :math:`\Phi(s') = 0`; so the discounted sum over an episode is :math:`-\Phi(s_0)` whatever the agent does, and the
    best policy stays the best. Where the potential of the last state is ``kept``, that sum is
    :math:`\gamma^T \Phi(s_T) - \Phi(s_0)`: a reward for the last network, and not a neutral addition. With
    :math:`\gamma < 1` that reward shrinks with the number of steps, too.

    Args:
        potential: a formula of one network: of scores, ``removed`` and ``target``, not of what was before or of the end.
        gamma: the discount of the agent that learns, in [0, 1].
        shift: a constant that is added to the potential of every state but the last: it changes no best policy, but what deep
            networks have to learn (arXiv 2502.01307).
        kept: whether the last state has its potential.

    Its text is ``shaping(potential, gamma)`` or ``shaping(potential, gamma, shift)``, and ``difference(...)`` where it is kept.

    Raises TypeError for a potential that is no formula, ValueError for one that is not of one network, and for numbers out of
    range.
    """

    potential: Formula
    gamma: float
    shift: float = 0.0
    kept: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.potential, Formula):
            raise TypeError(f"potential: expected a formula, got {self.potential!r}; formula(text) makes one of a text.")
        if isinstance(self.potential, Named):
            object.__setattr__(self, "potential", self.potential.formula)
        if self.potential.reads_before or self.potential.reads_end:
            raise ValueError(
                f"potential: expected a formula of one network, and {self.potential} reads what was before, or the end."
            )
        check_number("gamma", self.gamma, "[0, 1]")
        check_number("shift", self.shift, "(-inf, inf)")

    def value(self, transition: Transition) -> Any:
        before, after = (
            self.potential.value(transition._replace(before=score, after=score, terminal=False)) + self.shift
            for score in (transition.before, transition.after)
        )
        return self.gamma * (after if self.kept else _where(transition.terminal, 0.0, after)) - before

    def parts(self) -> tuple[Formula, ...]:
        return (self.potential,)

    def __str__(self) -> str:
        name = next(name for name, kept in SHAPINGS.items() if kept == self.kept)
        numbers = [self.gamma] if self.shift == 0 else [self.gamma, self.shift]
        return f"{name}({', '.join([str(self.potential), *(str(Number(n)) for n in numbers)])})"


@dataclass(frozen=True, repr=False)
class Function(Formula):
    """A function of yours: of ``(before, after, baseline)``, or of ``(before, after, baseline, target, terminal)`` if it needs
    five arguments, takes any number of them, or calls the last two so. It prints as its name, which no text leads back to.

    Raises TypeError for a function that takes other arguments.
    """

    function: Custom
    argument: str = field(default="reward", compare=False)

    def __post_init__(self) -> None:
        scores, everything = Transition._fields[:3], Transition._fields
        takes = everything if wants_all(self.function, scores, everything) else scores
        check_takes(self.argument, self.function, takes)
        object.__setattr__(self, "_takes", len(takes))

    def value(self, transition: Transition) -> Any:
        return self.function(*transition[: self._takes])  # type: ignore[attr-defined]

    @property
    def elementwise(self) -> bool:
        return getattr(self.function, "elementwise", False)

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


def _operand(value: Any) -> Formula:
    match value:
        case Formula():
            return value
        case bool():
            pass
        case int() | float() | np.integer() | np.floating():
            return Number(float(value))
    if callable(value):
        return Function(value)
    raise TypeError(f"operand: expected a formula, a number or a function, got {value!r}.")
