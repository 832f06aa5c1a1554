"""How much work the experiments are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prune_gym.agents import RLPrunerConfig
from prune_gym.benchmark.paper.scales import SCALES, Scale
from prune_gym.benchmark.paper.tables_and_figures import EXPERIMENTS
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import RECIPES


def test_the_scale_of_the_paper() -> None:
    assert SCALES.keys() == EXPERIMENTS.keys()
    sparsities = {
        "table1": (0.2, 0.4, 0.6, 0.8),
        "table2": (0.25, 0.5, 0.75),
        "table3": (0.25, 0.5, 0.75),
        "table4": (0.4, 0.6, 0.8),
        "figure1": (0.0, 0.25, 0.5, 0.75),
        "figure3": (0.75,),
    }
    for name, scale in SCALES.items():
        assert scale.keys() == {"paper", "small"}
        assert scale["paper"] == Scale(
            sparsities[name],
            step_ratio=0.01,
            rl_pruner=RLPrunerConfig(stages=10, samples=10),
            posttraining=PostTraining(epochs=20, period=1, start="cut"),
            scratch=RECIPES["paper"],
            train_images=None,
            val_images=None,
        )
        small = scale["small"]
        assert small.sparsities == sparsities[name][: len(small.sparsities)]
        assert small.step_ratio > 0.01
        assert small.posttraining.epochs <= 3
        assert small.posttraining.start == "cut" or not small.posttraining.epochs


@pytest.mark.parametrize(
    ("sparsity", "steps"), [(0.0, 0), (0.04, 0), (0.05, 1), (0.1, 1), (0.14, 1), (0.15, 2), (0.5, 5), (0.9, 10)]
)
def test_steps_come_as_near_as_they_can(tiny_task: Task, tiny: Scale, sparsity: float, steps: int) -> None:
    assert tiny_task.graph.n_filters == 64  # a step of 10% is 6 of them
    assert tiny.steps(sparsity, tiny_task.graph) == steps


def test_the_work_in_a_sentence(tiny: Scale) -> None:
    assert tiny.describe() == (
        "Step ratio 0.1, 1 stages of 2 samples, post-training of 1 epochs every 2 steps (learning rate 0.001, batches of 64); "
        "128 training and 64 reward images; accuracies are of all test images."
    )
    assert "all training and all reward images" in replace(tiny, train_images=None, val_images=None).describe()
