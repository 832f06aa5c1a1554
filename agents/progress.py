"""What a run says: at the start what will happen, and while it searches the best network so far."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from prune_gym.scoring.latency import seconds
from prune_gym.training.distillation import distill

if TYPE_CHECKING:
    from prune_gym.agents.config import RunConfig
    from prune_gym.envs.pruning import PruningEnv

TIMED_BATCHES = 8
ONE_EPISODE = ("uniform", "taylor", "obs")


class SearchProgress(BaseCallback):
    """Shows in a progress bar the evaluations, the network of the last step, and the best one at the target."""

    def __init__(self, env: PruningEnv, bar: tqdm):
        super().__init__()
        self.inner, self.bar = env, bar

    def _on_step(self) -> bool:
        if self.locals.get("kind", "step") == "step":
            info, best = self.locals["infos"][0], self.inner.best
            now = f"now {info['accuracy']:.2%} at {-info['flops_reduction']:.0%} MACs"
            self.bar.set_postfix_str(now if best is None else f"{now}, best {best.yardstick:.4f}", refresh=False)
        self.bar.update()
        return True


def announcement(config: RunConfig, agent: str, env: PruningEnv, evaluations: int, folder: Path) -> str:
    """What a run will do, how long that takes about, and where it writes. ``env`` is at the start of an episode."""
    simulator, training, steps = env.simulator, config.posttraining, env.steps_left
    space, split = simulator.space, simulator.scorer.split
    sentences = [
        f"{agent} prunes {env.task.name}: {simulator.schedule.target / space.total:.1%} of the {space.unit} in {steps} steps."
    ]
    if training.epochs:
        after = "every step" if training.period == 1 else f"every {training.period} steps"
        sentences.append(f"After {after} the network is trained for {training.epochs} epochs.")
    sentences.append(f"At most {evaluations} networks are scored ({config.fidelity}, {len(split)} images).")
    duration = in_words(expected_seconds(config, env, evaluations))
    return f"{' '.join(sentences)}\nThis takes about {duration} on {simulator.device}. Run folder: {folder}"


def expected_seconds(config: RunConfig, env: PruningEnv, evaluations: int) -> float:
    """About how long a search takes, from the time of two scored networks and of a short training."""
    simulator, steps = env.simulator, env.steps_left
    start, uniform, equal = simulator.initial(), env.uniform_action, np.ones(len(env.graph.groups))
    states = [*simulator.successors(start, [uniform, equal]), *simulator.successors(start, [uniform], to_target=True)]
    first, *others = [state.architecture for state in states]
    evaluator = simulator.scorer.evaluator(start.weights)
    evaluator.accuracies([first])  # so that what is computed once is known
    scored = min(evaluations, steps) if config.agent in ONE_EPISODE else evaluations
    duration = scored * seconds(lambda: evaluator.accuracies(others), simulator.device) / len(others)
    if config.posttraining.epochs:
        trainings = expected_episodes(config, steps, evaluations) * -(-steps // config.posttraining.period)
        half_way = 1 - simulator.schedule.target / simulator.space.total / 2  # what is left of the network on average
        duration += trainings * half_way * training_seconds(config, env)
    return duration


def training_seconds(config: RunConfig, env: PruningEnv) -> float:
    """About how long one post-training of the original network takes, from a short one."""
    simulator, task, settings = env.simulator, env.task, config.posttraining
    network, teacher = (simulator.network(simulator.initial()) for _ in range(2))
    few = task.train.sample(min(len(task.train), TIMED_BATCHES * settings.batch_size)).to(simulator.device)
    short, val = replace(settings, epochs=1), task.val.to(simulator.device)
    epoch = seconds(lambda: distill(network, teacher, few, val, short, 0, task.augmentation), simulator.device)
    return settings.epochs * epoch * len(task.train) / len(few)


def expected_episodes(config: RunConfig, steps: int, evaluations: int) -> int:
    """How often an agent prunes to the target: searches that preview do so less often than those that only step."""
    if config.agent in ONE_EPISODE:
        return 1
    per_episode = {
        "rl_pruner": config.rl_pruner.evaluations(steps),
        "lookahead": steps * (1 + config.lookahead.stages * config.lookahead.samples),
    }
    return max(1, evaluations // per_episode.get(config.agent, steps))


def in_words(duration: float) -> str:
    """Seconds as people say them, rounded up."""
    for unit, length in (("hour", 3600), ("minute", 60)):
        if duration > length:
            number = round(duration / length)
            return f"{number} {unit}{'s' * (number > 1)}"
    number = max(1, round(duration))
    return f"{number} second{'s' * (number > 1)}"
