"""The agents by name, each made from the settings of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from prune_gym.agents.search_agent import SearchAgent
from prune_gym.agents.tpe import TPEAgent
from prune_gym.agents.uct import UCT
from prune_gym.agents.work import check_pays
from prune_gym.envs.wrappers import pruning_env

if TYPE_CHECKING:
    from prune_gym.agents.config import RunConfig

Maker = TypeVar("Maker", bound=AgentMaker)


@dataclass(frozen=True)
class SearchMaker:
    """Makes a search of this project, which is given the settings of a run that it reads, by their name, if it reads any."""

    kind: type[SearchAgent]
    settings: str | None = None

    def __call__(self, config: RunConfig, env: gymnasium.Env) -> BaseAlgorithm:
        own = () if self.settings is None else (getattr(config, self.settings),)
        make: Callable[..., BaseAlgorithm] = self.kind
        return make(env, *own, seed=config.seed)


@dataclass(frozen=True)
class SB3Maker:
    """Makes an agent of Stable-Baselines3, by its name, from the settings of a run that it reads."""

    name: str
    settings: str

    def __call__(self, config: RunConfig, env: gymnasium.Env) -> BaseAlgorithm:
        inner = pruning_env(env)
        budget = config.budget(inner)
        check_pays(budget, inner.steps_left)  # rather than be told of rollouts that are too long
        return make_sb3(self.name, env, getattr(config, self.settings), budget, config.seed)


@dataclass(frozen=True)
class AMCMaker:
    """Makes AMC or CACP, which play a game of their own."""

    settings: str

    def __call__(self, config: RunConfig, env: gymnasium.Env) -> BaseAlgorithm:
        return make_amc(env, getattr(config, self.settings), config.budget(pruning_env(env)), config.seed)


BUILT_IN: dict[str, SearchMaker | SB3Maker | AMCMaker] = {
    "rl_pruner": SearchMaker(RLPruner, "rl_pruner"),
    "ppo": SB3Maker("ppo", "ppo"),
    "recurrent_ppo": SB3Maker("recurrent_ppo", "ppo"),
    "trpo": SB3Maker("trpo", "trpo"),
    "a2c": SB3Maker("a2c", "a2c"),
    "sac": SB3Maker("sac", "off_policy"),
    "tqc": SB3Maker("tqc", "off_policy"),
    "td3": SB3Maker("td3", "off_policy"),
    "ddpg": SB3Maker("ddpg", "off_policy"),
    "dqn": SB3Maker("dqn", "dqn"),
    "ars": SB3Maker("ars", "ars"),
    "amc": AMCMaker("amc"),
    "cacp": AMCMaker("cacp"),
    "gnn_rl": SearchMaker(GNNRL, "gnn_rl"),
    "taylor": SearchMaker(GlobalTaylorAgent),
    "obs": SearchMaker(GlobalSurgeonAgent),
    "lamp": SearchMaker(GlobalLampAgent),
    "lookahead": SearchMaker(Lookahead, "lookahead"),
    "uct": SearchMaker(UCT, "uct"),
    "cma_es": SearchMaker(CMAESAgent, "cma_es"),
    "tpe": SearchMaker(TPEAgent, "tpe"),
    "eagle_eye": SearchMaker(EagleEyeAgent, "eagle_eye"),
    "greedy": SearchMaker(GreedyAgent),
    "uniform": SearchMaker(UniformAgent),
    "random": SearchMaker(RandomAgent, "random"),
}
AGENTS = Agents(BUILT_IN)
SETTINGS_OF = {name: maker.settings for name, maker in BUILT_IN.items() if maker.settings is not None}


def reads_reward(agent: str) -> bool:
    """Whether an agent searches otherwise under another reward. Of agents that are not this project's own it is not known, and
    they count as if they did."""
    maker = BUILT_IN.get(agent)
    return not isinstance(maker, SearchMaker) or maker.kind.reads_reward


def sees_wrappers(agent: str) -> bool:
    """Whether an agent learns from the rewards of a wrapper around its environment. Those that are not this project's own count
    as if they did."""
    return not isinstance(BUILT_IN.get(agent), SearchMaker | AMCMaker)


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
    for settings in dict.fromkeys(SETTINGS_OF.values()):
        chosen: Any = getattr(config, settings)
        sets_budget = settings == "rl_pruner" and config.evaluations is None  # which are those of RL-Pruner by default
        if SETTINGS_OF.get(config.agent) != settings and not sets_budget and chosen != type(chosen)():
            readers = [name for name, read in SETTINGS_OF.items() if read == settings]
            raise ValueError(
                f"{settings}: these settings have no effect on {config.agent!r}; leave them out, or choose an agent that reads "
                f"them: {', '.join(readers)}."
            )
    return AGENTS[config.agent](config, env)
