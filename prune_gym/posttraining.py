"""Post-training: what pruning cost in accuracy is won back, with the original network as the teacher (section 3.4).

Training gives the network a new version of weights. A version is kept as the recipe that made it (:class:`Weights`), a
few hundred bytes, so states and snapshots stay small and comparable; :class:`PostTrainer` has the tensors of the last few
versions, and makes those of others again when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_gym.arguments import check_integer, check_number, plain_numbers
from prune_gym.augmentation import Augmentation
from prune_gym.graph import Architecture, ChannelGraph
from prune_gym.memo import Memo
from prune_gym.program import PrunedNetwork
from prune_gym.splits import Split
from prune_gym.surgery import compact, scatter_tensors
from prune_gym.tasks import Task
from prune_gym.training import FLOOR, Recipe, accuracy, layout_on, mixed_precision, train

VERSIONS = 4  # whose tensors are kept: those of a teacher, a student, the best network, and one more


@dataclass(frozen=True)
class PostTraining:
    """How networks are trained after pruning steps; the paper's values but for the epochs, which are 20 there."""

    epochs: int = 0
    """Epochs of post-training; 0 for none."""
    period: int = 1
    """Pruning steps from one post-training to the next; there always is one after the last step."""
    learning_rate: float = 1e-3
    """The largest; it rises in the first 10% and then falls to 1e-6 along a cosine."""
    batch_size: int = 256
    """Images per step of the optimizer, SGD with momentum 0.9."""
    weight_decay: float = 5e-4
    """Weight decay."""
    mu: float = 0.25
    """Share of the labels in the loss (equation 25); the rest is the teacher's."""
    temperature: float = 2.0
    """Temperature of the distillation (equation 26)."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_integer("epochs", self.epochs, 0)
        check_integer("period", self.period, 1)
        check_number("learning_rate", self.learning_rate, f"[{FLOOR}, inf)")  # it ends at this floor
        check_number("mu", self.mu, "[0, 1]")
        check_number("temperature", self.temperature, "(0, inf)")
        self.recipe(1)  # it checks the others

    def recipe(self, seed: int) -> Recipe:
        """Raises ValueError for a batch size, learning rate or weight decay out of range."""
        return Recipe(
            epochs=max(1, self.epochs),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            label_smoothing=0.0,
            seed=seed,
            optimizer="sgd",
        )


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


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, mu: float, temperature: float) -> Tensor:
    """(25, 26) mu * CE(student, labels) + (1 - mu) * T^2 * KL(softmax(teacher / T) || softmax(student / T)), the mean over
    logits (N, classes) and labels (N,)."""
    soft, target = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    divergence = F.kl_div(soft, target, reduction="batchmean", log_target=True)
    return mu * F.cross_entropy(student, labels) + (1 - mu) * temperature**2 * divergence


@torch.inference_mode(False)
@torch.enable_grad()
def distill(
    student: nn.Module,
    teacher: nn.Module,
    data: Split,
    val: Split,
    settings: PostTraining,
    seed: int,
    augmentation: Augmentation | None = None,
    progress: bool = False,
) -> float:
    """Train ``student`` on ``data`` by ``teacher``, in place, as ``settings`` say; all of them on one device.

    It ends with the weights of the epoch that is the best on ``val``, the first of equal ones, even if it was better before.
    Gives that accuracy, in [0, 1]. Raises ValueError if the training diverges.
    """
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # the original network may be frozen
    device = data.labels.device
    teacher.to(memory_format=layout_on(device)).eval()
    best, best_accuracy = student.state_dict(), -1.0

    def loss(logits: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad(), mixed_precision(device):
            target = teacher(inputs).float()
        return distillation_loss(logits, target, labels, settings.mu, settings.temperature)

    def choose(model: nn.Module) -> None:
        nonlocal best, best_accuracy
        now = accuracy(model, val)
        if now > best_accuracy:
            best, best_accuracy = {name: tensor.clone() for name, tensor in model.state_dict().items()}, now

    train(student, data, settings.recipe(seed), progress, "post-training", augmentation, loss, choose)
    student.load_state_dict(best)
    return best_accuracy


class PostTrainer:
    """Trains pruned networks of one task, and knows the tensors of every version of the weights.

    Args:
        task: its training split is trained on, with its augmentation; its validation split chooses the epoch.
        tensors: the original weights by name, on the device where networks are trained.
        settings: how.
        memo: where accuracies are kept, and the tensors of the last versions if it can.
    """

    def __init__(self, task: Task, graph: ChannelGraph, tensors: Mapping[str, Tensor], settings: PostTraining, memo: Memo):
        self.task = task
        self.graph = graph
        self.settings = settings
        self.memo = memo
        self._original = dict(tensors)
        self._kept: OrderedDict[str, dict[str, Tensor]] = OrderedDict()  # the last ones used come last
        self.pinned = ""  # the version that is kept in any case
        self.device = next(iter(tensors.values())).device

    @cached_property
    def _data(self) -> tuple[Split, Split]:
        return self.task.train.to(self.device), self.task.val.to(self.device)

    def network(self, network: Network) -> PrunedNetwork:
        """The network as a module, physically small, in evaluation mode; it shares no memory with anything."""
        small = compact(self.task.model, self.graph, network.architecture, self.tensors(network.weights))
        return small.to(self.device).eval()

    def tensors(self, weights: Weights) -> dict[str, Tensor]:
        """All tensors of the original shapes, by name; of units that a version does not keep, those of the version before."""
        version = weights.version
        if not version:
            return self._original
        if version not in self._kept:
            with torch.inference_mode(False):  # it may be called where networks are scored
                stored = self.memo.load_tensors(version)
                if stored is None:
                    self._train(weights)
                else:
                    self._keep(version, {name: tensor.to(self.device) for name, tensor in stored.items()})
        self._kept.move_to_end(version)
        return self._kept[version]

    def val_accuracy(self, network: Network) -> float:
        """Accuracy on the validation split of a network whose weights were trained for it, or of the original one."""
        key = network.weights.version or network.key
        known = self.memo.get("posttraining", key)
        if known is None and network.weights.student is None:
            known = accuracy(self.network(network), self._data[1])
            self.memo.put("posttraining", key, known)
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
        self.memo.save_tensors(weights.version, tensors)
        self.memo.put("posttraining", weights.version, best_accuracy)
        return best_accuracy

    def _keep(self, version: str, tensors: dict[str, Tensor]) -> None:
        self._kept[version] = tensors
        for old in [name for name in self._kept if name not in (self.pinned, version)][: max(0, len(self._kept) - VERSIONS)]:
            del self._kept[old]
            self.memo.forget_tensors(old)
