"""Train a base network, whose weights prune_gym.tasks.make then reads: ``python scripts/train_base.py --help``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from prune_gym import tasks
from prune_gym.arguments import choose_device
from prune_gym.benchmark.command import run_command
from prune_gym.data import datasets as data
from prune_gym.files import check_writable
from prune_gym.training.checkpoint import Checkpoint
from prune_gym.training.train import RECIPES, accuracy, train
from prune_gym.training.weights import save_weights


@dataclass(frozen=True)
class Config:
    """Train a network on a data set and write its weights as one safetensors file."""

    out: Path
    """File to write, for example resnet56.safetensors; must not exist. Until the training has ended its state lies beside it, and
    the same command goes on from there."""
    network: str = "resnet56"
    """Network: one of prune_gym.models.names(), or torchvision/NAME."""
    data: str = "cifar10"
    """Data set: digits, cifar10, cifar100, npz:PATH or folder:PATH."""
    recipe: Literal["paper", "short"] = "short"
    """How it is trained: paper (250 epochs) or short (30 epochs)."""
    epochs: int | None = None
    """Epochs, if not those of the recipe; its schedule is stretched."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and their augmentation."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, ..."""
    download: bool = False
    """Download the data set if it is not there."""


def main(config: Config) -> None:
    """Train the network and write its weights."""
    out = config.out.expanduser()
    if out.exists():
        raise FileExistsError(f"out: {out} exists; choose another name or delete it.")
    device = choose_device(config.device)
    recipe = replace(RECIPES[config.recipe], seed=config.seed)
    if config.epochs is not None:
        recipe = replace(recipe, epochs=config.epochs)
    splits = data.load(config.data, config.download)
    model = tasks.build(config.network, splits, config.seed).to(device)
    check_writable(out)
    checkpoint = Checkpoint(out.with_name(f"{out.name}.unfinished"))
    augmentation, title = splits.augmentation, f"training {config.network}"
    train(model, splits.train.to(device), recipe, True, title, augmentation, checkpoint=checkpoint)
    val, test = (accuracy(model, split.to(device)) for split in (splits.val, splits.test))
    made = {
        "network": config.network,
        "data": config.data,
        "recipe": asdict(recipe),
        "augmentation": splits.augmentation and asdict(splits.augmentation),
        "val_accuracy": val,
        "test_accuracy": test,
    }
    save_weights(out, model, made)
    checkpoint.remove()
    print(f"validation accuracy {val:.2%}, test accuracy {test:.2%}; written to {out}")


if __name__ == "__main__":
    run_command(main, Config, __doc__, "epochs that were finished are kept; the same command goes on")
