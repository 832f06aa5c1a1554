"""Agents by name: those of this project, those that a program registers, and those of installed packages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm

if TYPE_CHECKING:
    from prune_gym.agents.config import RunConfig

AgentMaker = Callable[["RunConfig", gymnasium.Env], BaseAlgorithm]

GROUP = "prune_gym.agents"  # of entry points


class Agents(Mapping[str, AgentMaker]):
    """What makes the agents, by their names, in the order in which they were added.

    A name that was not added is looked up among the entry points of installed packages at that moment, so that every process
    finds their agents, worker processes and the command line included. A package is imported when its agent is made.
    """

    def __init__(self, makers: Mapping[str, AgentMaker]):
        self._makers = dict(makers)

    def __getitem__(self, name: str) -> AgentMaker:
        """Raises KeyError for a name that there is not, and what :func:`load_entry_point` raises."""
        if name not in self._makers:
            self._makers[name] = load_entry_point(name)
        return self._makers[name]

    def __contains__(self, name: object) -> bool:
        return name in self._makers or name in entry_points(group=GROUP).names

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._makers, *sorted(entry_points(group=GROUP).names)]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def add(self, name: str, maker: AgentMaker) -> None:
        """Raises TypeError or ValueError like :func:`prune_gym.agents.register_agent`."""
        check_agent_name(name)
        if not callable(maker):
            raise TypeError(f"{name}: expected a function (config, env) that makes an agent, got {maker!r}.")
        known = self._makers.get(name)
        if known is not None and not _defined_anew(known, maker):
            raise ValueError(f"name: {name!r} is the name of another agent, made by {_place(known)}; choose another one.")
        package = _place(maker).partition(".")[0]
        for point in entry_points(group=GROUP, name=name):
            if point.module.partition(".")[0] != package:
                raise ValueError(
                    f"name: {name!r} is the name of another agent, the entry point {point.value}; choose another one."
                )
        self._makers[name] = maker


def load_entry_point(name: str) -> AgentMaker:
    """What makes the agent that an installed package brings along.

    Raises KeyError if there is no such entry point, ValueError if several packages have it, ImportError if it cannot be loaded or
    has a bad name, TypeError if it is no function. The messages name it.
    """
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise KeyError(name)
    described = [f"{point.value!r} of {point.dist.name if point.dist else 'a package'}" for point in found]
    if len(found) > 1:
        raise ValueError(f"agent: {name!r} is the entry point {' and '.join(described)}; uninstall all but one of them.")
    try:
        check_agent_name(name)
        maker = found[0].load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(".")
        raise ImportError(
            f"agent: {name!r} is the entry point {described[0]}, which cannot be loaded ({reason}); repair the package, or "
            "uninstall it."
        ) from error
    if not callable(maker):
        raise TypeError(
            f"agent: {name!r} is the entry point {described[0]}; expected a function (config, env) that makes an agent, "
            f"got {maker!r}."
        )
    return maker


def check_agent_name(name: object) -> None:
    """Raise TypeError for what is no string, ValueError for what cannot be part of file names, tables and command lines."""
    if not isinstance(name, str):
        raise TypeError(f'name: expected a name, got {name!r}; write @register_agent("NAME") above the function.')
    if not name.isidentifier():
        raise ValueError(f"name: expected letters, digits and _, and no digit at the beginning, got {name!r}.")


def _place(maker: AgentMaker) -> str:
    """Where a function is defined."""
    return f"{getattr(maker, '__module__', '')}.{getattr(maker, '__qualname__', maker)}"


def _defined_anew(known: AgentMaker, maker: AgentMaker) -> bool:
    """Whether both are the same function of a module: of a cell or a module that is run again."""
    return known is maker or ("<" not in getattr(maker, "__qualname__", "<") and _place(known) == _place(maker))
