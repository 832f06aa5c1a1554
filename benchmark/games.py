"""What the benchmark plays: a network, a target and a budget, live or on a table where the best network is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prune_gym import tables, tasks
from prune_gym.envs.pruning import PruningEnv
from prune_gym.envs.tabular import TabularEnv
from prune_gym.graph.channel_graph import Architecture, ChannelGraph
from prune_gym.scoring.evaluation import Score
from prune_gym.surgery.slicing import check_architecture
from prune_gym.training.train import accuracy

TABULAR = "tabular-"
TASKS = (*(TABULAR + name for name in tables.DIGESTS), *tables.DIGESTS)
BASES = (0, 1)  # settings are tuned on the first base network of a task, and reported on the second
REWARD = "accuracy"  # what agents learn from, unless a play says otherwise
SELF_COMPETITION = "self_competition"  # prune_gym.envs.SelfCompetition, a reward that is no function of a step


@dataclass(frozen=True)
class Game:
    """A task, the seed of its base network, the MACs to remove as a fraction, and how many networks may be scored."""

    task: str
    base: int
    macs_reduction: float
    evaluations: int

    @property
    def tabular(self) -> bool:
        return self.task.startswith(TABULAR)

    @property
    def network(self) -> str:
        """The task whose network is pruned, live or on its table."""
        return self.task.removeprefix(TABULAR)

    def environment(self, reward: str = REWARD) -> PruningEnv:
        """A new environment, on the CPU, where the same seed gives the same result. Of competition with oneself, what is inside
        of its wrapper."""
        reward = REWARD if reward == SELF_COMPETITION else reward
        if self.tabular:
            return TabularEnv(self.network, base=self.base, macs_reduction=self.macs_reduction, reward=reward)
        task = tasks.load(self.network, seed=self.base)
        return PruningEnv(task, macs_reduction=self.macs_reduction, reward=reward, device="cpu")


def test_accuracy(env: PruningEnv, snapshot: Any) -> float:
    """The test accuracy in [0, 1] of a network that was found: for reports alone."""
    if isinstance(env, TabularEnv):
        return env.simulator.test_accuracy(snapshot)
    return accuracy(env.simulator.network(env.simulator.attach(snapshot)), env.task.test)


def architecture_text(env: PruningEnv, snapshot: Any) -> str:
    """A network as text: on a table the widths of its groups; live, where rankings change on the way, the units that it keeps, as
    hexadecimal digits of eight bits in two."""
    if isinstance(env, TabularEnv):
        return " ".join(map(str, snapshot.widths))
    return np.packbits(snapshot.architecture.mask).tobytes().hex()


def measured(env: PruningEnv, state: Any, score: Score) -> dict[str, Any]:
    """What a report says of a network at the target; on a table also its regret."""
    found = {
        "val_accuracy": score.accuracy,
        "test_accuracy": test_accuracy(env, state),
        "macs": score.macs,
        "architecture": architecture_text(env, state),
        "full_macs": env.simulator.baseline.macs,
    }
    return found | ({"regret": env.regret(state)} if isinstance(env, TabularEnv) else {})


def replay(game: Game, text: str) -> dict[str, Any]:
    """Score the network again that :func:`architecture_text` gave for a play of a game: what :func:`measured` says of it.

    Raises ValueError for what is no network of the game, and for one that is not at its target.
    """
    env = game.environment()
    simulator = env.simulator
    if isinstance(env, TabularEnv):
        state = simulator.at(_widths(text, simulator.space.allowed))
    else:
        nothing = np.zeros(len(env.graph.groups))
        state = simulator.initial().pruned(_architecture(text, env.graph), nothing, nothing)
    score = simulator.score(state)
    if not simulator.is_terminal(state):
        raise ValueError(
            f"architecture: expected {game.macs_reduction:.0%} of the MACs to be gone, got {score.flops_reduction:.2%}."
        )
    return measured(env, state, score)


def _widths(text: str, allowed: Sequence[np.ndarray]) -> np.ndarray:
    widths = np.array([int(number) for number in text.split()])
    if len(widths) != len(allowed) or any(width not in each for width, each in zip(widths, allowed, strict=True)):
        raise ValueError(f"architecture: expected a width of the table for each of {len(allowed)} groups, got {text!r}.")
    return widths


def _architecture(text: str, graph: ChannelGraph) -> Architecture:
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)).astype(bool)
    if not graph.n_units <= len(bits) < graph.n_units + 8 or bits[graph.n_units :].any():
        raise ValueError(f"architecture: expected {graph.n_units} units as hexadecimal digits, got {text!r}.")
    architecture = Architecture(graph, bits[: graph.n_units])
    check_architecture(architecture, graph)
    return architecture
