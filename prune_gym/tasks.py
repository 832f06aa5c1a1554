"""A task: a trained network, its data, and its channel graph."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from prune_gym import data, models
from prune_gym.evaluation import Split
from prune_gym.files import write_atomically
from prune_gym.graph import ChannelGraph
from prune_gym.names import unknown
from prune_gym.trace import trace
from prune_gym.training import Recipe, train

CALIBRATION_IMAGES = 100  # the paper's number


@dataclass(frozen=True, eq=False)
class Task:
    """What is pruned. Make one for your own network and data; :func:`load` makes the named ones.

    Attributes:
        name: for messages and file names.
        model: the trained network; it is not modified.
        train: importance is computed on its first 100 images.
        val: rewards read its accuracy.
        test: only reported.
    """

    name: str
    model: nn.Module
    train: Split
    val: Split
    test: Split

    @cached_property
    def graph(self) -> ChannelGraph:
        return trace(self.model, self.train.images[:1])

    @property
    def calibration(self) -> Split:
        return Split(self.train.images[:CALIBRATION_IMAGES], self.train.labels[:CALIBRATION_IMAGES])


@dataclass(frozen=True)
class BaseTask:
    """How a named task is made: a network of :mod:`prune_gym.models`, a data set, and a training recipe."""

    network: str
    splits: Callable[[], data.Splits]
    recipe: Recipe


TASKS = {
    "digits": BaseTask("digits_vgg", data.digits, Recipe()),
    "digits-resnet": BaseTask("digits_resnet", data.digits, Recipe()),
    "digits-mobilenet": BaseTask("digits_mobilenet", data.digits, Recipe()),
}


def cache_folder() -> Path:
    """Where base networks are kept: ``$PRUNE_GYM_CACHE``, else ``prune_gym`` in the user's cache folder."""
    chosen = os.environ.get("PRUNE_GYM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "prune_gym"
    return Path(chosen).expanduser()


def load(name: str, progress: bool = False) -> Task:
    """A named task; its base network is trained at the first call on a machine and read from the cache later.

    Raises ValueError for an unknown name.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    key = name, cache_folder()
    if key not in _loaded:
        _loaded[key] = _load(*key, progress)
    return _loaded[key]


_loaded: dict[tuple[str, Path], Task] = {}


def _load(name: str, folder: Path, progress: bool) -> Task:
    base = TASKS[name]
    splits = base.splits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(base.recipe.seed)
        channels, classes = splits.train.images.shape[1], int(splits.train.labels.max()) + 1
        model = models.create(base.network, num_classes=classes, in_channels=channels)
    images = hashlib.blake2b(splits.train.images.numpy().tobytes(), digest_size=8).hexdigest()
    what = {"network": base.network, "shapes": _shapes(model), "images": images, **asdict(base.recipe)}
    recipe = json.dumps(what, sort_keys=True)
    path = folder / f"{name}-{hashlib.blake2b(recipe.encode(), digest_size=8).hexdigest()}.safetensors"
    if path.exists():
        try:
            model.load_state_dict(load_tensors(path.read_bytes()))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{path}: the cached base network of task {name!r} is damaged ({error}); delete the file."
            ) from error
        model.eval()
    else:
        train(model, splits.train, base.recipe, progress, f"training {base.network} once")
        write_atomically(path, save_tensors(model.state_dict(), {"recipe": recipe}))
    return Task(name, model, splits.train, splits.val, splits.test)


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
