"""Deterministic training of a network, and its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import cos, isfinite, pi
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from tqdm import tqdm

from prune_gym.arguments import AtLeast, Within, check_settings
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import Split, check_labels
from prune_gym.fingerprint import fingerprint
from prune_gym.training.checkpoint import Checkpoint
from prune_gym.training.tensor_file import tensors_of


@dataclass(frozen=True)
class Recipe:
    """How a base network is trained on the cross-entropy. The defaults suit a small network on the digits.

    Attributes:
        epochs: passes over the training images, at least 1.
        batch_size: images per step of the optimizer, at least 1.
        learning_rate: the peak of the schedule, positive.
        weight_decay: at least 0.
        label_smoothing: in [0, 1).
        seed: of the order of the images, their augmentation and dropout, in [0, 2**63).
        optimizer: ``"adamw"`` with PyTorch's one-cycle schedule, or ``"sgd"`` with momentum and :func:`warmup_cosine`.
        warmup: for ``"sgd"``, the share of all steps in which the learning rate rises, in [0, 1).

    Raises TypeError or ValueError for a value out of range.
    """

    epochs: Annotated[int, AtLeast(1)] = 15
    batch_size: Annotated[int, AtLeast(1)] = 32
    learning_rate: Annotated[float, Within("(0, inf)")] = 5e-3
    weight_decay: Annotated[float, Within("[0, inf)")] = 0.3
    label_smoothing: Annotated[float, Within("[0, 1)")] = 0.1
    seed: Annotated[int, AtLeast(0, below=2**63)] = 0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    warmup: Annotated[float, Within("[0, 1)")] = 0.1

    def __post_init__(self) -> None:
        check_settings(self)


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
    """A schedule of the learning rate of ``optimizer``; call its ``step()`` after every step of the optimizer.

    The rate rises linearly to ``peak`` in the first W = ``warmup_steps`` of N = ``steps``, then falls along half a cosine and
    reaches ``floor`` after the last step. Step i, counted from 0, is made with the rate

    - peak * (i + 1) / W for i < W,
    - floor + (peak - floor) * (1 + cos(pi * (i - W) / (N - W))) / 2 otherwise.

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
    """Within it, what PyTorch draws from its global generators (initial weights, dropout) on the CPU and on ``device`` follows
    from ``seed``; afterwards the generators are as they were before. Those of other devices are not touched."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.random.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it, PyTorch computes with one thread, so that rounding does not depend on the number of cores."""
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
    """Within it, a GPU computes in bfloat16 where autocast does; a CPU computes as always."""
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
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train ``model`` in place, on the device that it shares with ``data``, and leave it in evaluation mode.

    The same recipe on the same machine gives the same weights, whatever the state of the global random number generators,
    which are left as they were; on a GPU as far as PyTorch has deterministic kernels for the network's operators. A GPU
    computes in bfloat16 where autocast does, with channels last; the weights are float32 everywhere.

    Args:
        model: maps images (N, C, H, W) to logits (N, classes).
        data: every epoch takes all of these images once, in a new random order.
        recipe: epochs, batch size, optimizer, schedule and seed.
        progress: whether a progress bar with ``description`` is shown.
        augmentation: applied to every batch anew, before the images are normalised.
        loss: a function of logits (N, classes), inputs (N, C, H, W) and labels (N,); by default the cross-entropy with the
            label smoothing of the recipe.
        after_epoch: called with the model at the end of every epoch; it may leave the model in either mode.
        checkpoint: where the state after every epoch is stored, and where a training that was stopped goes on. It ends with the
            weights that it would have come to without a stop.

    Raises:
        TypeError: an argument of another type, or a model whose output is not one tensor of logits (N, classes).
        ValueError: labels that are not classes of the model, a loss or weight that is no longer finite, or a checkpoint that is
            damaged or of another training.
        OSError: the checkpoint cannot be written.
    """
    _check_type("model", model, nn.Module)
    _check_type("data", data, Split)
    _check_type("recipe", recipe, Recipe)
    device = data.labels.device
    generator = torch.Generator().manual_seed(recipe.seed)
    augment = {} if augmentation is None else {"augment": partial(augmentation, generator=generator)}
    batches = len(_batches(torch.arange(len(data)), recipe.batch_size))
    cross_entropy = partial(F.cross_entropy, label_smoothing=recipe.label_smoothing)
    optimizer, schedule = _optimizer(model, recipe, recipe.epochs * batches)
    layout = layout_on(device)
    model.to(memory_format=layout)
    with (
        seeded(recipe.seed, device),
        deterministic(),
        tqdm(total=recipe.epochs, desc=description, unit="epoch", disable=not progress) as bar,
    ):
        done = 0
        if checkpoint is not None:
            training = _fingerprint(model, data, recipe, augmentation, checkpoint.about)
            done = checkpoint.begin(training, model, optimizer, schedule, generator)
        bar.update(done)
        for epoch in range(done, recipe.epochs):
            model.train()
            for rows in _batches(torch.randperm(len(data), generator=generator).to(device), recipe.batch_size):
                inputs, labels = data.inputs(rows, **augment).to(memory_format=layout), data.labels[rows]
                with mixed_precision(device):
                    logits = model(inputs)
                if schedule.last_epoch == 0:  # before the first step
                    check_labels(data.labels, logits)
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
            if checkpoint is not None:
                checkpoint.write(epoch + 1)
            bar.set_postfix(loss=f"{error.item():.3f}", refresh=False)
            bar.update()
    model.to(memory_format=layout if layout is torch.preserve_format else torch.contiguous_format).eval()


def _fingerprint(model: nn.Module, data: Split, recipe: Recipe, augmentation: Augmentation | None, about: str) -> str:
    """Of all that a training depends on."""
    tensors = tensors_of(model) | {"images": data.images, "labels": data.labels}
    text = f"{recipe} {augmentation} {data.normalization} {about}"
    return fingerprint(text, {name: tensor.detach().cpu() for name, tensor in tensors.items()})


def _is_finite(model: nn.Module) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values() if tensor.is_floating_point())


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """``order`` cut into batches. A last batch of one image joins the batch before it, as a batch norm cannot compute the
    variance of one image."""
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


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within it, the model is in evaluation mode; afterwards each of its modules is in the mode it was in before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.inference_mode()
def accuracy(model: nn.Module, data: Split, batch_size: int = 256) -> float:
    """Fraction of the images that ``model`` classifies correctly in evaluation mode, in [0, 1].

    Raises TypeError for an argument of another type or a model whose output is not one tensor of logits (N, classes),
    ValueError for labels that are not classes of the model and for a batch size below 1.
    """
    _check_type("model", model, nn.Module)
    _check_type("data", data, Split)
    correct = torch.zeros((), dtype=torch.int64, device=data.labels.device)
    with evaluation_mode(model):
        for batch, (images, labels) in enumerate(data.batches(batch_size)):
            logits = model(images)
            if batch == 0:
                check_labels(data.labels, logits)
            correct += (logits.argmax(1) == labels).sum()
    return int(correct) / len(data)


def _check_type(argument: str, value: object, kind: type) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{argument}: expected a {kind.__name__}, got {type(value).__name__}.")
