"""How much work each experiment of the paper is, at its own scale and at one that fits a laptop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from prune_gym.agents import RLPrunerConfig
from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.simulation.schedule import step_budget
from prune_gym.simulation.space import PruningSpace
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import RECIPES, Recipe


@dataclass(frozen=True)
class Scale:
    """How much work an experiment is."""

    sparsities: tuple[float, ...]
    """Channel sparsities at which networks are measured, rising."""
    step_ratio: float = 0.01
    """Filters that a pruning step removes, over filters of the original network."""
    rl_pruner: RLPrunerConfig = field(default_factory=RLPrunerConfig)
    """Stages and samples of every pruning step."""
    posttraining: PostTraining = field(default_factory=lambda: PostTraining(epochs=20, start="cut"))
    """After which steps networks are trained, and how."""
    scratch: Recipe = RECIPES["paper"]
    """How a pruned architecture is trained from scratch, on all training images."""
    train_images: int | None = None
    """Training images that post-training takes, drawn at random with a fixed seed; None for all."""
    val_images: int | None = None
    """Images that rewards are computed on, drawn like those; None for all of their split."""

    def steps(self, sparsity: float, graph: ChannelGraph) -> int:
        """Pruning steps to the sparsity, as near as whole steps come to it."""
        return round(sparsity * graph.n_filters / step_budget(PruningSpace(graph), self.step_ratio))

    def describe(self) -> str:
        """The work in a sentence."""
        agent, training = self.rl_pruner, self.posttraining
        images = [f"{n or 'all'} {kind}" for n, kind in ((self.train_images, "training"), (self.val_images, "reward"))]
        return (
            f"Step ratio {self.step_ratio}, {agent.stages} stages of {agent.samples} samples, post-training of {training.epochs} "
            f"epochs every {training.period} steps (learning rate {training.learning_rate}, batches of {training.batch_size}); "
            f"{' and '.join(images)} images; accuracies are of all test images."
        )


# Small: what one core does in minutes. Networks are trained where they are measured, not after every step.
SMALL = Scale(
    sparsities=(),
    step_ratio=0.05,
    rl_pruner=RLPrunerConfig(stages=4, samples=5),
    posttraining=PostTraining(epochs=2, period=5, start="cut", learning_rate=0.01, batch_size=128),
    scratch=Recipe(2, 128, 0.1, 5e-4, 0.0, optimizer="sgd"),
    train_images=2500,
    val_images=250,
)
COARSE = replace(SMALL, step_ratio=0.1, posttraining=replace(SMALL.posttraining, period=2))
BRIEF = replace(SMALL.posttraining, epochs=1)
SCALES = {
    "table1": {"paper": Scale((0.2, 0.4, 0.6, 0.8)), "small": replace(COARSE, sparsities=(0.2, 0.4, 0.6, 0.8))},
    "table2": {
        "paper": Scale((0.25, 0.5, 0.75)),
        "small": replace(
            SMALL,
            sparsities=(0.25, 0.5),
            rl_pruner=RLPrunerConfig(stages=5, samples=5),
            posttraining=replace(SMALL.posttraining, epochs=3),
            train_images=5000,
            val_images=500,
        ),
    },
    "table3": {
        "paper": Scale((0.25, 0.5, 0.75)),
        "small": replace(SMALL, sparsities=(0.25, 0.5, 0.75), rl_pruner=RLPrunerConfig(stages=3, samples=4), posttraining=BRIEF),
    },
    "table4": {
        "paper": Scale((0.4, 0.6, 0.8)),
        "small": replace(COARSE, sparsities=(0.4, 0.6, 0.8), scratch=replace(SMALL.scratch, epochs=1)),
    },
    "figure1": {
        "paper": Scale((0.0, 0.25, 0.5, 0.75)),
        "small": replace(SMALL, sparsities=(0.0, 0.25, 0.5, 0.75), posttraining=BRIEF),
    },
    "figure3": {"paper": Scale((0.75,)), "small": replace(SMALL, sparsities=(0.75,), posttraining=PostTraining(epochs=0))},
}
