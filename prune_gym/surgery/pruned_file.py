"""Pruned networks as files: tensors in safetensors, the program as JSON in its header. No pickle, and no code of the model.

``load_pruned`` rebuilds the network from the file alone, and trusts nothing in it. The program may call only operators on a
closed list, with arguments of the right types (:mod:`prune_gym.surgery.admission`), and it is rehearsed on the meta device
within a limit of memory before the network is handed out (:mod:`prune_gym.surgery.rehearsal`). So loading and running a file
from a stranger computes with tensors and does nothing else. What the network computes is the stranger's choice.

The digest in a file finds accidental damage. It proves nothing about who wrote the file, as whoever writes one writes the
digest too.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prune_gym.arguments import check_integer
from prune_gym.files import as_path, parse_json, to_json, write_atomically
from prune_gym.fingerprint import fingerprint
from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.program import Named, Program, leaves
from prune_gym.surgery.admission import DTYPES
from prune_gym.surgery.compact import program_form
from prune_gym.surgery.program_json import PrunedFileError, TooManyError, decode_program, program_content
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.surgery.rehearsal import TooLargeError, rehearse
from prune_gym.surgery.slicing import named_tensors

FORMAT = "prune_gym network 2"
MAX_ELEMENTS = 2**28  # 1 GiB in float32
MAX_NODES = 20_000
MAX_HEADER = 2**24  # characters of JSON
MAX_DEPTH = 64  # modules in modules


def save_pruned(path: str | Path, network: nn.Module, info: Mapping[str, Any] | None = None) -> None:
    """Write ``network`` (from :func:`prune_gym.compact`, in either form) to one safetensors file, atomically.

    ``info`` is any JSON object to keep beside it; :func:`pruned_info` reads it back.

    Raises TypeError for arguments of another type, ValueError for ``info`` with numbers that are not finite and for a network
    that :func:`load_pruned` refuses, because of an operator, an argument or the sizes of its inputs, OSError if the file cannot
    be written. A file that was there is then left as it was. A network beyond the limits that :func:`load_pruned` has by default
    is written with a warning that says how to raise them.
    """
    write_atomically(as_path("path", path), pruned_bytes(network, info))


def check_savable(model: nn.Module, graph: ChannelGraph) -> None:
    """Raise ValueError, with the reason, if :func:`save_pruned` refuses all networks that are pruned from ``model``, from which
    ``graph`` was traced: to be asked before work that takes long is done for one of them. They call the same operators at every
    width."""
    tensors, program = named_tensors(model, graph), graph.program.at(graph.full().mask)
    try:
        decoded = decode_program(json.loads(json.dumps(program_content(program))), len(program.nodes))
        rehearse(decoded, tensors, sys.maxsize)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model: what is pruned from it cannot be saved, as {error}.") from error


def pruned_bytes(network: nn.Module, info: Mapping[str, Any] | None = None) -> bytes:
    """The content of the file that :func:`save_pruned` writes."""
    network = program_form(network)
    if not isinstance(info, Mapping | None):
        raise TypeError(f"info: expected a JSON object (a dict) or None, got {type(info).__name__}.")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(network).items()}
    content = {
        "format": FORMAT,
        **program_content(network.program),
        "parameters": [name for name, _ in network.named_parameters()],
        "frozen": [name for name, parameter in network.named_parameters() if not parameter.requires_grad],
        "buffers": [name for name, _ in network.named_buffers()],
        "transient": sorted(tensors.keys() - network.state_dict().keys()),
        "info": json.loads(to_json("info", dict(info or {}))),
    }
    header = json.loads(json.dumps(content, allow_nan=False))  # as it will be read
    header["digest"] = _digest(header, tensors)
    text = json.dumps(header, allow_nan=False)
    calls = len(network.program.nodes)
    try:
        program, _ = _build(header, tensors, max(calls, MAX_NODES))
        elements = rehearse(program, tensors, sys.maxsize)
        if len(text) > MAX_HEADER:
            raise PrunedFileError(f"its program and info take {len(text)} characters, more than {MAX_HEADER}")
    except ValueError as error:
        raise ValueError(f"network: it cannot be saved, as {error}.") from error
    for limit, needed, default in (("max_nodes", calls, MAX_NODES), ("max_elements", elements, MAX_ELEMENTS)):
        if needed > default:
            warnings.warn(
                f"network: it goes beyond a limit of load_pruned, {limit}={default}; load it with {limit}={needed}.",
                UserWarning,
                stacklevel=3,
            )
    return save(tensors, {"prune_gym": text})


def load_pruned(path: str | Path, max_elements: int = MAX_ELEMENTS, max_nodes: int = MAX_NODES) -> PrunedNetwork:
    """The network in a file of :func:`save_pruned`, in evaluation mode, on the CPU.

    ``max_elements`` is how many elements the results of its operators, and the unfolded inputs of its convolutions, may hold
    at once, per image of a batch; the default is 1 GiB in float32. The weights do not count, as the file holds as many.
    ``max_nodes`` is how many operators it may call. Raise them for a network that you trust and that is larger.

    Raises TypeError for a path of another type, FileNotFoundError, or :class:`PrunedFileError` (a ValueError) that says what
    is wrong with the file.
    """
    check_integer("max_elements", max_elements, 1)
    check_integer("max_nodes", max_nodes, 1)
    path = as_path("path", path)
    header, tensors = _read(path)
    try:
        program, network = _build(header, tensors, max_nodes)
        rehearse(program, tensors, max_elements)
    except (TooLargeError, TooManyError) as error:
        raise PrunedFileError(f"{path}: {error}; raise the limit if you trust the file.") from error
    except ValueError as error:
        raise PrunedFileError(f"{path}: expected a pruned network, but {error}; save it again with save_pruned.") from error
    return network.eval()


def pruned_info(path: str | Path) -> dict[str, Any]:
    """The ``info`` that was saved with a network. Raises like :func:`load_pruned`."""
    path = as_path("path", path)
    info = _read(path)[0].get("info")
    if not isinstance(info, dict):
        raise PrunedFileError(f"{path}: expected an object as its info, got {type(info).__name__}.")
    return info


def _build(header: Mapping[str, Any], tensors: Mapping[str, Tensor], max_nodes: int) -> tuple[Program, PrunedNetwork]:
    """Raises :class:`PrunedFileError` for a header that does not describe a network with these tensors."""
    try:
        program = decode_program(header, max_nodes)
        parameters, buffers, frozen, transient = (_names(header[key]) for key in ("parameters", "buffers", "frozen", "transient"))
        names = {*parameters, *buffers}
        used = leaves([program.output, *([node.args, node.kwargs] for node in program.nodes)])
        missing = (names - tensors.keys()) | ({leaf.name for leaf in used if isinstance(leaf, Named)} - names)
        if missing:
            raise PrunedFileError(f"the tensor {min(missing)!r} is missing")
        _check_names(names, len(parameters) + len(buffers), max_nodes)
        if strangers := tensors.keys() - names:
            raise PrunedFileError(f"the tensor {min(strangers)!r} is neither a parameter nor a buffer")
        if not {*frozen} <= {*parameters} or not {*transient} <= {*buffers}:
            raise PrunedFileError("it freezes what is no parameter, or leaves out of its state what is no buffer")
        network = PrunedNetwork(
            program,
            {name: nn.Parameter(tensors[name], name not in frozen) for name in parameters},
            {name: tensors[name] for name in buffers},
            transient,
        )
    except PrunedFileError:
        raise
    except Exception as error:  # whatever Python raises for content of another form
        raise PrunedFileError(f"its header is malformed ({type(error).__name__}: {str(error)[:200]})") from error
    return program, network


def _names(content: Any) -> dict[str, None]:
    """A list of names, in its order, as keys: fast to look up."""
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise PrunedFileError("its names of tensors are not a list of text")
    if len(set(content)) < len(content):
        raise PrunedFileError("it names a tensor twice")
    return dict.fromkeys(content)


def _check_names(names: Iterable[str], count: int, max_nodes: int) -> None:
    """Names are paths of modules, and modules take memory."""
    names = set(names)
    if len(names) < count:
        raise PrunedFileError("a tensor is both a parameter and a buffer")
    modules: set[str] = set()
    for name in names:
        parts = name.split(".")
        if len(parts) > MAX_DEPTH or not all(parts):
            raise PrunedFileError(f"{name[:100]!r} is no name of a tensor")
        modules.update(".".join(parts[:i]) for i in range(1, len(parts)))
        if len(modules) > 10 * max_nodes:
            raise TooManyError(f"its tensors lie in more than {10 * max_nodes} modules, too many for max_nodes={max_nodes}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("prune_gym")
            if text is None:
                raise PrunedFileError(f"{path}: this safetensors file was not written by save_pruned.")
            if len(text) > MAX_HEADER:
                raise PrunedFileError(f"{path}: expected a header of at most {MAX_HEADER} characters, got {len(text)}.")
            # clones, as get_tensor gives windows on the file, which may change; and keys(), as it is not a dict
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except PrunedFileError:
        raise
    except (SafetensorError, ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        raise PrunedFileError(f"{path}: damaged, or not a safetensors file ({error}).") from error
    try:
        header = parse_json(text)
    except ValueError as error:
        raise PrunedFileError(f"{path}: damaged, its header is no JSON object ({error}).") from error
    if header.get("format") != FORMAT:
        raise PrunedFileError(f"{path}: expected format {FORMAT!r}, got {header.get('format')!r}.")
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise PrunedFileError(f"{path}: the tensor {name!r} is of the type {tensor.dtype}, which no pruned network holds.")
    if header.get("digest") != _digest(header, tensors):
        raise PrunedFileError(f"{path}: damaged (its content is not what was saved).")
    return header, tensors


def _tensors(network: PrunedNetwork) -> dict[str, Tensor]:
    return dict([*network.named_parameters(), *network.named_buffers()])


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """A fingerprint of everything in the file but the fingerprint."""
    content = json.dumps({key: value for key, value in header.items() if key != "digest"})
    return fingerprint(content, tensors)
