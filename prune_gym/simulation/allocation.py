"""From a sparsity distribution to whole units: how many each group loses in one pruning step."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

from prune_gym.arguments import check_choice, check_integer
from prune_gym.graph.channel_graph import Architecture
from prune_gym.simulation.space import PruningSpace

ROUNDINGS = ("largest_remainder", "paper", "carry")


def check_action(action: np.ndarray, groups: int) -> np.ndarray:
    """The action as float64 (groups,). Raises ValueError unless it is finite, not negative, and of that shape."""
    array = np.asarray(action)
    if array.shape != (groups,):
        raise ValueError(f"action: expected one number for each of {groups} groups, shape ({groups},); got shape {array.shape}.")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"action: expected real numbers, got dtype {array.dtype}.")
    array = array.astype(np.float64)
    if array.min() >= 0 and array.max() < np.inf:
        return array
    if not np.isfinite(array).all():
        raise ValueError(
            f"action: expected finite numbers, got {array[~np.isfinite(array)][0]} for group {np.argmin(np.isfinite(array))}."
        )
    raise ValueError(f"action: expected numbers >= 0, got {array.min()} for group {array.argmin()}.")


def distribution(action: np.ndarray, group_filters: np.ndarray) -> np.ndarray:
    """The action normalised to sum 1; all zeros stand for the distribution of the original network's filters (groups,), which
    prunes every group by the same fraction. Raises like :func:`check_action`."""
    return normalised(check_action(action, len(group_filters)), group_filters)


def normalised(actions: np.ndarray, group_filters: np.ndarray) -> np.ndarray:
    """:func:`distribution` of checked actions (..., groups)."""
    actions = np.where(actions.any(-1, keepdims=True), actions, group_filters)
    actions = actions / actions.max(-1, keepdims=True)  # so that the sum of huge numbers is finite
    return actions / actions.sum(-1, keepdims=True)


def shares(
    action: np.ndarray,
    architecture: Architecture,
    budget: int,
    carry: np.ndarray | None = None,
    space: PruningSpace | None = None,
) -> np.ndarray:
    """How many units each group should lose, as real numbers (groups,) with which the budget is met: what was carried over, plus
    units in proportion to ``action`` over ``filters_per_unit``, as many as it takes; what exceeds a group's capacity is spread
    over the others in proportion. Arguments as of :func:`allocate`."""
    space = PruningSpace(architecture.graph) if space is None else space
    if space.target == "sparsity":
        return _shares_of_filters(action, architecture, budget, carry, space)
    widths, goal = architecture.widths, space.removed(architecture.widths) + budget
    most = float((widths - space.lowest) @ architecture.graph.filters_per_unit)

    def missing(filters: float) -> float:
        return float(space.removed(widths - _shares_of_filters(action, architecture, filters, carry, space)) - goal)

    if missing(most) <= 0:
        return _shares_of_filters(action, architecture, most, carry, space)
    if missing(0.0) >= 0:
        return _shares_of_filters(action, architecture, 0.0, carry, space)
    return _shares_of_filters(action, architecture, brentq(missing, 0.0, most, xtol=1e-3), carry, space)


def _shares_of_filters(
    action: np.ndarray, architecture: Architecture, filters: float, carry: np.ndarray | None, space: PruningSpace
) -> np.ndarray:
    """:func:`shares` that hold so many filters."""
    graph = architecture.graph
    weights = distribution(action, graph.group_filters)
    capacity = (architecture.widths - space.lowest).astype(np.float64)
    carried = np.zeros(len(weights)) if carry is None else carry
    result = np.minimum(carried, capacity)
    left = float(filters - result @ graph.filters_per_unit)
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
    space: PruningSpace | None = None,
) -> np.ndarray:
    """Units to remove per group, int64 (groups,), for one step that should remove ``budget`` filters.

    Args:
        action: a distribution over groups (any scale; >= 0): how the filters that go are spread over the groups.
        architecture: where the step starts.
        budget: filters to remove, or what else ``space`` counts, at least 1 and at most as much as can go.
        rounding: ``"largest_remainder"`` rounds down and hands the rest to the largest remainders, as long as the budget pays for
            it, so that the total is exact wherever units of one filter are left; no group gets more than its share rounded up
            where MACs or parameters are counted. ``"paper"`` is the released RL-Pruner's:
            ``round(share)``, with the filters nudged until the total comes nearest to the budget. ``"carry"`` is like the first,
            but gives a group no more than its share rounded up; the remainders (``shares(...) - result``) are to be passed as
            ``carry`` to the next step, whose budget is to include the filters in them, so that nothing is lost in the long run.
        carry: what the last steps owe to each group, in units (groups,), negative where they removed too many; counts
            towards the budget. Not for ``"paper"``.
        space: which widths the groups may have, and the unit of the budget; by default any width from one unit, and filters.

    At least one unit is removed, even if it holds more than the budget. Raises TypeError for an argument of another type,
    ValueError for one out of range, and if no unit is left to remove.
    """
    if not isinstance(architecture, Architecture):
        raise TypeError(f"architecture: expected an Architecture, got {type(architecture).__name__}.")
    graph = architecture.graph
    space = PruningSpace(graph) if space is None else space
    widths = architecture.widths
    check_choice("rounding", rounding, ROUNDINGS)
    check_integer("budget", budget, 1)
    if carry is not None and (np.shape(carry) != widths.shape or not np.isfinite(carry).all()):
        raise ValueError(f"carry: expected finite numbers of shape {widths.shape}, got {carry}.")
    if carry is not None and rounding == "paper" and np.any(carry):
        raise ValueError(f"carry: expected None with rounding 'paper', which carries nothing over, got {carry}.")
    gone = int(space.removed(widths))
    if (widths == space.next_below(widths)).all():
        raise ValueError("architecture: every group is at its least width; nothing is left to remove.")
    if budget > (largest := space.largest - gone):
        raise ValueError(f"budget: expected at most {largest} {space.unit}, all that can still be removed, got {budget}.")
    if rounding == "paper":
        wanted = distribution(action, graph.group_filters)
        after = _nudged(wanted, architecture, gone + budget, space)
    else:
        wanted = shares(action, architecture, budget, carry, space)
        after = space.at_least(widths - np.maximum(wanted, 0))
        if space.removed(after) > gone + budget:  # because others had too many before; then the largest claims go first
            after = widths.copy()
        # Where not filters are counted, a unit may cost next to nothing, and would be paid for again and again.
        round_up_once = rounding == "carry" or space.target != "sparsity"
        after = _hand_out(after, widths - wanted, gone + budget, space, round_up_once)
    if (after == widths).all():
        below = space.next_below(widths)
        best = _largest(wanted, wanted * graph.filters_per_unit, below < widths)
        after = after.copy()
        after[best] = below[best]
    return widths - after


def _nudged(weights: np.ndarray, architecture: Architecture, goal: int, space: PruningSpace) -> np.ndarray:
    """The widths after ``round(weights * m)`` filters went, for the m whose total is nearest to the goal, and among those the m
    nearest to the filters that the budget stands for."""
    filters_per_unit, widths = architecture.graph.filters_per_unit, architecture.widths
    if space.target == "sparsity":
        budget = goal - int(space.removed(widths))
        nudged, nearest = np.arange(2 * budget + 1), budget
    else:
        nudged, nearest = np.arange(int((widths - space.lowest) @ filters_per_unit) + 1), 0
    counts = np.rint(weights * nudged[:, None] / filters_per_unit)
    left = widths - counts
    below, above = space.at_most(left), space.at_least(left)
    after = np.where(np.abs(below - left) < np.abs(above - left), below, above)
    misses = np.abs(space.removed(after) - goal)
    return after[np.lexsort((np.abs(nudged - nearest), misses))[0]]


def _hand_out(after: np.ndarray, wanted: np.ndarray, goal: int, space: PruningSpace, round_up_once: bool) -> np.ndarray:
    """The widths when the rest of the budget is given, block by block, to the largest remainder that it still pays for.
    ``wanted``: the widths that were asked for, as real numbers."""
    groups = np.arange(len(after))
    filters_per_unit = space.graph.filters_per_unit
    while True:
        below = space.next_below(after)
        tried = np.tile(after, (len(groups), 1))
        tried[groups, groups] = below
        affordable = (below < after) & (space.removed(tried) <= goal)
        if round_up_once:
            affordable &= after - wanted > 1e-9
        if not affordable.any():
            return after
        claims = (after - wanted) / np.maximum(after - below, 1)
        best = _largest(claims, (space.graph.widths - wanted) * filters_per_unit, affordable)
        after = after.copy()
        after[best] = below[best]


def complete(after: np.ndarray, before: np.ndarray, goal: int, space: PruningSpace) -> np.ndarray:
    """Widths at which the goal is met, for the last step: blocks go from ``after``, the one that leads least beyond the goal
    first, and no block of the step, which began at ``before``, is removed that could stay.

    Raises ValueError if the goal cannot be met.
    """
    if goal > space.largest:
        raise ValueError(f"goal: expected at most {space.largest} {space.unit}, as many as can be removed, got {goal}.")
    groups = np.arange(len(after))
    after = after.copy()
    while space.removed(after) < goal:
        below = space.next_below(after)
        tried = np.tile(after, (len(groups), 1))
        tried[groups, groups] = below
        gone = np.where(below < after, space.removed(tried), np.iinfo(np.int64).min)
        enough = gone >= goal
        best = np.argmin(np.where(enough, gone, np.iinfo(np.int64).max)) if enough.any() else np.argmax(gone)
        after[best] = below[best]
    while True:
        above = space.next_above(after, before)
        tried = np.tile(after, (len(groups), 1))
        tried[groups, groups] = above
        gone = np.where(above > after, space.removed(tried), -1)
        if gone.max() < goal:
            return after
        best = np.argmin(np.where(gone >= goal, gone, np.iinfo(np.int64).max))
        after[best] = above[best]


def _largest(claims: np.ndarray, filters: np.ndarray, allowed: np.ndarray) -> int:
    """The allowed group with the largest claim; of equal claims, the one of more filters, wherever it stands."""
    claims = np.where(allowed, claims, -np.inf)
    return int(np.argmax(np.where(claims >= claims.max() - 1e-9, filters, -np.inf)))
