"""A network to experiment on, and two scales that take seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prune_gym import tasks
from prune_gym.agents import RLPrunerConfig
from prune_gym.benchmark.paper.experiment import Experiment
from prune_gym.benchmark.paper.scales import Scale
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import Recipe
from prune_gym.training.weights import save_weights

SCRATCH = Recipe(epochs=1, batch_size=64, learning_rate=0.1, weight_decay=5e-4, label_smoothing=0.0, optimizer="sgd")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained weights of digits_resnet."""
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    save_weights(path, tasks.load("digits-resnet").model, {})
    return path


@pytest.fixture
def tiny() -> Scale:
    """Four steps of 10%, with a training after every second one."""
    return Scale(
        sparsities=(0.2, 0.4),
        step_ratio=0.1,
        rl_pruner=RLPrunerConfig(stages=1, samples=2),
        posttraining=PostTraining(epochs=1, period=2, batch_size=64),
        scratch=SCRATCH,
        train_images=128,
        val_images=64,
    )


@pytest.fixture
def brief() -> Scale:
    """Two steps of 20%, with a training after each."""
    agent = RLPrunerConfig(stages=1, samples=2)
    return Scale((0.2, 0.4), 0.2, agent, PostTraining(epochs=1, period=1), SCRATCH, train_images=64, val_images=64)


@pytest.fixture
def make_experiment(tiny: Scale, weights: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """An experiment on digits_resnet; its results go to a folder of the test."""

    def make(folder: str = "out", scale: Scale = tiny, **options: Any) -> Experiment:
        return Experiment(scale, tmp_path / folder, "digits_resnet", "digits", weights, device="cpu", **options)

    return make
