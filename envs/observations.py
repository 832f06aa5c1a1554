"""What an agent sees: vectors in [0, 1]."""

from __future__ import annotations

import numpy as np

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.allocation import distribution
from prune_gym.simulation.simulator import Simulator
from prune_gym.simulation.state import PruningState

OBSERVATIONS = ("architecture", "full")


def observe(kind: str, simulator: Simulator, state: PruningState) -> np.ndarray:
    """The observation of a state, float32: ``architecture`` (groups,), kept width over original width, or ``full``, see
    :func:`full_observation`."""
    graph = simulator.graph
    if kind == "architecture":
        return (state.widths / graph.widths).astype(np.float32)
    last = np.zeros(len(graph.groups)) if state.action is None else distribution(state.action, graph.group_filters)
    return full_observation(graph, state.widths, simulator.score(state), simulator.progress(state), last)


def full_observation(
    graph: ChannelGraph, widths: np.ndarray, score: Score, progress: float | np.ndarray, last: np.ndarray
) -> np.ndarray:
    """Progress to the target, accuracy, MACs reduction, parameter reduction; then per group the architecture vector, the last
    action (normalised), and three features of the original network: its share of the filters, of the widest group, and its depth:
    float32 (..., 4 + 5 * groups), for one state or, with a score of arrays (N,), for many."""
    scalars = np.stack([progress, score.accuracy, score.flops_reduction, score.params_reduction], -1)
    fixed = [graph.group_filters / graph.n_filters, graph.widths / graph.widths.max(), np.linspace(0, 1, len(graph.groups))]
    same = np.broadcast_to(np.concatenate(fixed), (*widths.shape[:-1], 3 * widths.shape[-1]))
    return np.clip(np.concatenate([scalars, widths / graph.widths, last, same], -1), 0, 1).astype(np.float32)
