"""Formulas: functions of a transition that can be added, scaled and clipped, print as text, and come back from it as they were.

>>> formula("accuracy + 0.25 * flops_reduction")
Formula('accuracy + 0.25 * flops_reduction')
>>> formula("accuracy") - 2 == formula("accuracy - 2")
True

A formula is made of numbers and quantities, with ``+ - * /``, comparisons (1 where they hold, else 0) and
:data:`FUNCTIONS`. The quantities are those of a :class:`~prune_gym.scoring.evaluation.Score`: ``accuracy`` is that after
the step, ``before.accuracy`` that before it, and ``baseline.accuracy`` that of the original network. ``removed`` is the share
that is gone of what the target counts, ``target`` the share that has to go, and ``terminal`` is 1 in the step that ends the
episode, else 0. ``latency("FILE")`` is what the network after the step takes on a device over what the original one takes, see
:class:`prune_gym.simulation.latency_term.Latency`.
"""

from __future__ import annotations

import ast
from typing import Any

from prune_gym.arguments import unknown
from prune_gym.scoring.evaluation import NUMBERS
from prune_gym.simulation.terms import (
    FUNCTIONS,
    QUANTITIES,
    RULES,
    SHAPINGS,
    Formula,
    Function,
    Number,
    Quantity,
    Shaping,
    operation,
)

MOST_CHARACTERS = 2000
MOST_DEEP = 100  # operations in each other: more of them would overflow the stack
MOST = 1e300  # the largest number


def formula(value: Any, argument: str = "reward") -> Formula:
    """A formula from its text, or a function of yours as one; a formula as it is.

    Raises ValueError for a text that is none, TypeError for anything else; both begin with ``argument``.
    """
    match value:
        case Formula():
            return value
        case str():
            return _parsed(value, argument)
    if callable(value):
        return Function(value, argument)
    raise TypeError(f"{argument}: expected a formula, its text or a function, got {value!r}.")


def reads_a_file(text: str, argument: str = "reward") -> bool:
    """Whether the formula of a text reads a file, which it does for ``latency("FILE")`` alone; no file is read to find out.

    Raises ValueError for a text that is no expression.
    """
    _, expression = _expression(text, argument)
    return any(isinstance(node, ast.Name) and node.id == "latency" for node in ast.walk(expression))


def _parsed(text: str, argument: str) -> Formula:
    name, expression = _expression(text, argument)
    made = _formula_of(expression, argument)
    return made.named(name) if name else made


def _expression(text: str, argument: str) -> tuple[str, ast.expr]:
    """The name in front of a text, or none, and the expression."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{argument}: expected a formula of at most {MOST_CHARACTERS} characters, got {len(text)}.")
    name, colon, rest = text.partition(":")
    named = colon and name.strip().isidentifier()
    try:
        tree = ast.parse((rest if named else text).strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{argument}: expected a formula such as 'accuracy + 0.25 * flops_reduction', got {text!r}.") from error
    if _depth(tree.body) > MOST_DEEP:
        raise ValueError(f"{argument}: expected a formula of at most {MOST_DEEP} operations in each other.")
    return name.strip() if named else "", tree.body


def _depth(tree: ast.AST) -> int:
    """How deep an expression is, at most one more than is allowed."""
    depth, layer = 0, [tree]
    while layer and depth <= MOST_DEEP:
        depth, layer = depth + 1, [child for node in layer for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
    return depth


OPERATORS: dict[type, str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.GtE: ">=",
    ast.Gt: ">",
    ast.LtE: "<=",
    ast.Lt: "<",
}


def _formula_of(node: ast.expr, argument: str) -> Formula:
    """The formula that an expression of Python says. Nothing is evaluated."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and abs(number) <= MOST:
            return Number(number)
        case ast.Name(id=name):
            _check_quantity(argument, name, QUANTITIES)
            return Quantity(name)
        case ast.Attribute(value=ast.Name(id="before" | "after" | "baseline" as of), attr=name):
            _check_quantity(argument, name, (*NUMBERS, "removed"))
            return Quantity(name, of)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_formula_of(operand, argument)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return operation(OPERATORS[type(op)], _formula_of(left, argument), _formula_of(right, argument))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in OPERATORS:
            return operation(OPERATORS[type(op)], _formula_of(left, argument), _formula_of(right, argument))
        case ast.Call(func=ast.Name(id="latency")):
            return _latency(node, argument)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _call(name, [_formula_of(arg, argument) for arg in args], argument)
    raise ValueError(
        f"{argument}: expected a formula of numbers, quantities, + - * / and comparisons of two, and functions; got "
        f"{ast.unparse(node)!r}."
    )


def _check_quantity(argument: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise unknown(argument, name, known)


def _latency(call: ast.Call, argument: str) -> Formula:
    from prune_gym.simulation.latency_term import Latency  # of few users, and slow to import

    texts = [getattr(each, "value", None) for each in call.args]
    if call.keywords or len(texts) not in (1, 2) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f'{argument}: expected latency("FILE"), got {ast.unparse(call)!r}.')
    try:
        return Latency(*texts)  # type: ignore[arg-type]
    except (OSError, RuntimeError, ValueError) as error:  # of a path that is none, too
        raise ValueError(f"{argument}: {error}") from error


def _call(name: str, operands: list[Formula], argument: str) -> Formula:
    if name not in FUNCTIONS:
        raise unknown(argument, name, FUNCTIONS)
    if name in SHAPINGS:
        potential, *numbers = operands or [Number(0)]
        if len(numbers) not in (1, 2) or not all(isinstance(number, Number) for number in numbers):
            raise ValueError(f"{argument}: expected {name}(potential, gamma) or {name}(potential, gamma, shift), both numbers.")
        gamma, shift = [*(number.number for number in numbers if isinstance(number, Number)), 0.0][:2]
        return Shaping(potential, gamma, shift, SHAPINGS[name])
    if len(operands) != RULES[name].operands:
        raise ValueError(f"{argument}: expected {RULES[name].operands} operands of {name}, got {len(operands)}.")
    return operation(name, *operands)
