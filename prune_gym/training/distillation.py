"""Post-training: what pruning cost in accuracy is won back, with the original network as the teacher (section 3.4).

Training gives the network a new version of weights. A version is kept as the recipe that made it (:class:`Weights`), a
few hundred bytes, so states and snapshots stay small and comparable; :class:`PostTrainer` has the tensors of the last few
versions, and makes those of others again when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_gym.arguments import AtLeast, Within, check_settings
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import Split
from prune_gym.training.train import MIN_LEARNING_RATE, Recipe, accuracy, layout_on, mixed_precision, train


@dataclass(frozen=True)
class PostTraining:
    """How networks are trained after pruning steps; the paper's values but for the epochs, which are 20 there."""

    epochs: Annotated[int, AtLeast(0)] = 0
    """Epochs of post-training; 0 for none."""
    period: Annotated[int, AtLeast(1)] = 1
    """Pruning steps from one post-training to the next; there always is one after the last step."""
    learning_rate: Annotated[float, Within(f"[{MIN_LEARNING_RATE}, inf)")] = 1e-3
    """The largest; it rises in the first 10% and then falls to 1e-6 along a cosine."""
    batch_size: Annotated[int, AtLeast(1)] = 256
    """Images per step of the optimizer, SGD with momentum 0.9."""
    weight_decay: Annotated[float, Within("[0, inf)")] = 5e-4
    """Weight decay."""
    mu: Annotated[float, Within("[0, 1]")] = 0.25
    """Share of the labels in the loss (equation 25); the rest is the teacher's."""
    temperature: Annotated[float, Within("(0, inf)")] = 2.0
    """Temperature of the distillation (equation 26)."""

    def __post_init__(self) -> None:
        check_settings(self)

    def recipe(self, seed: int) -> Recipe:
        """The same settings as a recipe for :func:`prune_gym.training.train.train`."""
        return Recipe(
            epochs=max(1, self.epochs),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            label_smoothing=0.0,
            seed=seed,
            optimizer="sgd",
        )


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
