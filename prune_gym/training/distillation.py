"""Post-training: a pruned network wins back accuracy by learning from a teacher (section 3.4 of RL-Pruner)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_gym.arguments import AtLeast, OneOf, Within, check_settings
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import Split
from prune_gym.fingerprint import fingerprint
from prune_gym.training.checkpoint import Checkpoint
from prune_gym.training.tensor_file import tensors_of
from prune_gym.training.train import MIN_LEARNING_RATE, Recipe, accuracy, layout_on, mixed_precision, train

STARTS = ("cut", "compensated")
ACCURACY = "accuracy"  # of an epoch, beside its tensors


@dataclass(frozen=True)
class PostTraining:
    """How networks are trained after pruning steps. The defaults are the paper's values, except that the paper trains for 20
    epochs, from the cut network."""

    epochs: Annotated[int, AtLeast(0)] = 0
    """Epochs of post-training; 0 for none."""
    final_epochs: Annotated[int, AtLeast(1)] | None = None
    """Epochs after a step that meets the target, in every episode; by default as many as after the others. If these are 0, no
    network is trained."""
    period: Annotated[int, AtLeast(1)] = 1
    """Pruning steps from one post-training to the next; the last step is always followed by one."""
    learning_rate: Annotated[float, Within(f"[{MIN_LEARNING_RATE}, inf)")] = 1e-3
    """Peak learning rate; it rises in the first 10% of the steps, then falls to 1e-6 along a cosine."""
    batch_size: Annotated[int, AtLeast(1)] = 256
    """Images per step of the optimizer, SGD with momentum 0.9."""
    weight_decay: Annotated[float, Within("[0, inf)")] = 5e-4
    """Weight decay of the optimizer."""
    mu: Annotated[float, Within("[0, 1]")] = 0.25
    """Weight of the labels' cross-entropy in the loss (equation 25); the teacher's term has the weight 1 - mu."""
    temperature: Annotated[float, Within("(0, inf)")] = 2.0
    """Temperature of the distillation (equation 26)."""
    start: Annotated[str, OneOf(STARTS)] = "compensated"
    """What training starts from: the network as it was cut, or compensated for what it lost, without labels."""

    def __post_init__(self) -> None:
        check_settings(self)

    def at(self, final: bool) -> PostTraining:
        """The settings of one training, at the end of an episode or before."""
        epochs = self.final_epochs if final and self.epochs and self.final_epochs else self.epochs
        return replace(self, epochs=epochs, final_epochs=None)

    def check_one(self, argument: str) -> None:
        """Raise ValueError unless these are the settings of one training, which has no last step. ``argument``: their name."""
        if self.final_epochs is not None:
            raise ValueError(f"{argument}.final_epochs: this is one training, of which epochs says all; got {self.final_epochs}.")

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
    """The loss of post-training, equations 25 and 26 of RL-Pruner, averaged over the N images::

        mu * CE(student, labels) + (1 - mu) * T^2 * KL(softmax(teacher / T) || softmax(student / T))

    ``student`` and ``teacher`` are logits (N, classes), ``labels`` are (N,), and T is the temperature.
    """
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
    checkpoint: Path | None = None,
) -> float:
    """Train ``student`` in place to agree with ``teacher`` and with the labels; both networks and both splits on one device.

    The student ends with its weights after the epoch with the best accuracy on ``val``, the first such epoch if there are
    several, even if it was better before the training. The teacher is not trained and ends in evaluation mode.

    Args:
        data: what is trained on.
        val: what decides which epoch is the best.
        settings: epochs, of which 0 leave the student as it is, optimizer and loss.
        seed: of the order of the images, their augmentation and dropout.
        augmentation: random changes of ``data``; teacher and student see the same changed images.
        progress: whether a progress bar is shown.
        checkpoint: a file for the state after every epoch, from which a training that was stopped goes on; it stays.

    Returns the accuracy on ``val`` after the best epoch, in [0, 1]. Raises ValueError if the training diverges, for settings
    with ``final_epochs``, and for a checkpoint that is damaged or of another training.
    """
    settings.check_one("settings")
    if settings.epochs == 0:
        return accuracy(student, val)
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # the original network may be frozen
    device = data.labels.device
    teacher.to(memory_format=layout_on(device)).eval()
    stored, best = None, {}  # the tensors of the best epoch, and its accuracy
    if checkpoint is not None:
        teaching = {name: tensor.detach().cpu() for name, tensor in tensors_of(teacher).items()}
        stored = Checkpoint(checkpoint, fingerprint(f"{settings} {val.normalization}", teaching | {"val": val.images.cpu()}))
        best = stored.kept

    def loss(logits: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad(), mixed_precision(device):
            target = teacher(inputs).float()
        return distillation_loss(logits, target, labels, settings.mu, settings.temperature)

    def keep_if_better(model: nn.Module) -> None:
        now = accuracy(model, val)
        if not best or now > best[ACCURACY].item():
            best.update({name: tensor.detach().clone() for name, tensor in tensors_of(model).items()})
            best[ACCURACY] = torch.tensor(now, dtype=torch.float64)

    train(student, data, settings.recipe(seed), progress, "post-training", augmentation, loss, keep_if_better, stored)
    with torch.no_grad():
        for name, tensor in tensors_of(student).items():
            tensor.copy_(best[name])
    return best[ACCURACY].item()
