"""What a run says: at the start what will happen, and while it searches the best network so far."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from prune_gym.agents.recorder import has_scored
from prune_gym.agents.search_agent import SearchAgent, steps_to_the_target
from prune_gym.agents.work import Work, work_in_steps
from prune_gym.scoring.latency import seconds
from prune_gym.training.distillation import distill
from prune_gym.training.train import accuracy

if TYPE_CHECKING:
    from prune_gym.agents.config import RunConfig
    from prune_gym.data.splits import Split
    from prune_gym.envs.pruning import PruningEnv

TIMED_BATCHES = 8


class SearchProgress(BaseCallback):
    """Shows in a progress bar the evaluations, the network of the last step, and the best one at the target."""

    def __init__(self, env: PruningEnv, bar: tqdm):
        super().__init__()
        self.inner, self.bar = env, bar

    def _on_step(self) -> bool:
        if not has_scored(self):
            return True
        if self.locals.get("kind", "step") == "step":
            info, best = self.locals["infos"][0], self.inner.best
            now = f"now {info['accuracy']:.2%} at {-info['flops_reduction']:.0%} MACs"
            self.bar.set_postfix_str(now if best is None else f"{now}, best {best.yardstick:.4f}", refresh=False)
        self.bar.update()
        return True


def announcement(config: RunConfig, name: str, agent: BaseAlgorithm, env: PruningEnv, evaluations: int, folder: Path) -> str:
    """What a run will do, about how long all of it takes, and where it writes. ``env`` is at the start of an episode; ``name``
    is that of the agent, or of its class if it is the caller's own."""
    simulator, training, steps = env.simulator, config.posttraining, steps_to_the_target(agent, env.steps_left)
    space, split = simulator.space, simulator.scorer.split
    removed = f"{simulator.schedule.target / space.total:.1%} of the {space.unit}"
    sentences = [f"{name} prunes {env.task.name}: {removed} in {count(steps, 'step')}."]
    if training.epochs:
        once = training.period >= steps
        after = "the last step" if once else "every step" if training.period == 1 else f"every {training.period} steps"
        last = f", after the last one for {training.final_epochs}" if training.final_epochs and not once else ""
        sentences.append(f"After {after} the network is trained for {count(training.at(once).epochs, 'epoch')}{last}.")
    work = agent.expected_work(evaluations, steps) if isinstance(agent, SearchAgent) else work_in_steps(evaluations, steps)
    limit = "" if config.compute is None else f", or as many as {config.compute:.3g} MACs pay for"
    sentences.append(f"At most {count(work.scored, 'network')} are scored ({config.fidelity}, {len(split)} images){limit}.")
    duration = in_words(expected_seconds(config, env, work))
    return f"{' '.join(sentences)}\nFrom the start this takes about {duration} on {simulator.device}. Run folder: {folder}"


def expected_seconds(config: RunConfig, env: PruningEnv, work: Work) -> float:
    """About how long a search takes, from the time of two scored networks, of one ranking and of a short training."""
    simulator, device = env.simulator, env.simulator.device
    start, uniform, equal = simulator.initial(), env.uniform_action, np.ones(len(env.graph.groups))
    states = [*simulator.successors(start, [uniform, equal]), *simulator.successors(start, [uniform], to_target=True)]
    first, *others = states
    evaluator = simulator.scorer.evaluator(start.weights)
    evaluator.accuracies([first.architecture])  # so that what is computed once is known
    scoring = seconds(lambda: evaluator.accuracies([state.architecture for state in others]), device) / len(others)
    ranking = seconds(lambda: simulator.unit_scores(first.network, config.importance), device)
    duration = work.scored * scoring + (work.episodes if config.ranking == "initial" else work.steps) * ranking
    end = 1 - simulator.schedule.target / simulator.space.total  # what is left of the network
    half_way = (1 + end) / 2
    if config.posttraining.epochs:
        final = work.episodes * config.posttraining.at(final=True).epochs
        earlier = work.episodes * (-(-(work.steps // work.episodes) // config.posttraining.period) - 1)
        epochs = earlier * config.posttraining.epochs * half_way + final * end
        duration += epochs * epoch_seconds(config, env)
    if config.compute is not None:
        macs = work.scored * half_way * simulator.scorer.score_cost(first.network, simulator.baseline.macs).macs
        duration *= min(1.0, config.compute / macs)
    return duration


def epoch_seconds(config: RunConfig, env: PruningEnv) -> float:
    """About how long an epoch of post-training of the original network takes, from a short one. The random generators stay as
    they are."""
    simulator, task, settings = env.simulator, env.task, config.posttraining
    network, teacher = (simulator.network(simulator.initial()) for _ in range(2))
    few = task.train.sample(min(len(task.train), TIMED_BATCHES * settings.batch_size)).to(simulator.device)
    short, val = replace(settings, epochs=1, final_epochs=None), task.val.to(simulator.device)
    one = val.subset(slice(1))

    def learn(data: Split) -> None:
        distill(network, teacher, data, one, short, 0, task.augmentation)

    learn(few.subset(slice(settings.batch_size)))  # kernels are made at first
    training = seconds(lambda: learn(few), simulator.device) * len(task.train) / len(few)
    return training + seconds(lambda: accuracy(network, val), simulator.device)


def count(number: int, what: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {what}{'s' * (number != 1)}"


def in_words(duration: float) -> str:
    """Seconds as people say them."""
    for unit, length in (("hour", 3600), ("minute", 60)):
        if duration > length:
            return count(round(duration / length), unit)
    return count(max(1, round(duration)), "second")
