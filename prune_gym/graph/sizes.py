"""Sizes that follow the batch: found by comparing two recordings of the same forward pass, with batches of two sizes.

What is the same in both recordings is a constant of the network. An integer that differs is ``multiple * n + offset`` in the
batch size n. Anything else that differs (a float, half the batch, another order of operators) cannot be followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from prune_gym.graph.operators import BatchCount
from prune_gym.graph.program import NESTS, FloatType, Value, leaves
from prune_gym.graph.recorder import Recording


class MismatchError(Exception):
    """Two recordings differ in a way that cannot be followed. ``position`` is the number of the call, -1 at the output."""

    def __init__(self, position: int, what: str):
        super().__init__(what)
        self.position = position


def batch_for(recording: Recording) -> int:
    """A batch size for the labelled recording: a prime p that divides no number of ``recording``, which is one with a tiny
    batch, so that what p divides counts images. p - 2 is prime as well, so that nothing but ``multiple * n + offset``
    (n // 2, n % 3, the square of n) looks like it when the batch grows from 2 to p."""
    seen = {abs(n) for n in _integers(recording) if abs(n) > 1000}
    return next(p for p in _upper_twins(1000) if not any(n % p == 0 for n in seen))


def _upper_twins(start: int) -> Iterator[int]:
    n = start
    while True:
        n += 1
        if all(n % k and (n - 2) % k for k in range(2, math.isqrt(n) + 1)):
            yield n


def _integers(recording: Recording) -> Iterator[int]:
    for shape in (*recording.shapes, *recording.named_shapes.values()):
        yield from shape
    for call in recording.calls:
        for argument in call.arguments.values():
            if type(argument) is int:
                yield argument
            elif isinstance(argument, NESTS):
                yield from (leaf for leaf in leaves(argument) if type(leaf) is int)


def follow_batch(recording: Recording, other: Recording) -> None:
    """Replace in ``recording`` every size that follows the batch by a :class:`BatchCount`, and every number type that follows the
    network's by a :class:`FloatType`, judging by the ``other`` recording of the same network. Raises :class:`MismatchError`."""

    def follow(a: Any, b: Any) -> Any:
        if type(a) is int and type(b) is int:
            multiple, rest = divmod(a - b, recording.batch - other.batch)
            offset = a - multiple * recording.batch
            if rest == 0 and abs(offset) < recording.batch:
                return BatchCount(a, multiple, offset)
        if a is recording.dtype and b is other.dtype:
            return FloatType()
        return NotImplemented

    _compare(recording, other, follow)


def compare(recording: Recording, other: Recording) -> None:
    """Raise :class:`MismatchError` unless the two recordings hold the same operators with the same arguments."""
    _compare(recording, other, lambda _a, _b: NotImplemented)


def _compare(recording: Recording, other: Recording, follow: Any) -> None:
    follows_batch = recording.batch != other.batch
    for position, (a, b) in enumerate(zip(recording.calls, other.calls, strict=False)):
        if a.func is not b.func:
            raise MismatchError(position, f"calls {a.func} instead of {b.func}")
        if a.arguments != b.arguments:
            for name, argument in a.arguments.items():
                merged = _merge(argument, b.arguments.get(name), follow)
                if merged is NotImplemented:
                    raise MismatchError(position, f"calls {a.func} with other values of {name!r}")
                a.arguments[name] = merged
        if follows_batch:
            for value in a.outputs:
                shape, expected = recording.shapes[value.index], other.shapes[value.index]
                if shape != expected:
                    merged = _merge(shape, expected, follow)
                    if merged is NotImplemented:
                        raise MismatchError(position, f"calls {a.func}, whose result has a shape that cannot be followed")
                    recording.shapes[value.index] = merged
    if len(recording.calls) != len(other.calls):
        position = min(len(recording.calls), len(other.calls))
        raise MismatchError(min(position, len(recording.calls) - 1), "calls more or fewer operators")
    for name, constant in recording.constants.items():
        if not _equal(constant, other.constants.get(name)):
            raise MismatchError(recording.first_use(name), "makes a tensor of other numbers")
    merged = _merge(recording.output, other.output, follow)
    if merged is NotImplemented:
        raise MismatchError(-1, "has another output")
    recording.output = merged


def _merge(a: Any, b: Any, follow: Any) -> Any:
    """``a``, with those leaves that are others in ``b`` replaced by what ``follow`` gives; NotImplemented if there is nothing."""
    if a is b:
        return a
    if isinstance(a, NESTS):
        if type(a) is not type(b) or len(a) != len(b):
            return NotImplemented
        pairs = [(a[key], b.get(key)) for key in a] if isinstance(a, dict) and isinstance(b, dict) else zip(a, b, strict=True)
        items = [_merge(x, y, follow) for x, y in pairs]
        if any(item is NotImplemented for item in items):
            return NotImplemented
        if isinstance(a, dict):
            return dict(zip(a, items, strict=True))
        return type(a)(*items) if hasattr(a, "_fields") else type(a)(items)
    if type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))):
        return a
    return follow(a, b) if not isinstance(a, Value) else NotImplemented


def _equal(a: Tensor, b: Tensor | None) -> bool:
    if b is None or a.shape != b.shape:
        return False
    if a.is_floating_point() and b.is_floating_point() and a.dtype != b.dtype:
        coarse = min(a.dtype, b.dtype, key=lambda dtype: torch.finfo(dtype).bits)
        a, b = a.to(coarse), b.to(coarse)
    return torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, equal_nan=True))
