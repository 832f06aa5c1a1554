"""Tensors and a text about them in one safetensors file, with a digest of both. Nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from prune_gym.files import parse_json, write_atomically
from prune_gym.fingerprint import fingerprint

TEXT, DIGEST = "recipe", "digest"  # in the header


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, among them buffers that are not part of ``state_dict()``."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def write_tensors(path: Path, header: str, text: str, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, which may be on any device, and a text under the name of a ``header``, atomically. Raises OSError if the
    file cannot be written."""
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # one entry, as safetensors writes several in an order that changes from run to run
    write_atomically(path, save(copies, {header: json.dumps({TEXT: text, DIGEST: fingerprint(text, copies)})}))


def read_tensors(path: Path, header: str) -> tuple[str | None, dict[str, Tensor], bool]:
    """The text, None in a file without that header, the tensors, and whether both are what was written, as far as is known.

    Raises ValueError, which does not name the file, for what is no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get(header)
            # clones, as get_tensor gives windows on the file, which may change; and keys(), as it is not a dict
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if found is None:
            return None, tensors, True
        about = parse_json(found)
        return about[TEXT], tensors, about[DIGEST] == fingerprint(about[TEXT], tensors)
    except (SafetensorError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(str(error)) from error
