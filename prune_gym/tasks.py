"""A task: a trained network, its images, and its channel graph."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from prune_gym import base_networks, models
from prune_gym.arguments import check_choice, check_integer
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.datasets import digits
from prune_gym.data.datasets import load as load_data
from prune_gym.data.splits import Split, Splits, check_finite, check_labels
from prune_gym.files import cache_folder, check_writable
from prune_gym.fingerprint import fingerprint
from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.trace import trace
from prune_gym.graph.verify import VerificationError, verify
from prune_gym.scoring.aliasing import renew, written_tensors
from prune_gym.surgery.program_json import program_content
from prune_gym.surgery.slicing import named_tensors
from prune_gym.training.train import Recipe, one_thread, seeded, train
from prune_gym.training.weights import load_weights, save_weights

CALIBRATION_IMAGES = 100  # the paper's number
VERIFICATION_IMAGES = 2  # on which the trace is compared with the network


@dataclass(frozen=True, eq=False)
class Task:
    """What is pruned: a trained network and its images. Make one for your own network and data, by hand or with :func:`make`;
    :func:`load` gives the named ones.

    The network is traced when the task is made, and the trace is compared with the network itself on a few training images.

    Attributes:
        name: appears in messages and file names.
        model: the trained network, which maps images (N, C, H, W) to one tensor of logits (N, classes). It is not modified.
        train: training images. Importance is computed on a sample of them, see :attr:`calibration`; post-training uses all.
        val: validation images, whose accuracy the rewards read.
        test: test images, whose accuracy is only reported.
        augmentation: random changes of training images that leave their labels true, for post-training; None for none.

    All images have the same dtype, shape (C, H, W) and normalization, and are what the model takes; labels are 0 .. classes - 1.
    The order of the images does not matter.

    Raises:
        TypeError: an argument of another type, or a model whose output is not one tensor (N, classes).
        ValueError: splits whose images differ in shape or kind, pixels that are NaN or infinite, labels that are not classes
            of the network, and a network that differs from its trace (:class:`prune_gym.graph.verify.VerificationError`).
        UnknownOperatorError: the network uses an operator that cannot be traced.

    Example:
        >>> train, val, test = (Split(images[rows], labels[rows]) for rows in torch.randperm(5000).split([4000, 500, 500]))
        >>> task = Task("mine", model, train, val, test)
        >>> task.graph.max_sparsity
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
        for name, split in self._splits.items():
            if (found := _kind(split)) != (expected := _kind(self.train)):
                raise ValueError(f"{name}: expected images like those of train, {expected}, got {found}.")
            check_finite(name, split.images)
        device = next(iter(named_tensors(self.model, self.graph).values())).device
        images = self.train.inputs(slice(VERIFICATION_IMAGES)).to(device)
        try:
            verify(self.model, self.graph, images)
        except VerificationError:
            raise
        except ValueError as error:  # such as another dtype, which a trace does not notice
            raise ValueError(f"train: the model fails on images {images.dtype} {tuple(images.shape)} ({error}).") from error
        logits = self._logits(images[:1])
        for name, split in self._splits.items():
            check_labels(split.labels, logits, f" in the {name} images")

    @property
    def _splits(self) -> dict[str, Split]:
        return {"train": self.train, "val": self.val, "test": self.test}

    @torch.no_grad()
    def _logits(self, images: Tensor) -> object:
        """The network's output for these images; the network stays as it is."""
        program = self.graph.program
        tensors = {name: tensor.detach() for name, tensor in named_tensors(self.model, self.graph).items()}
        return program.at(self.graph.full().mask).run(renew(tensors, written_tensors(program)), [images])

    @cached_property
    def graph(self) -> ChannelGraph:
        """The channel graph of the model; see :func:`prune_gym.trace`."""
        return trace(self.model, self.train.inputs(slice(1)))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of all that results depend on: the network's forward pass and weights; the images and labels, those for
        calibration apart; and how images are augmented."""
        weights = {name: tensor.detach().cpu() for name, tensor in named_tensors(self.model, self.graph).items()}
        data: dict[str, Tensor] = {}
        for part, split in (self._splits | {"calibration": self.train.sample(CALIBRATION_IMAGES)}).items():
            data |= {f"{part} images": split.images.cpu(), f"{part} labels": split.labels.cpu()}
        return {
            "base network": fingerprint(json.dumps(program_content(self.graph.program.at(self.graph.full().mask))), weights),
            "data": fingerprint(" ".join(str(split.normalization) for split in self._splits.values()), data),
            "augmentation": str(self.augmentation),
        }

    @property
    def calibration(self) -> Split:
        """The images that importance is computed on, as the network takes them: 100 training images drawn by a fixed seed, as
        many of each class as there are; all training images if there are fewer. See :meth:`Split.sample`."""
        sample = self.train.sample(CALIBRATION_IMAGES)
        return Split(sample.inputs(), sample.labels)


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


def load(name: str, progress: bool = False, seed: int = 0) -> Task:
    """A named task. ``seed``, of its first weights and its training, gives other base networks; the splits are the same.

    The networks of seeds 0 and 1 come with the package (:mod:`prune_gym.base_networks`), the same on every machine. Any other is
    trained on the first call on a machine, which takes some seconds, and is read from the cache folder later.

    Raises ValueError for an unknown name and for a damaged file, OSError if the cache folder cannot be written or has too little
    space; the network is not trained then.
    """
    check_choice("task", name, TASKS)
    check_integer("seed", seed, 0, 2**63)
    key = name, cache_folder(), seed
    if key not in _loaded:
        _loaded[key] = _load(*key, progress)
    return _loaded[key]


_loaded: dict[tuple[str, Path, int], Task] = {}


def _load(name: str, folder: Path, seed: int, progress: bool) -> Task:
    base, chosen, title = TASKS[name], replace(TASKS[name].recipe, seed=seed), f"{name}-{seed}" if seed else name
    splits = base.splits()
    model = build(base.network, splits, seed)
    images = hashlib.blake2b(splits.train.images.numpy().tobytes(), digest_size=8).hexdigest()
    recipe = {"network": base.network, "shapes": _shapes(model), "images": images, **asdict(chosen)}
    digest = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8).hexdigest()
    file = f"{title}-{digest}.safetensors"
    shipped, path = base_networks.FOLDER / file, folder / file
    if shipped.exists():
        load_weights(model, shipped)
        model.eval()
    elif path.exists():
        try:
            load_weights(model, path)
        except ValueError as error:
            raise ValueError(f"{error} It is the cached base network of task {name!r}: delete it to make it anew.") from error
        model.eval()
    else:
        size = sum(tensor.nbytes for tensor in model.state_dict().values()) + 2**16  # the header is far smaller than that
        check_writable(path, bytes_needed=size)  # now, and not after the training
        with one_thread():  # so that all machines start from the same network, as far as they compute alike
            train(model, splits.train, chosen, progress, f"training {base.network} once")
        save_weights(path, model, recipe)
    return Task(title, model, splits.train, splits.val, splits.test, splits.augmentation)


def build(network: str, splits: Splits, seed: int = 0) -> nn.Module:
    """The network that :func:`prune_gym.models.create` knows by this name, made for a data set, with fresh weights from
    ``seed``. Raises TypeError for other than :class:`Splits`, ValueError for an unknown network and for images that it cannot
    take."""
    if not isinstance(splits, Splits):
        raise TypeError(f"splits: expected Splits, got {type(splits).__name__}.")
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
    """A task of any network on any data set, with weights that were trained before.

    Args:
        network: a name that :func:`prune_gym.models.create` knows.
        data: a name that :func:`prune_gym.data.datasets.load` knows.
        weights: a safetensors file for this network, see :func:`prune_gym.training.weights.load_weights`;
            ``scripts/train_base.py`` makes one.
        download: whether a data set that is not there may be downloaded.

    Raises ValueError for an unknown name, for weights that are missing or do not fit, and for what :class:`Task` refuses;
    FileNotFoundError for a file that is not there.
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
