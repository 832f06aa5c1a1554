"""A task: a trained network, its data, and its channel graph."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from prune_gym import models
from prune_gym.arguments import check_choice
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.datasets import digits
from prune_gym.data.datasets import load as load_data
from prune_gym.data.splits import Split, Splits
from prune_gym.files import cache_folder
from prune_gym.fingerprint import fingerprint
from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.trace import trace
from prune_gym.surgery.pruned_file import program_content
from prune_gym.surgery.slicing import named_tensors
from prune_gym.training.train import Recipe, one_thread, seeded, train
from prune_gym.training.weights import load_weights, save_weights

CALIBRATION_IMAGES = 100  # the paper's number


@dataclass(frozen=True, eq=False)
class Task:
    """What is pruned. Make one for your own network and data; :func:`load` gives the named ones, :func:`make`
    one of a network, a data set and weights.

    Attributes:
        name: for messages and file names.
        model: the trained network; it is not modified.
        train: importance is computed on its first 100 images.
        val: rewards read its accuracy.
        test: only reported.
        augmentation: random changes of the training images that leave their labels true, for post-training; None for none.

    Raises TypeError for an argument of another type, ValueError for splits whose images differ in shape or kind.
    """

    name: str
    model: nn.Module
    train: Split
    val: Split
    test: Split
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        kinds = {"name": str, "model": nn.Module, "train": Split, "val": Split, "test": Split}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name}: expected a {kind.__name__}, got {type(getattr(self, name)).__name__}.")
        if not isinstance(self.augmentation, Augmentation | None):
            raise TypeError(f"augmentation: expected an Augmentation or None, got {type(self.augmentation).__name__}.")
        for name in ("val", "test"):
            split = getattr(self, name)
            if (found := _kind(split)) != (expected := _kind(self.train)):
                raise ValueError(f"{name}: expected images like those of train, {expected}, got {found}.")

    @cached_property
    def graph(self) -> ChannelGraph:
        return trace(self.model, self.train.inputs(slice(1)))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the network's forward pass and weights, of the images and labels, and how they are augmented."""
        weights = {name: tensor.detach().cpu() for name, tensor in named_tensors(self.model, self.graph).items()}
        data: dict[str, Tensor] = {}
        kinds = []
        for part in ("train", "val", "test"):
            split: Split = getattr(self, part)
            data |= {f"{part} images": split.images.cpu(), f"{part} labels": split.labels.cpu()}
            kinds.append(str(split.normalization))
        return {
            "base network": fingerprint(json.dumps(program_content(self.graph.program.at(self.graph.full().mask))), weights),
            "data": fingerprint(" ".join(kinds), data),
            "augmentation": str(self.augmentation),
        }

    @property
    def calibration(self) -> Split:
        """The images, as the network takes them, that importance is computed on."""
        first = slice(CALIBRATION_IMAGES)
        return Split(self.train.inputs(first), self.train.labels[first])


def _kind(split: Split) -> str:
    return f"{split.images.dtype} {tuple(split.images.shape[1:])}, {split.normalization or 'as they are'}"


@dataclass(frozen=True)
class BaseTask:
    """How a named task is made: a network of :mod:`prune_gym.models`, a data set, and a training recipe."""

    network: str
    splits: Callable[[], Splits]
    recipe: Recipe


TASKS = {
    "digits": BaseTask("digits_vgg", digits, Recipe()),
    "digits-resnet": BaseTask("digits_resnet", digits, Recipe()),
    "digits-mobilenet": BaseTask("digits_mobilenet", digits, Recipe()),
}


def load(name: str, progress: bool = False) -> Task:
    """A named task; its base network is trained at the first call on a machine and read from the cache later.

    Raises ValueError for an unknown name.
    """
    check_choice("task", name, TASKS)
    key = name, cache_folder()
    if key not in _loaded:
        _loaded[key] = _load(*key, progress)
    return _loaded[key]


_loaded: dict[tuple[str, Path], Task] = {}


def _load(name: str, folder: Path, progress: bool) -> Task:
    base = TASKS[name]
    splits = base.splits()
    model = build(base.network, splits, base.recipe.seed)
    images = hashlib.blake2b(splits.train.images.numpy().tobytes(), digest_size=8).hexdigest()
    recipe = {"network": base.network, "shapes": _shapes(model), "images": images, **asdict(base.recipe)}
    digest = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()
    path = folder / f"{name}-{digest}.safetensors"
    if path.exists():
        try:
            load_weights(model, path)
        except ValueError as error:
            raise ValueError(f"{error} It is the cached base network of task {name!r}: delete it to make it anew.") from error
        model.eval()
    else:
        with one_thread():  # so that all machines start from the same network, as far as they compute alike
            train(model, splits.train, base.recipe, progress, f"training {base.network} once")
        save_weights(path, model, recipe)
    return Task(name, model, splits.train, splits.val, splits.test, splits.augmentation)


def build(network: str, splits: Splits, seed: int = 0) -> nn.Module:
    """The network that :func:`prune_gym.models.create` knows by this name, made for a data set, with fresh weights from
    ``seed``. Raises ValueError for an unknown network, and for images that it cannot take."""
    images = splits.train.inputs(slice(1))
    with seeded(seed, torch.device("cpu")):
        model = models.create(network, num_classes=splits.classes, in_channels=images.shape[1])
    try:
        with torch.inference_mode():
            model.eval()(images)
    except RuntimeError as error:
        raise ValueError(f"network: {network!r} cannot take images of shape {tuple(images.shape[1:])} ({error}).") from error
    return model


def make(network: str, data: str, weights: str | Path | None = None, download: bool = False) -> Task:
    """A task of any network on any data set, with weights that are there already.

    Args:
        network: a name that :func:`prune_gym.models.create` knows.
        data: a name that :func:`prune_gym.data.datasets.load` knows.
        weights: a safetensors file for this network, see :func:`prune_gym.training.weights.load_weights`;
            ``scripts/train_base.py`` makes one.
        download: whether a data set that is not there may be downloaded.

    Raises ValueError for an unknown name, weights that do not fit, and if no weights are given; FileNotFoundError for a file
    that is not there.
    """
    if weights is None:
        raise ValueError(
            f"weights: expected a safetensors file with weights of {network!r} for {data!r}; make one with: python "
            f"scripts/train_base.py --network {network} --data {shlex.quote(data)} --out weights.safetensors"
        )
    splits = load_data(data, download)
    model = build(network, splits)
    load_weights(model, weights)
    name = f"{network}-{Path(data.partition(':')[2]).stem or data}".replace("/", "-")
    return Task(name, model.eval(), splits.train, splits.val, splits.test, splits.augmentation)


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
