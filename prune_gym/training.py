"""Training a base network, deterministically."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from prune_gym.evaluation import Split


@dataclass(frozen=True)
class Recipe:
    """AdamW with a one-cycle learning rate on the cross-entropy with smoothed labels."""

    epochs: int = 15
    batch_size: int = 32
    learning_rate: float = 5e-3
    weight_decay: float = 0.3
    label_smoothing: float = 0.1
    seed: int = 0


def train(model: nn.Module, data: Split, recipe: Recipe, progress: bool = False, description: str = "base training") -> None:
    """Train ``model`` in place on the device it is on; leaves it in evaluation mode. The same recipe on the same machine
    gives the same weights, whatever the state of the global random number generator, which is left as it was."""
    generator = torch.Generator().manual_seed(recipe.seed)
    batches = -(-len(data) // recipe.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.epochs * batches)
    model.train()
    with (
        torch.random.fork_rng(devices=[]),
        tqdm(total=recipe.epochs, desc=description, unit="epoch", disable=not progress) as bar,
    ):
        torch.manual_seed(recipe.seed)
        for _ in range(recipe.epochs):
            for rows in torch.randperm(len(data), generator=generator).split(recipe.batch_size):
                logits = model(data.images[rows])
                loss = F.cross_entropy(logits, data.labels[rows], label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            bar.update()
    model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, data: Split, batch_size: int = 256) -> float:
    """Fraction of images that ``model`` classifies correctly in evaluation mode."""
    was_training = model.training
    model.eval()
    batches = zip(data.images.split(batch_size), data.labels.split(batch_size), strict=True)
    correct = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    model.train(was_training)
    return correct / len(data)
