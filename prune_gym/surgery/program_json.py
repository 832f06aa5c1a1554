"""Programs as JSON: what a pruned file holds of a network beside its tensors.

:func:`decode_program` takes nothing for granted. It builds a program only of what :func:`program_content` writes, of operators
that :mod:`prune_gym.surgery.admission` admits, with arguments of the types that their schemas ask for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import torch

from prune_gym.graph.program import BatchSize, FloatType, Named, Node, Program, Training, Value, leaves
from prune_gym.surgery.admission import DTYPES, check_call

MAX_INPUTS = 1024
MAX_NESTING = 32  # lists in lists, of an argument or of the output
UNINITIALISED = {  # what a file holds instead, so that no network shows what lay in memory before
    "aten.empty.memory_format": "aten.zeros.default",
    "aten.empty_like.default": "aten.zeros_like.default",
    "aten.new_empty.default": "aten.new_zeros.default",
}


class PrunedFileError(ValueError):
    """The file is damaged, or not a pruned network of this project, or larger than the limits that were set."""


class TooManyError(PrunedFileError):
    """The file goes beyond a limit that can be raised."""


def program_content(program: Program) -> dict[str, Any]:
    """A program at given widths as what JSON can hold. Raises TypeError for an argument that it cannot."""
    nodes = [
        [UNINITIALISED.get(node.op, node.op), _encode(node.args), _encode(node.kwargs), node.outputs] for node in program.nodes
    ]
    return {
        "inputs": program.inputs,
        "nodes": nodes,
        "output": _encode(program.output),
        "shapes": [list(sizes) for sizes in program.shapes],
        "dtype": _encode(program.dtype),
        "names": list(program.names),
    }


def decode_program(content: Mapping[str, Any], max_nodes: int) -> Program:
    """The program of a header. Raises :class:`PrunedFileError` for what :func:`program_content` does not write, for an operator
    that is not admitted, for more than ``max_nodes`` calls, and for a value that is used before it is computed."""
    inputs, nodes = content["inputs"], content["nodes"]
    if type(inputs) is not int or not 1 <= inputs <= MAX_INPUTS:
        raise PrunedFileError(f"it has {inputs!r} inputs")
    if not isinstance(nodes, list):
        raise PrunedFileError(f"its nodes are of type {type(nodes).__name__}")
    if len(nodes) > max_nodes:
        raise TooManyError(f"it makes {len(nodes)} calls, more than max_nodes={max_nodes}")
    available = inputs
    decoded = []
    for entry in nodes:
        node = _decode_node(entry)
        _check_values(node.arguments(), available)
        for index in node.outputs if isinstance(node.outputs, tuple) else (node.outputs,):
            if type(index) is not int or index != available:
                raise PrunedFileError(f"the results of {node.op!r} are numbered wrongly")
            available += 1
        decoded.append(node)
    names = {node.op.split(".")[1] for node in decoded}
    if "squeeze" in names and any(name.startswith("_fft_") for name in names):
        raise PrunedFileError("it squeezes dimensions and transforms others, whose numbers could then depend on the batch")
    output = _decode(content["output"])
    _check_values(leaves(output), available)
    shapes, dtype = _decode_shapes(content["shapes"], inputs), _decode_dtype(content["dtype"])
    return Program(inputs, tuple(decoded), output, shapes, dtype, _decode_names(content.get("names", []), inputs))


def _decode_node(entry: Any) -> Node:
    op, args, kwargs, outputs = entry
    node = Node(op, _decode(args), _decode(kwargs), tuple(outputs) if isinstance(outputs, list) else outputs)
    if not isinstance(node.args, list) or not isinstance(node.kwargs, dict):
        raise PrunedFileError(f"the arguments of {op!r} are not a list and a dict")
    try:
        check_call(node)
    except ValueError as error:
        raise PrunedFileError(str(error)) from None
    return node


def _decode_shapes(shapes: Any, inputs: int) -> tuple[tuple[int | None, ...], ...]:
    def is_size(size: Any) -> bool:
        return size is None or (type(size) is int and 0 <= size < 2**31)

    if not isinstance(shapes, list) or len(shapes) != inputs:
        raise PrunedFileError(f"it gives no shape for each of its {inputs} inputs")
    if not all(isinstance(sizes, list) and 1 <= len(sizes) <= MAX_NESTING and all(map(is_size, sizes)) for sizes in shapes):
        raise PrunedFileError(f"its input shapes are {shapes!r}")
    return tuple(map(tuple, shapes))


def _decode_dtype(content: Any) -> torch.dtype | None:
    dtype = _decode(content)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise PrunedFileError(f"its number type is {content!r}")
    return dtype


def _decode_names(names: Any, inputs: int) -> tuple[str, ...]:
    """Files of earlier versions give none."""
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not are_names or len(names) not in (0, inputs) or len(set(names)) < len(names):
        raise PrunedFileError(f"it calls its {inputs} inputs {str(names)[:200]}")
    return tuple(names)


def _check_values(arguments: Iterable[Any], available: int) -> None:
    for leaf in arguments:
        if isinstance(leaf, Value) and not 0 <= leaf.index < available:
            raise PrunedFileError(f"a value ({leaf.index}) is used before it is computed")


# -------------------------------------------------------------------------------------------------------- arguments


def _encode(argument: Any) -> Any:
    match argument:
        case list():
            return [_encode(item) for item in argument]
        case tuple():
            return {"tuple": [_encode(item) for item in argument]}
        case dict():
            return {"dict": {key: _encode(item) for key, item in argument.items()}}
        case Value(index):
            return {"value": index}
        case Named(name):
            return {"tensor": name}
        case BatchSize(multiple, offset):
            return {"batch": [multiple, offset]}
        case FloatType():
            return {"float type": True}
        case Training():
            return {"training": True}
        case torch.dtype():
            return {"dtype": str(argument).removeprefix("torch.")}
        case float() if not isfinite(argument):
            return {"float": str(argument)}  # JSON has no word for these
        case None | bool() | int() | float() | str():
            return argument
        case _:
            raise TypeError(f"network: cannot save the argument {argument!r} of type {type(argument).__name__}.")


def _decode(argument: Any, depth: int = 0) -> Any:
    if depth > MAX_NESTING:
        raise PrunedFileError(f"an argument is nested more than {MAX_NESTING} times")
    if isinstance(argument, list):
        return [_decode(item, depth + 1) for item in argument]
    if not isinstance(argument, dict):
        return argument
    if len(argument) == 1:
        ((kind, content),) = argument.items()
        match kind, content:
            case "tuple", list():
                return tuple(_decode(item, depth + 1) for item in content)
            case "dict", dict():
                return {key: _decode(item, depth + 1) for key, item in content.items()}
            case "value", int() if type(content) is int:
                return Value(content)
            case "tensor", str():
                return Named(content)
            case "batch", [int(multiple), int(offset)] if type(multiple) is type(offset) is int:
                return BatchSize(multiple, offset)
            case "float type", True:
                return FloatType()
            case "training", True:
                return Training()
            case "dtype", str() if content in DTYPES:
                return DTYPES[content]
            case "float", "nan" | "inf" | "-inf":
                return float(content)
    raise PrunedFileError(f"the argument {str(argument)[:200]} is not one that save_pruned writes")
