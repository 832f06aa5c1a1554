"""Weights of a network as a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prune_gym.files import as_path, to_json
from prune_gym.training.tensor_file import read_tensors, write_tensors

HEADER = "prune_gym_weights"
MAX_LISTED = 3  # as many tensors are named in an error; the others are counted


def save_weights(path: str | Path, model: nn.Module, recipe: Mapping[str, Any]) -> None:
    """Write the weights of ``model``, atomically, with ``recipe``, any JSON object that says how they were made.

    The file also holds a digest of both, so that :func:`load_weights` notices a single wrong bit.

    Raises TypeError for arguments of another type and for a ``recipe`` that JSON cannot hold, ValueError for numbers in it that
    are not finite, OSError if the file cannot be written.
    """
    path = as_path("path", path)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
    if not isinstance(recipe, Mapping):
        raise TypeError(f"recipe: expected a JSON object (a dict), got {type(recipe).__name__}.")
    made = json.dumps(json.loads(to_json("recipe", dict(recipe))), sort_keys=True)
    write_tensors(path, HEADER, made, model.state_dict())


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read weights from a safetensors file into ``model``, which stays on its device and in its mode.

    The file may be anyone's: it has to hold every tensor of ``model.state_dict()``, by name and shape, and no other. Only
    the counters ``num_batches_tracked``, which no network reads in evaluation mode, may be missing, as some files leave them out;
    then they stay as they are. Files of :func:`save_weights` are checked against their digest.

    Raises TypeError for arguments of another type, FileNotFoundError, or ValueError for a damaged file, for one that is not
    safetensors (a pickled ``.pth`` for example, which is not opened), and for tensors that do not fit; ``model`` is then
    unchanged.
    """
    path = as_path("path", path)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a safetensors file of weights.")
    try:
        _, tensors, intact = read_tensors(path, HEADER)
    except ValueError as error:
        raise ValueError(
            f"{path}: damaged, or not a safetensors file ({error}); a .pth file of tensors becomes one with "
            "safetensors.torch.save_file(torch.load('file.pth', weights_only=True), 'file.safetensors')."
        ) from error
    if not intact:
        raise ValueError(f"{path}: damaged (its content is not what was saved); make it again.")
    _check_fit(path, model.state_dict(), tensors)
    model.load_state_dict(tensors, strict=False)  # what may be missing was checked


def _check_fit(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing = [name for name in expected if name not in found and not name.endswith("num_batches_tracked")]
    unexpected = sorted(found.keys() - expected.keys())
    unlike = [
        f"{name} ({_describe(found[name])} instead of {_describe(tensor)})"
        for name, tensor in expected.items()
        if name in found and _describe(found[name]) != _describe(tensor)
    ]
    problems = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape or kind", unlike))
        if names
    ]
    if problems:
        raise ValueError(
            f"{path}: expected the {len(expected)} tensors of the network, but of those in the file there are "
            f"{'; '.join(problems)}. Are they weights of this network, with as many classes?"
        )


def _describe(tensor: Tensor) -> str:
    return f"{'floating-point' if tensor.is_floating_point() else 'integer'} {tuple(tensor.shape)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")
