"""A training that is stopped and goes on ends as one that is not, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import Split
from prune_gym.training import distillation
from prune_gym.training.checkpoint import Checkpoint
from prune_gym.training.distillation import PostTraining, distill
from prune_gym.training.tensor_file import tensors_of
from prune_gym.training.train import Recipe, train

RECIPES = [
    Recipe(epochs=5, batch_size=16, learning_rate=0.05, optimizer="sgd", warmup=0.3),
    Recipe(epochs=5, batch_size=16, learning_rate=0.01),
]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
SHIFTED = Augmentation(padding=1, flip=True)


def data(images: int = 50, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.randn(images, 1, 8, 8, generator=generator), torch.arange(images) % 3)


def network(seed: int = 0) -> nn.Module:
    """With a norm, whose buffers change, and with dropout, which reads PyTorch's global generator."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 3)]
    model = nn.Sequential(*layers)
    model.register_buffer("own", torch.ones(2), persistent=False)
    return model


class Stopping(Checkpoint):
    """Stops the training after the epochs ``at``, once each, as Ctrl-C does."""

    at: ClassVar[set[int]] = set()

    def write(self, epochs: int) -> None:
        super().write(epochs)
        if epochs in self.at:
            self.at.remove(epochs)
            raise KeyboardInterrupt


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, tensors_of(other)[name]) for name, tensor in tensors_of(one).items())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.optimizer)
@pytest.mark.parametrize("stops", [[1], [2, 3], [5]])
def test_equal_to_a_training_without_stops(
    device: str, recipe: Recipe, stops: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, path, epochs = network().to(device), tmp_path / "state.safetensors", []
    images = data().to(torch.device(device))
    train(whole, images, recipe, augmentation=SHIFTED)
    monkeypatch.setattr(Stopping, "at", set(stops))

    def go_on() -> nn.Module:
        model = network().to(device)
        count = lambda model: epochs.append(len(epochs))  # noqa: E731
        train(model, images, recipe, augmentation=SHIFTED, after_epoch=count, checkpoint=Stopping(path))
        return model

    before = torch.random.get_rng_state()
    for _ in stops:
        with pytest.raises(KeyboardInterrupt):
            go_on()
    ended = go_on()
    assert same(ended, whole)
    assert not ended.training
    assert same(go_on(), whole)  # where there is nothing left to do
    assert len(epochs) == recipe.epochs
    assert torch.equal(torch.random.get_rng_state(), before)
    Checkpoint(path).remove()
    assert not list(tmp_path.iterdir())
    Checkpoint(path).remove()


def test_the_best_epoch_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it was before the stop."""
    settings, teacher = PostTraining(epochs=4, learning_rate=0.3, batch_size=16), network(1).eval()

    def distilled(file: Path | None) -> tuple[nn.Module, float]:
        student = network()
        return student, distill(student, teacher, data(), data(20, seed=1), settings, 0, checkpoint=file)

    whole, best = distilled(None)
    monkeypatch.setattr(distillation, "Checkpoint", Stopping)
    for epoch in range(1, 5):
        monkeypatch.setattr(Stopping, "at", {epoch})
        with pytest.raises(KeyboardInterrupt):
            distilled(tmp_path / f"{epoch}.safetensors")
        gone_on, accuracy = distilled(tmp_path / f"{epoch}.safetensors")
        assert accuracy == best
        assert same(gone_on, whole)


def test_a_checkpoint_belongs_to_one_training(tmp_path: Path) -> None:
    recipe, checkpoint = RECIPES[0], Checkpoint(tmp_path / "state.safetensors")
    train(network(), data(), recipe, checkpoint=checkpoint)
    stored = checkpoint.path.read_bytes()
    others = [
        (network(1), data(), recipe, None, ""),
        (network(), data(seed=1), recipe, None, ""),
        (network(), data(), replace(recipe, learning_rate=0.04), None, ""),
        (network(), data(), recipe, SHIFTED, ""),
        (network(), data(), recipe, None, "another teacher"),
    ]
    for model, images, other, augmentation, about in others:
        untouched = copy.deepcopy(model)
        with pytest.raises(ValueError, match=r"state\.safetensors: expected the state of this training, but it is of one with "):
            train(model, images, other, augmentation=augmentation, checkpoint=Checkpoint(checkpoint.path, about))
        assert same(model, untouched)
    assert checkpoint.path.read_bytes() == stored


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-5], lambda content: content[:-9] + b"123456789", lambda content: b"{}"]
)
def test_damaged_files_are_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    train(network(), data(), RECIPES[0], checkpoint=Checkpoint(path))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"state\.safetensors: damaged, or not the state of a training .*; delete it to train anew"
    ):
        train(network(), data(), RECIPES[0], checkpoint=Checkpoint(path))


def test_a_folder_that_cannot_be_written_is_noticed_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        train(network(), data(), RECIPES[0], after_epoch=pytest.fail, checkpoint=Checkpoint(tmp_path / "file" / "state"))
    with pytest.raises(TypeError, match="checkpoint: expected a path, got int"):
        Checkpoint(3)  # type: ignore[arg-type]
