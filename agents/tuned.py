"""Settings that were tuned, as data: ``tuned.json``, made by :mod:`prune_gym.benchmark.tuning`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from prune_gym.agents.config import RunConfig
from prune_gym.agents.registry import SETTINGS_OF
from prune_gym.arguments import check_choice

FILE = "tuned.json"


@cache
def all_tuned() -> dict[str, dict[str, Any]]:
    """For every agent that was tuned ``settings``, the ``ranges`` that they were looked for in, and what they were tuned on:
    ``tables``, ``macs_reduction``, ``evaluations``, ``seeds``, ``trials``; there they had the mean ``regret``, and the default
    settings had ``default_regret``."""
    return json.loads(files(__package__).joinpath(FILE).read_text())


def tuned(agent: str) -> dict[str, Any]:
    """Tuned settings of an agent, for a run::

        RunConfig(agent="ppo", macs_reduction=0.75, **tuned("ppo"))

    They were tuned on tables of the digits tasks, see :func:`all_tuned`; elsewhere others may be better. Raises ValueError for an
    agent that was not tuned.
    """
    check_choice("agent", agent, all_tuned())
    return chosen_settings(agent, all_tuned()[agent]["settings"])


def chosen_settings(agent: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an agent as arguments of :class:`RunConfig`; none for none. Raises ValueError for an agent that reads none."""
    if not settings:
        return {}
    name = settings_of(agent)
    return {name: type(getattr(RunConfig(), name))(**settings)}


def settings_of(agent: str) -> str:
    """Which settings of a run an agent reads, by their name in :class:`RunConfig`. Raises ValueError if it reads none."""
    check_choice("agent", agent, SETTINGS_OF)
    return SETTINGS_OF[agent]
