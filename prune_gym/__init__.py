"""prune_gym: prune convolutional networks with reinforcement learning.

The pruning core (``trace``, ``compact``, ``mask``, ``importance``, ``allocate``, ``save_pruned``, ...) knows no RL;
``prune_gym.envs`` turns it into Gymnasium environments, ``prune_gym.agents`` holds the agents, and ``prune_gym.benchmark``
compares them. Importing this package registers the environments ``PruneGym/...`` and imports nothing else: every public name
is imported at its first use, so that a process that only looks an environment up does not load PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prune_gym.registration import register
from prune_gym.version import __version__ as __version__

if TYPE_CHECKING:  # what the names are, for type checkers and editors
    from prune_gym import agents, benchmark, envs, models, tasks
    from prune_gym.data.splits import Split
    from prune_gym.graph.channel_graph import Architecture, ChannelGraph, ChannelGroup
    from prune_gym.graph.cost import Cost
    from prune_gym.graph.trace import UnknownOperatorError, trace
    from prune_gym.graph.verify import VerificationError, verify
    from prune_gym.scoring.compensation import compensate
    from prune_gym.scoring.evaluation import Score
    from prune_gym.scoring.importance import importance
    from prune_gym.simulation.allocation import allocate
    from prune_gym.surgery.compact import compact
    from prune_gym.surgery.mask import mask
    from prune_gym.surgery.narrowing import FormError
    from prune_gym.surgery.pruned_file import PrunedFileError, load_pruned, save_pruned
    from prune_gym.surgery.pruned_network import PrunedNetwork
    from prune_gym.tasks import Task
    from prune_gym.tasks import load as load_task
    from prune_gym.training.distillation import PostTraining

# Where each name comes from: a module, or a module and one of its attributes.
_SOURCES = {
    "Architecture": "prune_gym.graph.channel_graph:Architecture",
    "ChannelGraph": "prune_gym.graph.channel_graph:ChannelGraph",
    "ChannelGroup": "prune_gym.graph.channel_graph:ChannelGroup",
    "Cost": "prune_gym.graph.cost:Cost",
    "FormError": "prune_gym.surgery.narrowing:FormError",
    "PostTraining": "prune_gym.training.distillation:PostTraining",
    "PrunedFileError": "prune_gym.surgery.pruned_file:PrunedFileError",
    "PrunedNetwork": "prune_gym.surgery.pruned_network:PrunedNetwork",
    "Score": "prune_gym.scoring.evaluation:Score",
    "Split": "prune_gym.data.splits:Split",
    "Task": "prune_gym.tasks:Task",
    "UnknownOperatorError": "prune_gym.graph.trace:UnknownOperatorError",
    "VerificationError": "prune_gym.graph.verify:VerificationError",
    "agents": "prune_gym.agents",
    "allocate": "prune_gym.simulation.allocation:allocate",
    "benchmark": "prune_gym.benchmark",
    "compact": "prune_gym.surgery.compact:compact",
    "compensate": "prune_gym.scoring.compensation:compensate",
    "envs": "prune_gym.envs",
    "importance": "prune_gym.scoring.importance:importance",
    "load_pruned": "prune_gym.surgery.pruned_file:load_pruned",
    "load_task": "prune_gym.tasks:load",
    "mask": "prune_gym.surgery.mask:mask",
    "models": "prune_gym.models",
    "save_pruned": "prune_gym.surgery.pruned_file:save_pruned",
    "tasks": "prune_gym.tasks",
    "trace": "prune_gym.graph.trace:trace",
    "verify": "prune_gym.graph.verify:verify",
}

__all__ = [
    "Architecture",
    "ChannelGraph",
    "ChannelGroup",
    "Cost",
    "FormError",
    "PostTraining",
    "PrunedFileError",
    "PrunedNetwork",
    "Score",
    "Split",
    "Task",
    "UnknownOperatorError",
    "VerificationError",
    "agents",
    "allocate",
    "benchmark",
    "compact",
    "compensate",
    "envs",
    "importance",
    "load_pruned",
    "load_task",
    "mask",
    "models",
    "save_pruned",
    "tasks",
    "trace",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _SOURCES[name].partition(":")
    found = import_module(module)
    value = globals()[name] = getattr(found, attribute) if attribute else found
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
