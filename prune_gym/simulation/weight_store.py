"""Versions of the weights: recipes, a few hundred bytes each, and the store that makes tensors of them.

Training gives the network a new version of weights. A version is kept as the recipe that made it (:class:`Weights`), so
states and snapshots stay small and comparable; :class:`PostTrainer` has the tensors of the last few versions, and makes those
of others again when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from prune_gym.data.splits import Split
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.surgery.compact import compact
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.surgery.slicing import scatter_tensors
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining, distill
from prune_gym.training.train import accuracy

MAX_VERSIONS = 4  # whose tensors are kept: those of a teacher, a student, the best network, and one more


@dataclass(frozen=True, eq=False)
class Weights:
    """A version of the weights of all units: the original one, or what the post-training of a network by a teacher gave."""

    student: Network | None = None
    teacher: Network | None = None

    def __repr__(self) -> str:
        return f"Weights({self.version or 'original'!r})"  # not what it was made of, and that of, and so on

    @cached_property
    def version(self) -> str:
        """A fingerprint; empty for the original weights."""
        if self.student is None or self.teacher is None:
            return ""
        return hashlib.blake2b(f"{self.student.key} {self.teacher.key}".encode(), digest_size=16).hexdigest()


ORIGINAL = Weights()


@dataclass(frozen=True, eq=False)
class Network:
    """A pruned network: which units it keeps, of which weights."""

    architecture: Architecture
    weights: Weights = ORIGINAL

    @property
    def key(self) -> str:
        """A fingerprint."""
        return f"{self.weights.version}:{self.architecture.digest}"


class PostTrainer:
    """Trains pruned networks of one task, and knows the tensors of every version of the weights.

    Args:
        task: its training split is trained on, with its augmentation; its validation split chooses the epoch.
        tensors: the original weights by name, on the device where networks are trained.
        settings: how.
        cache: where accuracies are kept, and the tensors of the last versions if it can.
    """

    def __init__(
        self, task: Task, graph: ChannelGraph, tensors: Mapping[str, Tensor], settings: PostTraining, cache: ResultCache
    ):
        self.task = task
        self.graph = graph
        self.settings = settings
        self.cache = cache
        self._original = dict(tensors)
        self._kept: OrderedDict[str, dict[str, Tensor]] = OrderedDict()  # the last ones used come last
        self.pinned = ""  # the version that is kept in any case
        self.device = next(iter(tensors.values())).device

    @cached_property
    def _data(self) -> tuple[Split, Split]:
        return self.task.train.to(self.device), self.task.val.to(self.device)

    def network(self, network: Network) -> PrunedNetwork:
        """The network as a module, physically small, in evaluation mode; it shares no memory with anything."""
        weights = self.tensors(network.weights)
        small = compact(self.task.model, self.graph, network.architecture, form="program", weights=weights)
        return small.to(self.device).eval()

    def tensors(self, weights: Weights) -> dict[str, Tensor]:
        """All tensors of the original shapes, by name; of units that a version does not keep, those of the version before."""
        version = weights.version
        if not version:
            return self._original
        if version not in self._kept:
            with torch.inference_mode(False):  # it may be called where networks are scored
                stored = self.cache.load_tensors(version)
                if stored is None:
                    self._train(weights)
                else:
                    self._keep(version, {name: tensor.to(self.device) for name, tensor in stored.items()})
        self._kept.move_to_end(version)
        return self._kept[version]

    def val_accuracy(self, network: Network) -> float:
        """Accuracy on the validation split of a network whose weights were trained for it, or of the original one."""
        key = network.weights.version or network.key
        known = self.cache.get("posttraining", key)
        if known is None and network.weights.student is None:
            known = accuracy(self.network(network), self._data[1])
            self.cache.put("posttraining", key, known)
        return self._train(network.weights) if known is None else known

    @torch.inference_mode(False)  # whatever the caller's mode is
    def _train(self, weights: Weights) -> float:
        """Make a version of the weights. Gives the validation accuracy of the network that it was made for."""
        assert weights.student is not None  # there is something to train
        assert weights.teacher is not None
        student, teacher = self.network(weights.student), self.network(weights.teacher)
        seed = int(weights.version[:8], 16)  # the same state is trained in the same way, however it was reached
        best_accuracy = distill(student, teacher, *self._data, self.settings, seed, self.task.augmentation)
        trained = dict([*student.named_parameters(), *student.named_buffers()])
        small = {name: tensor.detach() for name, tensor in trained.items()}
        tensors = scatter_tensors(self.tensors(weights.student.weights), small, self.graph.units, weights.student.architecture)
        self._keep(weights.version, tensors)
        self.cache.save_tensors(weights.version, tensors)
        self.cache.put("posttraining", weights.version, best_accuracy)
        return best_accuracy

    def _keep(self, version: str, tensors: dict[str, Tensor]) -> None:
        self._kept[version] = tensors
        for old in [name for name in self._kept if name not in (self.pinned, version)][: max(0, len(self._kept) - MAX_VERSIONS)]:
            del self._kept[old]
            self.cache.forget_tensors(old)
