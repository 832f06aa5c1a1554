"""Training a base network, deterministically."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import cos, isfinite, pi

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from prune_gym.arguments import check_choice, check_integer, check_number
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import Split

OPTIMIZERS = ("adamw", "sgd")


@dataclass(frozen=True)
class Recipe:
    """How a base network is trained on the cross-entropy; by default a small one, on the digits.

    Attributes:
        optimizer: ``"adamw"`` with PyTorch's one-cycle schedule, or ``"sgd"`` with momentum and :func:`warmup_cosine`.
        learning_rate: the largest of the schedule.
        warmup: for ``"sgd"``, the share of the training in which the learning rate rises, in [0, 1).
        label_smoothing: in [0, 1).

    Raises TypeError or ValueError for a value out of range.
    """

    epochs: int = 15
    batch_size: int = 32
    learning_rate: float = 5e-3
    weight_decay: float = 0.3
    label_smoothing: float = 0.1
    seed: int = 0
    optimizer: str = "adamw"
    warmup: float = 0.1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            check_integer(name, getattr(self, name), 1)
        check_integer("seed", self.seed, 0, 2**63)
        check_number("learning_rate", self.learning_rate, "(0, inf)")
        check_number("weight_decay", self.weight_decay, "[0, inf)")
        for name in ("label_smoothing", "warmup"):
            check_number(name, getattr(self, name), "[0, 1)")
        check_choice("optimizer", self.optimizer, OPTIMIZERS)


RECIPES = {
    # that of the code released with the RL-Pruner paper: 25 epochs of warm-up, then a cosine
    "paper": Recipe(epochs=250, batch_size=256, learning_rate=0.1, weight_decay=5e-4, label_smoothing=0.0, optimizer="sgd"),
    # an eighth of the epochs: smaller batches, a longer rise, smoothed labels
    "short": Recipe(epochs=30, batch_size=128, learning_rate=0.1, weight_decay=5e-4, optimizer="sgd", warmup=0.2),
}
MIN_LEARNING_RATE = 1e-6  # where the paper's cosine schedules end


def sgd(parameters: Iterable[nn.Parameter], weight_decay: float = 5e-4) -> torch.optim.SGD:
    """The paper's optimizer, with a momentum of 0.9; :func:`warmup_cosine` sets its learning rate."""
    return torch.optim.SGD(parameters, momentum=0.9, weight_decay=weight_decay)


def warmup_cosine(
    optimizer: torch.optim.Optimizer, steps: int, warmup_steps: int, peak: float, floor: float = MIN_LEARNING_RATE
) -> LRScheduler:
    """Sets the learning rate of ``optimizer``: it rises linearly to ``peak`` in the first ``warmup_steps`` of ``steps``, then
    falls along half a cosine and reaches ``floor`` after the last one. Call ``step()`` on it after every optimizer step.

    Raises ValueError unless 0 <= warmup_steps < steps, and 0 <= floor <= peak with a positive peak.
    """
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps: expected at least 0 and fewer than the {steps} steps, got {warmup_steps}.")
    if not 0 <= floor <= peak or peak == 0:
        raise ValueError(f"floor: expected a learning rate from 0 to the peak, which is positive, got {floor} and peak {peak}.")

    def rate(done: int) -> float:
        if done < warmup_steps:
            return peak * (done + 1) / warmup_steps
        return floor + (peak - floor) * (1 + cos(pi * (done - warmup_steps) / (steps - warmup_steps))) / 2

    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = peak  # what LambdaLR's factors refer to
    return LambdaLR(optimizer, lambda done: rate(done) / peak)


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within it, what PyTorch draws by itself (initial weights, dropout) on the CPU and on ``device`` follows from ``seed``;
    afterwards the global generators go on as if nothing had happened, those of other devices included."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, PyTorch computes on one CPU core, and rounds in the same way however many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def deterministic() -> Iterator[None]:
    """Within it, cuDNN only uses algorithms that give the same bits every time, in every process."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def mixed_precision(device: torch.device) -> torch.autocast:
    """Within it a GPU computes in bfloat16 what may be; a CPU does as always."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def layout_on(device: torch.device) -> torch.memory_format:
    """How images and weights lie in memory: channels last on a GPU, whose tensor cores want it."""
    return torch.channels_last if device.type == "cuda" else torch.preserve_format


def train(
    model: nn.Module,
    data: Split,
    recipe: Recipe,
    progress: bool = False,
    description: str = "base training",
    augmentation: Augmentation | None = None,
    loss: Loss | None = None,
    after_epoch: Callable[[nn.Module], None] = lambda model: None,
) -> None:
    """Train ``model`` in place on the device it is on, where ``data`` is as well; leaves it in evaluation mode.

    The same recipe on the same machine gives the same weights, whatever the state of the global random number generators,
    which are left as they were; on a GPU as far as PyTorch has deterministic kernels for the network's operators. A GPU
    computes in bfloat16 where autocast does, with channels last; the weights are float32 everywhere.

    ``loss`` takes logits, inputs and labels, and is by default the cross-entropy; ``after_epoch`` gets the model.

    Raises ValueError if the loss is no longer finite.
    """
    device = data.labels.device
    generator = torch.Generator().manual_seed(recipe.seed)
    augment = {} if augmentation is None else {"augment": partial(augmentation, generator=generator)}
    batches = len(_batches(torch.arange(len(data)), recipe.batch_size))
    cross_entropy = partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
    optimizer, schedule = _optimizer(model, recipe, recipe.epochs * batches)
    layout = layout_on(device)
    model.to(memory_format=layout).train()
    with (
        seeded(recipe.seed, device),
        deterministic(),
        tqdm(total=recipe.epochs, desc=description, unit="epoch", disable=not progress) as bar,
    ):
        for epoch in range(recipe.epochs):
            for rows in _batches(torch.randperm(len(data), generator=generator).to(device), recipe.batch_size):
                inputs, labels = data.inputs(rows, **augment).to(memory_format=layout), data.labels[rows]
                with mixed_precision(device):
                    logits = model(inputs)
                error = cross_entropy(logits.float(), labels) if loss is None else loss(logits.float(), inputs, labels)
                optimizer.zero_grad()
                error.backward()
                optimizer.step()
                schedule.step()
            after_epoch(model)
            if not isfinite(error.item()) or not _is_finite(model):
                raise ValueError(
                    f"learning_rate: training diverged in epoch {epoch + 1}, a loss or weight is not finite; try less than "
                    f"{recipe.learning_rate}, or larger batches than {recipe.batch_size}."
                )
            bar.set_postfix(loss=f"{error.item():.3f}", refresh=False)
            bar.update()
    model.to(memory_format=layout if layout is torch.preserve_format else torch.contiguous_format).eval()


def _is_finite(model: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values() if tensor.is_floating_point())


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Images by batch. A last one on its own joins the batch before it, as one image has no statistics for a batch norm."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _optimizer(model: nn.Module, recipe: Recipe, steps: int) -> tuple[torch.optim.Optimizer, LRScheduler]:
    if recipe.optimizer == "sgd":
        momentum = sgd(model.parameters(), recipe.weight_decay)
        return momentum, warmup_cosine(momentum, steps, int(recipe.warmup * steps), recipe.learning_rate)
    adamw = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return adamw, OneCycleLR(adamw, recipe.learning_rate, total_steps=steps)


@torch.inference_mode()
def accuracy(model: nn.Module, data: Split, batch_size: int = 256) -> float:
    """Fraction of images that ``model`` classifies correctly in evaluation mode."""
    was_training = model.training
    model.eval()
    correct = sum((model(images).argmax(1) == labels).sum() for images, labels in data.batches(batch_size))
    model.train(was_training)
    return int(correct) / len(data)
