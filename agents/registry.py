"""The agents by name, each made from the settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm

from prune_gym.agents.baselines import GlobalSurgeonAgent, GlobalTaylorAgent, RandomAgent, UniformAgent
from prune_gym.agents.cma_es import CMAESAgent
from prune_gym.agents.lookahead import Lookahead
from prune_gym.agents.rl_pruner import RLPruner
from prune_gym.agents.sb3 import make_sb3
from prune_gym.agents.uct import UCT
from prune_gym.envs.wrappers import pruning_env

if TYPE_CHECKING:
    from prune_gym.agents.config import RunConfig

AgentMaker = Callable[["RunConfig", gymnasium.Env], BaseAlgorithm]


def _sb3(name: str, settings: str) -> AgentMaker:
    def make(config: RunConfig, env: gymnasium.Env) -> BaseAlgorithm:
        return make_sb3(name, env, getattr(config, settings), config.budget(pruning_env(env)), config.seed)

    return make


AGENTS: dict[str, AgentMaker] = {
    "rl_pruner": lambda config, env: RLPruner(env, config.rl_pruner, seed=config.seed),
    "ppo": _sb3("ppo", "ppo"),
    "a2c": _sb3("a2c", "a2c"),
    "sac": _sb3("sac", "off_policy"),
    "td3": _sb3("td3", "off_policy"),
    "ddpg": _sb3("ddpg", "off_policy"),
    "taylor": lambda config, env: GlobalTaylorAgent(env, seed=config.seed),
    "obs": lambda config, env: GlobalSurgeonAgent(env, seed=config.seed),
    "lookahead": lambda config, env: Lookahead(env, config.lookahead, seed=config.seed),
    "uct": lambda config, env: UCT(env, config.uct, seed=config.seed),
    "cma_es": lambda config, env: CMAESAgent(env, config.cma_es, seed=config.seed),
    "uniform": lambda config, env: UniformAgent(env, seed=config.seed),
    "random": lambda config, env: RandomAgent(env, config.random, seed=config.seed),
}
READ_BY = {  # settings, and the agents that read them; by default, the evaluations of a run are those of rl_pruner
    "rl_pruner": ("rl_pruner",),
    "ppo": ("ppo",),
    "a2c": ("a2c",),
    "off_policy": ("sac", "td3", "ddpg"),
    "lookahead": ("lookahead",),
    "uct": ("uct",),
    "cma_es": ("cma_es",),
    "random": ("random",),
}


def make_agent(config: RunConfig, env: gymnasium.Env) -> BaseAlgorithm:
    """The agent that ``config`` names, on ``env``, a pruning environment. Raises ValueError for settings that have no effect on
    it."""
    for settings, agents in READ_BY.items():
        chosen: Any = getattr(config, settings)
        sets_budget = settings == "rl_pruner" and config.evaluations is None
        if config.agent not in agents and not sets_budget and chosen != type(chosen)():
            raise ValueError(
                f"{settings}: these settings have no effect on {config.agent!r}; leave them out, or choose an agent that reads "
                f"them: {', '.join(agents)}."
            )
    return AGENTS[config.agent](config, env)
