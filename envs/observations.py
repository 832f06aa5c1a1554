"""What an agent sees: vectors in [0, 1]."""

from __future__ import annotations

import numpy as np

from prune_gym.simulation.allocation import distribution
from prune_gym.simulation.simulator import Simulator
from prune_gym.simulation.state import PruningState

OBSERVATIONS = ("architecture", "full")


def observe(kind: str, simulator: Simulator, state: PruningState) -> np.ndarray:
    """The observation of a state, float32.

    ``architecture`` (groups,): kept width over original width. ``full`` (4 + 5 * groups,): progress to the target,
    accuracy, MACs reduction, parameter reduction; then per group the architecture vector, the last action (normalised),
    and three features of the original network: its share of the filters, of the widest group, and its depth.
    """
    graph = simulator.graph
    architecture = state.architecture.widths / graph.widths
    if kind == "architecture":
        return architecture.astype(np.float32)
    score = simulator.score(state)
    scalars = [simulator.progress(state), score.accuracy, score.flops_reduction, score.params_reduction]
    action = np.zeros(len(graph.groups)) if state.action is None else distribution(state.action, state.architecture)
    depth = np.linspace(0, 1, len(graph.groups))
    features = [architecture, action, graph.group_filters / graph.n_filters, graph.widths / graph.widths.max(), depth]
    return np.clip(np.concatenate([scalars, *features]), 0, 1).astype(np.float32)
