"""Pruned networks as files: tensors in safetensors, the program as JSON in its header. No pickle, and no code of the model.

``load_pruned`` rebuilds the network from the file alone. A file can only name operators that tracing knows, so loading and
running a file from a stranger computes with tensors and does nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prune_gym.files import write_atomically
from prune_gym.fingerprint import fingerprint
from prune_gym.graph.operators import is_known
from prune_gym.graph.program import BatchSize, Named, Node, Program, Training, Value, leaves
from prune_gym.surgery.compact import program_form
from prune_gym.surgery.pruned_network import PrunedNetwork

FORMAT = "prune_gym network 1"


class PrunedFileError(ValueError):
    """The file is damaged, or not a pruned network of this project."""


def save_pruned(path: str | Path, network: nn.Module, info: Mapping[str, Any] | None = None) -> None:
    """Write ``network`` (from :func:`prune_gym.compact`, in either form) to one safetensors file, atomically.

    ``info`` is any JSON object to keep beside it; :func:`pruned_info` reads it back.
    """
    write_atomically(Path(path), pruned_bytes(network, info))


def pruned_bytes(network: nn.Module, info: Mapping[str, Any] | None = None) -> bytes:
    """The content of the file that :func:`save_pruned` writes."""
    network = program_form(network)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(network).items()}
    content = {
        "format": FORMAT,
        **program_content(network.program),
        "parameters": [name for name, _ in network.named_parameters()],
        "frozen": [name for name, parameter in network.named_parameters() if not parameter.requires_grad],
        "buffers": [name for name, _ in network.named_buffers()],
        "transient": sorted(tensors.keys() - network.state_dict().keys()),
        "info": dict(info or {}),
    }
    header = json.loads(json.dumps(content))  # as it will be read
    header["digest"] = _digest(header, tensors)
    return save(tensors, {"prune_gym": json.dumps(header)})


def program_content(program: Program) -> dict[str, Any]:
    """A program at given widths as what JSON can hold."""
    nodes = [[node.op, _encode(node.args), _encode(node.kwargs), node.outputs] for node in program.nodes]
    return {"inputs": program.inputs, "nodes": nodes, "output": _encode(program.output)}


def load_pruned(path: str | Path) -> PrunedNetwork:
    """The network in a file of :func:`save_pruned`, in evaluation mode, on the CPU.

    Raises FileNotFoundError, or :class:`PrunedFileError` (a ValueError) that says what is wrong with the file.
    """
    header, tensors = _read(Path(path))
    try:
        program = _decode_program(header)
        names = {*header["parameters"], *header["buffers"]}
        used = leaves([program.output, *([node.args, node.kwargs] for node in program.nodes)])
        missing = (names - tensors.keys()) | ({leaf.name for leaf in used if isinstance(leaf, Named)} - names)
        if missing:
            raise PrunedFileError(f"the tensor {min(missing)!r} is missing")
        parameters = {name: nn.Parameter(tensors[name], name not in header["frozen"]) for name in header["parameters"]}
        buffers = {name: tensors[name] for name in header["buffers"]}
        return PrunedNetwork(program, parameters, buffers, set(header["transient"])).eval()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise PrunedFileError(
            f"{path}: expected a pruned network, but {_reason(error)}; save it again with save_pruned."
        ) from error


def pruned_info(path: str | Path) -> dict[str, Any]:
    """The ``info`` that was saved with a network. Raises like :func:`load_pruned`."""
    return _read(Path(path))[0].get("info", {})


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, PrunedFileError) else f"its header is malformed ({type(error).__name__}: {error})"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["prune_gym"])
            # clones, as get_tensor gives windows on the file, which may change; and keys(), as it is not a dict
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        digest = _digest(header, tensors) if isinstance(header, dict) else ""
    except KeyError:
        raise PrunedFileError(f"{path}: this safetensors file was not written by save_pruned.") from None
    except (SafetensorError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise PrunedFileError(f"{path}: damaged, or not a safetensors file ({error}).") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else header
        raise PrunedFileError(f"{path}: expected format {FORMAT!r}, got {found!r}.")
    if header.get("digest") != digest:
        raise PrunedFileError(f"{path}: damaged (its content is not what was saved).")
    return header, tensors


def _tensors(network: PrunedNetwork) -> dict[str, Tensor]:
    return dict([*network.named_parameters(), *network.named_buffers()])


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """A fingerprint of everything in the file but the fingerprint."""
    content = json.dumps({key: value for key, value in header.items() if key != "digest"})
    return fingerprint(content, tensors)


# ------------------------------------------------------------------------------------------ arguments as JSON


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
        case BatchSize(multiple):
            return {"batch": multiple}
        case Training():
            return {"training": True}
        case torch.dtype() | torch.memory_format():
            return {"torch": str(argument).removeprefix("torch.")}
        case None | bool() | int() | float() | str():
            return argument
        case _:
            raise TypeError(f"network: cannot save the argument {argument!r} of type {type(argument).__name__}.")


def _decode(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_decode(item) for item in argument]
    if not isinstance(argument, dict):
        return argument
    if len(argument) != 1:
        raise PrunedFileError(f"the argument {argument!r} is not one that save_pruned writes")
    ((kind, content),) = argument.items()
    match kind, content:
        case "tuple", list():
            return tuple(_decode(item) for item in content)
        case "dict", dict():
            return {key: _decode(item) for key, item in content.items()}
        case "value", int():
            return Value(content)
        case "tensor", str():
            return Named(content)
        case "batch", int():
            return BatchSize(content)
        case "training", True:
            return Training()
        case "torch", str():
            found = vars(torch).get(content)
            if isinstance(found, torch.dtype | torch.memory_format):
                return found
    raise PrunedFileError(f"the argument {argument!r} is not one that save_pruned writes")


def _decode_program(header: Mapping[str, Any]) -> Program:
    """The program of a header, every operator checked to be known and every value to be there before it is used."""
    inputs = header["inputs"]
    if not isinstance(inputs, int) or inputs < 1:
        raise PrunedFileError(f"it has {inputs!r} inputs")
    available = inputs
    nodes = []
    for op, args, kwargs, outputs in header["nodes"]:
        if not isinstance(op, str) or not is_known(op):
            raise PrunedFileError(f"it calls {op!r}, which is not an operator that pruned networks use")
        node = Node(op, _decode(args), _decode(kwargs), tuple(outputs) if isinstance(outputs, list) else outputs)
        if not isinstance(node.args, list) or not isinstance(node.kwargs, dict):
            raise PrunedFileError(f"the arguments of {op!r} are not a list and a dict")
        _check_values(node.arguments(), available)
        for index in node.outputs if isinstance(node.outputs, tuple) else (node.outputs,):
            if type(index) is not int or index != available:
                raise PrunedFileError(f"the results of {op!r} are numbered wrongly")
            available += 1
        nodes.append(node)
    output = _decode(header["output"])
    _check_values(leaves(output), available)
    return Program(inputs, tuple(nodes), output)


def _check_values(arguments: Iterable[Any], available: int) -> None:
    for leaf in arguments:
        if isinstance(leaf, Value) and not 0 <= leaf.index < available:
            raise PrunedFileError(f"a value ({leaf.index}) is used before it is computed")
