"""A program from a file is rehearsed before it runs: on the meta device, where tensors have shapes and types but no memory.

The rehearsal finds sizes that do not fit each other, arguments that an operator refuses, and a program that would need more
memory than its limit, and it costs no memory itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from prune_gym.graph.program import (
    BatchSize,
    FloatType,
    Named,
    Node,
    Program,
    Training,
    Value,
    last_uses,
    map_argument,
    operator,
    takes_device,
)
from prune_gym.surgery.admission import check_tensors

BATCHES = (1, 64)  # with one size alone, a program that squares the number of images would look harmless
IMAGE_SIZES = (64, 224, 32, 8, 512)  # tried in turn where a program takes any


class TooLargeError(ValueError):
    """The program needs more memory than the limit."""


def rehearse(program: Program, tensors: Mapping[str, Tensor], max_elements: int) -> int:
    """How many elements the results of a program and the unfolded inputs of its convolutions hold at once, per image.
    ``tensors`` are the network's own; only their shapes and types are read.

    Raises :class:`TooLargeError` if these are more than ``max_elements``, ValueError if the program cannot run on inputs of its
    shapes.

    Where the program takes any image size, it must run on one of :data:`IMAGE_SIZES`. It must run on inputs of one of the
    floating-point types of its tensors, or on integers, such as the indices of an embedding.
    """
    metas = {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in tensors.items()}
    held = dict.fromkeys(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    kinds = [*([program.dtype] if program.dtype else held or [torch.float32]), torch.int64]
    is_free = any(size is None for sizes in program.shapes for size in sizes[1:])
    error: Exception | None = None
    for size, kind in product(IMAGE_SIZES if is_free else (1,), kinds):
        needed = 0
        try:
            for images in BATCHES:
                shapes = [
                    [images if n is None else n for n in sizes[:1]] + [size if n is None else n for n in sizes[1:]]
                    for sizes in program.shapes
                ]
                inputs = [torch.empty(shape, dtype=kind, device="meta") for shape in shapes]
                needed = max(needed, -(-_run(program, metas, inputs, max_elements * images) // images))
            return needed
        except TooLargeError:
            raise
        except Exception as problem:  # meta kernels are written in Python, and raise whatever Python raises
            error = error or problem
    assert error is not None
    raise ValueError(f"it does not run on inputs of its shapes ({type(error).__name__}: {str(error)[:500]})") from error


@torch.no_grad()
def _run(program: Program, tensors: Mapping[str, Tensor], inputs: list[Tensor], limit: int) -> int:
    """How many elements it holds at once. Raises :class:`TooLargeError` for more than ``limit``."""
    values: dict[int, Tensor] = dict(enumerate(inputs))
    images, floating = inputs[0].shape[0], next((x.dtype for x in (*inputs, *tensors.values()) if x.is_floating_point()), None)

    def look_up(leaf: Any) -> Any:
        match leaf:
            case Value(index):
                return values[index]
            case Named(name):
                return tensors[name]
            case BatchSize(multiple, offset):
                return multiple * images + offset
            case FloatType():
                return floating
            case Training():
                return False
        return leaf

    alive = most = 0
    for node, dying in zip(program.nodes, last_uses(program), strict=True):
        args, kwargs = map_argument(look_up, (node.args, node.kwargs))
        made = _call(node, args, kwargs)
        alive += sum(tensor.numel() for tensor in made.values())
        most = max(most, alive + _unfolded(node, args, made))
        if most > limit:
            raise TooLargeError(
                f"at {node.op!r} it holds {most} elements at once for a batch of {images}, more than "
                f"max_elements={limit // images} per image"
            )
        values |= made
        for index in dying:
            if index >= program.inputs:
                alive -= values[index].numel()
            del values[index]
    return most


def _call(node: Node, args: list[Any], kwargs: dict[str, Any]) -> dict[int, Tensor]:
    """The results of a node on the meta device, by their numbers."""
    call = operator(node.op)
    check_tensors(node.op, args, kwargs)
    result = call(*args, **kwargs, device="meta") if takes_device(call) else call(*args, **kwargs)
    indices, results = ((node.outputs,), (result,)) if isinstance(node.outputs, int) else (node.outputs, tuple(result))
    if len(indices) != len(results) or not all(isinstance(tensor, Tensor) for tensor in results):
        raise ValueError(f"{node.op!r} does not return {len(indices)} tensors")
    return dict(zip(indices, results, strict=True))


def _unfolded(node: Node, args: list[Any], made: Mapping[int, Tensor]) -> int:
    """How many elements a convolution may need for its input, every window laid out on its own."""
    if "conv" not in node.op:
        return 0
    x, weight = args[:2]
    (result,) = made.values()
    transposed = "transpose" in node.op or (node.op == "aten.convolution.default" and args[6])
    windows = x.numel() // max(weight.shape[0], 1) if transposed else result.numel() // max(weight.shape[0], 1)
    channels = result.shape[-weight.ndim + 1] if transposed else x.shape[-weight.ndim + 1]
    return windows * channels * prod(weight.shape[2:])
