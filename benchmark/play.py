"""One agent in one game with one seed: what it scored, what it found, and what its policy does in the end."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from prune_gym.agents.config import RunConfig
from prune_gym.agents.gnn_rl import GNNRL
from prune_gym.agents.recorder import SearchRecorder
from prune_gym.agents.registry import make_agent
from prune_gym.agents.results import best_of
from prune_gym.agents.run import search
from prune_gym.agents.search_log import silent_logger
from prune_gym.agents.tuned import chosen_settings
from prune_gym.benchmark.games import REWARD, SELF_COMPETITION, Game, measured
from prune_gym.benchmark.provenance import provenance
from prune_gym.envs.layerwise import LayerwiseEnv
from prune_gym.envs.rewards import SelfCompetition
from prune_gym.training.train import deterministic

DEFAULT = "{}"  # settings
KINDS = ("step", "preview", "target")  # how a network was scored, see SearchRecorder
KEY = ("task", "base", "macs_reduction", "budget", "agent", "settings", "reward", "seed")


@dataclass(frozen=True)
class Play:
    """An agent, with its settings where they are not the default ones, as JSON, and the reward that it learns from; a game; a
    seed."""

    game: Game
    agent: str
    seed: int
    settings: str = DEFAULT
    reward: str = REWARD

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from other plays."""
        game = self.game
        problem = (game.task, game.base, game.macs_reduction, game.evaluations)
        return dict(zip(KEY, (*problem, self.agent, self.settings, self.reward, self.seed), strict=True))

    @property
    def digest(self) -> str:
        """The key as a name of a file."""
        return digest(self.key)

    @property
    def config(self) -> RunConfig:
        game = self.game
        chosen = chosen_settings(self.agent, json.loads(self.settings))
        return RunConfig(
            agent=self.agent, seed=self.seed, evaluations=game.evaluations, macs_reduction=game.macs_reduction, **chosen
        )

    def __str__(self) -> str:
        game = self.game
        settings = "" if self.settings == DEFAULT else f" with {self.settings}"
        settings += "" if self.reward == REWARD else f" under {self.reward}"
        return f"{self.agent}{settings} on {game.task}-{game.base} at -{game.macs_reduction:.0%}, seed {self.seed}"


def digest(key: Mapping[str, Any]) -> str:
    """The key of a play as a name."""
    return hashlib.blake2b(json.dumps({name: key[name] for name in KEY}).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Record:
    """What a play gave.

    Attributes:
        key: as of the play.
        found: what :func:`prune_gym.benchmark.games.measured` says of the best network at the target, by the yardstick;
            ``policy_accuracy`` and ``policy_macs`` of the network that the final policy leads to without noise; and
            ``full_cost``, the MACs that scoring the original network takes, a unit of compute.
        made: versions, commit, when it began, and how many seconds it took.
        networks: an array with an element for each scored network: ``kind`` (an index of :data:`KINDS`), ``accuracy`` (float64),
            ``macs``, ``params``, ``compute`` (int64, what the search had cost up to there), ``widths`` (int32 (n, groups)).
    """

    key: Mapping[str, Any]
    found: Mapping[str, Any]
    made: Mapping[str, Any]
    networks: Mapping[str, np.ndarray]


@deterministic()
def play(one: Play, made: Mapping[str, Any] | None = None) -> Record:
    """Let an agent search, and look at what it found. ``made`` is the provenance of the program, by default that of this moment.

    Raises ValueError for a budget that is too small for an episode, and what the agent raises.
    """
    began, start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.perf_counter()
    env = one.game.environment(one.reward)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* learns for the first time after ")  # the budget is what it is
        agent = make_agent(one.config, SelfCompetition(env) if one.reward == SELF_COMPETITION else env)
    agent.set_logger(silent_logger())
    networks = networks_of(search(env, agent, one.game.evaluations))
    best, simulator = best_of(env, one.agent), env.simulator
    full_cost = simulator.scoring_cost(simulator.initial(), simulator.baseline).macs
    found = measured(env, best.snapshot, best.score) | {"full_cost": full_cost} | policy_of(agent, one.game)
    made = {**(provenance() if made is None else made), "began": began, "seconds": round(time.perf_counter() - start, 2)}
    return Record(one.key, found, made, networks)


def policy_of(agent: BaseAlgorithm, game: Game) -> dict[str, Any]:
    """Where the agent goes from the original network if it adds no noise: an episode that no budget counts. A search that has no
    policy goes to the best network that it found."""
    if isinstance(agent, GNNRL):  # its policy goes to widths, and predict to the best network
        env = agent.pruning_env
        env.reset()
        score = env.prune_to(agent.policy_widths(env)).score
        return {"policy_accuracy": score.accuracy, "policy_macs": score.macs}
    vectorised = agent.get_env()
    assert vectorised is not None
    inner = vectorised.get_attr("unwrapped")[0]
    if isinstance(inner, LayerwiseEnv) and inner.targets is not None:  # else it would draw another target
        vectorised.set_options({"target": game.macs_reduction})
    observation: Any = vectorised.reset()
    state, starts = None, np.ones(1, dtype=bool)
    ended = False
    while not ended:
        action, state = agent.predict(observation, state=state, episode_start=starts, deterministic=True)
        observation, _, starts, infos = vectorised.step(action)
        ended = bool(starts[0])
    return {"policy_accuracy": infos[0]["accuracy"], "policy_macs": infos[0]["macs"]}


def networks_of(recorder: SearchRecorder) -> dict[str, np.ndarray]:
    """The rows of a recorder as arrays."""
    rows = recorder.rows
    arrays = {name: np.array([row[name] for row in rows], np.int64) for name in ("macs", "params", "compute")}
    arrays["accuracy"] = np.array([row["accuracy"] for row in rows])
    arrays["kind"] = np.array([KINDS.index(row["kind"]) for row in rows], np.uint8)
    arrays["widths"] = np.array([[row[name] for name in row if name.startswith("width:")] for row in rows], np.int32)
    return arrays
