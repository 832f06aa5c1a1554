"""From a sparsity distribution to whole units: how many each group loses in one pruning step."""

from __future__ import annotations

import numpy as np

from prune_gym.arguments import check_choice, check_integer
from prune_gym.graph.channel_graph import Architecture

ROUNDINGS = ("largest_remainder", "paper", "carry")


def check_action(action: np.ndarray, groups: int) -> np.ndarray:
    """The action as float64 (groups,). Raises ValueError unless it is finite, not negative, and of that shape."""
    array = np.asarray(action)
    if array.shape != (groups,):
        raise ValueError(f"action: expected one number for each of {groups} groups, shape ({groups},); got shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
        raise ValueError(f"action: expected real numbers, got dtype {array.dtype}.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(
            f"action: expected finite numbers, got {array[~np.isfinite(array)][0]} for group {np.argmin(np.isfinite(array))}."
        )
    if (array < 0).any():
        raise ValueError(f"action: expected numbers >= 0, got {array.min()} for group {array.argmin()}.")
    return array


def distribution(action: np.ndarray, architecture: Architecture) -> np.ndarray:
    """The action normalised to sum 1; all zeros stand for the distribution of the original network's filters, which
    prunes every group by the same fraction."""
    graph = architecture.graph
    action = check_action(action, len(graph.groups))
    if not action.any():
        action = graph.group_filters.astype(np.float64)
    action = action / action.max()  # so that the sum of huge numbers is finite
    return action / action.sum()


def shares(action: np.ndarray, architecture: Architecture, budget: int, carry: np.ndarray | None = None) -> np.ndarray:
    """How many units each group should lose, as real numbers (groups,) that hold ``budget`` filters in all: what was
    carried over, plus ``action`` times the rest of the budget over ``filters_per_unit``, with what exceeds a group's
    capacity spread over the others in proportion."""
    graph = architecture.graph
    weights = distribution(action, architecture)
    capacity = (architecture.widths - 1).astype(np.float64)
    carried = np.zeros(len(weights)) if carry is None else carry
    result = np.minimum(carried, capacity)
    left = float(budget - result @ graph.filters_per_unit)
    free = result < capacity
    while left > 1e-9 and free.any():
        wanted = weights * free
        if wanted.sum() == 0:  # every group that the action names is exhausted
            wanted = graph.group_filters * free
        filled = np.minimum(result + wanted / wanted.sum() * left / graph.filters_per_unit, capacity)
        left -= float((filled - result) @ graph.filters_per_unit)
        result = filled
        free = result < capacity - 1e-12
    return result


def allocate(
    action: np.ndarray,
    architecture: Architecture,
    budget: int,
    rounding: str = "largest_remainder",
    carry: np.ndarray | None = None,
) -> np.ndarray:
    """Units to remove per group, int64 (groups,), for one step that should remove ``budget`` filters.

    Args:
        action: a distribution over groups (any scale; >= 0): the share of the budget that each group bears.
        architecture: where the step starts. No group goes below one unit.
        budget: filters to remove, at least 1 and at most as many as can go while one unit stays in every group.
        rounding: ``"largest_remainder"`` rounds down and hands the rest to the largest remainders, so that the total is
            exact wherever units of one filter are left. ``"paper"`` is the released RL-Pruner's: ``round(share)``, with
            the budget nudged until the total comes nearest to it. ``"carry"`` is like the first, but gives a group no more
            than its share rounded up; the remainders (``shares(...) - result``) are to be passed as ``carry`` to the next
            step, whose budget is to include the filters in them, so that nothing is lost in the long run.
        carry: what the last steps owe to each group, in units (groups,), negative where they removed too many; counts
            towards the budget. Not for ``"paper"``.

    At least one unit is removed, even if it holds more filters than the budget. Raises TypeError for an argument of another type,
    ValueError for one out of range, and if no unit is left to remove.
    """
    if not isinstance(architecture, Architecture):
        raise TypeError(f"architecture: expected an Architecture, got {type(architecture).__name__}.")
    graph = architecture.graph
    capacity = architecture.widths - 1
    check_choice("rounding", rounding, ROUNDINGS)
    check_integer("budget", budget, 1)
    if carry is not None and (np.shape(carry) != capacity.shape or not np.isfinite(carry).all()):
        raise ValueError(f"carry: expected finite numbers of shape {capacity.shape}, got {carry}.")
    if carry is not None and rounding == "paper" and np.any(carry):
        raise ValueError(f"carry: expected None with rounding 'paper', which carries nothing over, got {carry}.")
    if not capacity.any():
        raise ValueError("architecture: every group is down to one unit; nothing is left to remove.")
    if budget > (largest := int(capacity @ graph.filters_per_unit)):
        raise ValueError(
            f"budget: expected at most {largest} filters, all that can be removed while one unit stays in every group, "
            f"got {budget}."
        )
    if rounding == "paper":
        wanted = distribution(action, architecture)
        counts = _nudged(wanted, capacity, graph.filters_per_unit, budget)
    else:
        wanted = shares(action, architecture, budget, carry)
        counts = np.floor(np.maximum(wanted, 0) + 1e-9).astype(np.int64)
        if counts @ graph.filters_per_unit > budget:  # because others had too many before; then the largest claims go first
            counts[:] = 0
        _hand_out(counts, wanted, capacity, graph.filters_per_unit, budget, round_up_once=rounding == "carry")
    if not counts.any():
        counts[_largest(wanted, wanted * graph.filters_per_unit, capacity > 0)] = 1
    return counts


def _nudged(weights: np.ndarray, capacity: np.ndarray, filters_per_unit: np.ndarray, budget: int) -> np.ndarray:
    """``round(weights * m)`` for the m whose total is nearest to the budget, and among those the m nearest to it."""
    nudged = np.arange(2 * budget + 1)
    counts = np.rint(weights * nudged[:, None] / filters_per_unit).astype(np.int64)
    counts = np.minimum(counts, capacity)
    misses = np.abs(counts @ filters_per_unit - budget)
    return counts[np.lexsort((np.abs(nudged - budget), misses))[0]]


def _hand_out(
    counts: np.ndarray,
    wanted: np.ndarray,
    capacity: np.ndarray,
    filters_per_unit: np.ndarray,
    budget: int,
    round_up_once: bool,
) -> None:
    """Give the rest of the budget, unit by unit, to the largest remainder that it still pays for."""
    left = budget - int(counts @ filters_per_unit)
    while left > 0:
        affordable = (filters_per_unit <= left) & (counts < capacity)
        if round_up_once:
            affordable &= wanted - counts > 1e-9
        if not affordable.any():
            return
        best = _largest(wanted - counts, wanted * filters_per_unit, affordable)
        counts[best] += 1
        left -= int(filters_per_unit[best])


def _largest(claims: np.ndarray, filters: np.ndarray, allowed: np.ndarray) -> int:
    """The allowed group with the largest claim; of equal claims, the one of more filters, wherever it stands."""
    claims = np.where(allowed, claims, -np.inf)
    return int(np.argmax(np.where(claims >= claims.max() - 1e-9, filters, -np.inf)))
