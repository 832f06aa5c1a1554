"""The agents by name, each made from the settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm

from prune_gym.agents.amc import make_amc
from prune_gym.agents.baselines import GlobalLampAgent, GlobalSurgeonAgent, GlobalTaylorAgent, RandomAgent, UniformAgent
from prune_gym.agents.cma_es import CMAESAgent
from prune_gym.agents.eagle_eye import EagleEyeAgent
from prune_gym.agents.gnn_rl import GNNRL
from prune_gym.agents.greedy import GreedyAgent
from prune_gym.agents.lookahead import Lookahead
from prune_gym.agents.plugins import AgentMaker, Agents, check_agent_name
from prune_gym.agents.rl_pruner import RLPruner
from prune_gym.agents.sb3 import make_sb3
from prune_gym.agents.tpe import TPEAgent
from prune_gym.agents.uct import UCT
from prune_gym.agents.work import check_pays
from prune_gym.envs.wrappers import pruning_env

if TYPE_CHECKING:
    from prune_gym.agents.config import RunConfig

Maker = TypeVar("Maker", bound=AgentMaker)


def _sb3(name: str, settings: str) -> AgentMaker:
    def make(config: RunConfig, env: gymnasium.Env) -> BaseAlgorithm:
        inner = pruning_env(env)
        budget = config.budget(inner)
        check_pays(budget, inner.steps_left)  # rather than be told of rollouts that are too long
        return make_sb3(name, env, getattr(config, settings), budget, config.seed)

    return make


AGENTS = Agents({
    "rl_pruner": lambda config, env: RLPruner(env, config.rl_pruner, seed=config.seed),
    "ppo": _sb3("ppo", "ppo"),
    "recurrent_ppo": _sb3("recurrent_ppo", "ppo"),
    "trpo": _sb3("trpo", "trpo"),
    "a2c": _sb3("a2c", "a2c"),
    "sac": _sb3("sac", "off_policy"),
    "tqc": _sb3("tqc", "off_policy"),
    "td3": _sb3("td3", "off_policy"),
    "ddpg": _sb3("ddpg", "off_policy"),
    "dqn": _sb3("dqn", "dqn"),
    "ars": _sb3("ars", "ars"),
    "amc": lambda config, env: make_amc(env, config.amc, config.budget(pruning_env(env)), config.seed),
    "cacp": lambda config, env: make_amc(env, config.cacp, config.budget(pruning_env(env)), config.seed),
    "gnn_rl": lambda config, env: GNNRL(env, config.gnn_rl, seed=config.seed),
    "taylor": lambda config, env: GlobalTaylorAgent(env, seed=config.seed),
    "obs": lambda config, env: GlobalSurgeonAgent(env, seed=config.seed),
    "lamp": lambda config, env: GlobalLampAgent(env, seed=config.seed),
    "lookahead": lambda config, env: Lookahead(env, config.lookahead, seed=config.seed),
    "uct": lambda config, env: UCT(env, config.uct, seed=config.seed),
    "cma_es": lambda config, env: CMAESAgent(env, config.cma_es, seed=config.seed),
    "tpe": lambda config, env: TPEAgent(env, config.tpe, seed=config.seed),
    "eagle_eye": lambda config, env: EagleEyeAgent(env, config.eagle_eye, seed=config.seed),
    "greedy": lambda config, env: GreedyAgent(env, seed=config.seed),
    "uniform": lambda config, env: UniformAgent(env, seed=config.seed),
    "random": lambda config, env: RandomAgent(env, config.random, seed=config.seed),
})  # fmt: skip
READ_BY = {  # settings, and the agents that read them; by default, the evaluations of a run are those of rl_pruner
    "rl_pruner": ("rl_pruner",),
    "ppo": ("ppo", "recurrent_ppo"),
    "trpo": ("trpo",),
    "a2c": ("a2c",),
    "off_policy": ("sac", "tqc", "td3", "ddpg"),
    "dqn": ("dqn",),
    "ars": ("ars",),
    "amc": ("amc",),
    "cacp": ("cacp",),
    "gnn_rl": ("gnn_rl",),
    "lookahead": ("lookahead",),
    "uct": ("uct",),
    "cma_es": ("cma_es",),
    "tpe": ("tpe",),
    "eagle_eye": ("eagle_eye",),
    "random": ("random",),
}


def register_agent(name: str) -> Callable[[Maker], Maker]:
    """Give an agent of your own a name in this process, for ``RunConfig(agent=name)``, runs and comparisons::

        @register_agent("mine")
        def make(config, env):
            return Mine(env, seed=config.seed)

    The function is given the settings of a run and the environment, and returns an algorithm of Stable-Baselines3 or a
    :class:`prune_gym.agents.SearchAgent`. One whose timesteps do not all score a network says in an attribute
    ``steps_per_evaluation`` after how many of them one does, and its environment puts ``scored`` into the infos; one that scores
    networks at the target alone has ``at_once = True``, so that a budget of fewer evaluations than steps is enough. Settings of
    this project's agents are refused with it; it has its own.

    A comparison starts processes, which import the main program again, so register outside of ``if __name__ == "__main__":``.
    A package that is to be found without an import, on the command line, too, names the function in its pyproject.toml::

        [project.entry-points."prune_gym.agents"]
        mine = "my_package:make"

    The same function defined anew, as in a notebook's cell, takes the place of the first.

    Raises TypeError for a name that is no string and for what cannot be called, ValueError for a name that is taken, or that is
    no Python identifier.
    """

    def register(maker: Maker) -> Maker:
        AGENTS.add(name, maker)
        return maker

    check_agent_name(name)
    return register


def make_agent(config: RunConfig, env: gymnasium.Env) -> BaseAlgorithm:
    """The agent that ``config`` names, on ``env``, a pruning environment.

    Raises ValueError for settings that have no effect on it, and if it was registered in another process only; for an agent of an
    installed package what :func:`prune_gym.agents.plugins.load_entry_point` raises.
    """
    if config.agent not in AGENTS:
        raise ValueError(
            f"agent: {config.agent!r} is not registered in this process; call register_agent in a module that it imports, or "
            'outside of if __name__ == "__main__", or install the package that has it.'
        )
    for settings, agents in READ_BY.items():
        chosen: Any = getattr(config, settings)
        sets_budget = settings == "rl_pruner" and config.evaluations is None
        if config.agent not in agents and not sets_budget and chosen != type(chosen)():
            raise ValueError(
                f"{settings}: these settings have no effect on {config.agent!r}; leave them out, or choose an agent that reads "
                f"them: {', '.join(agents)}."
            )
    return AGENTS[config.agent](config, env)
