"""A linter for rewards: what is wrong with one can be seen on the table of a task, before any agent learns from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau

from prune_gym.benchmark.rewards.episodes import Episodes, random_episodes
from prune_gym.benchmark.rewards.optimum import optimum, without_shaping
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.block_world import BlockGame
from prune_gym.simulation.score_functions import of_rows
from prune_gym.simulation.target import REMOVED
from prune_gym.simulation.terms import Formula, Shaping, Transition
from prune_gym.simulation.yardsticks import Yardstick

EPISODES = 1000
LARGEST_REGRET = 0.01  # of the yardstick: a point, if that is the accuracy
MORE_ACCURATE = 0.05
SMALLER = 0.9  # of what is left
ROUNDING = 1e-12
EDGE = 1e-6  # how near to the target both sides of it are looked at
LARGEST_CLIFF = 1.0  # of the spread of rewards between networks at the target
SCALES = (0.01, 10.0)  # standard deviations of returns that agents learn with as they are
LEAST_TAU = 0.5

FAULT, NOTE, FINE = "fault", "note", "fine"


class Finding(NamedTuple):
    """What a check says of a reward: ``verdict`` is ``"fault"``, ``"note"`` or ``"fine"``."""

    check: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Subject:
    """A reward in a game, for a learner with the discount ``gamma``, whose networks are judged by ``yardstick``; and random
    games."""

    reward: Formula
    game: BlockGame
    gamma: float
    yardstick: Yardstick
    episodes: Episodes

    def of(self, transition: Transition, reward: Formula | None = None) -> np.ndarray:
        """The reward of many transitions."""
        before, after, *others = transition
        return of_rows("reward", reward or self.reward, [before, after], *others)

    def change(self, transition: Transition, other: Transition) -> np.ndarray:
        """By how much it changes from transitions to others, but for shaping, which adds the same to every game."""
        reward = without_shaping(self.reward)
        return self.of(other, reward) - self.of(transition, reward)


def lint(reward: Formula, game: BlockGame, gamma: float, yardstick: Yardstick, seed: int = 0) -> list[Finding]:
    """Everything that the checks find. A reward that is not finite on the grid gets no further."""
    subject = Subject(reward, game, gamma, yardstick, random_episodes(game, EPISODES, seed))
    first = finite_everywhere(subject)
    if first.verdict == FAULT:
        return [first]
    return [first, *(finding for check in CHECKS for finding in check(subject))]


def finite_everywhere(subject: Subject) -> Finding:
    """Whether the reward is a finite number for every move that a game may have; one of yours that takes no arrays, for the moves
    of random games."""
    game = subject.game
    try:
        if subject.reward.elementwise:
            running = np.flatnonzero(game.reachable & ~game.over)
            game.action_values(running, np.zeros(len(game.over)), subject.reward, 0.0)
            where = f"all {len(running) * len(game.world.table.groups):,} moves"
        else:
            subject.episodes.rewards(subject.reward)
            where = f"the moves of {EPISODES:,} random games"
    except (ValueError, TypeError, ArithmeticError) as error:
        return Finding("finite", FAULT, str(error))
    return Finding("finite", FINE, f"a finite number for {where}")


def grows_with_accuracy(subject: Subject) -> Iterator[Finding]:
    """A network that is more accurate, and all else the same, must not get less."""
    transition = subject.episodes.transitions()
    after = transition.after
    better = transition._replace(after=replace(after, accuracy=np.minimum(after.accuracy + MORE_ACCURATE, 1)))
    change = subject.change(transition, better)
    yield _growth("accuracy", change, f"{MORE_ACCURATE:.0%} more accuracy", FAULT)


def grows_with_savings(subject: Subject) -> Iterator[Finding]:
    """A network that is smaller, and all else the same, must not get less: on the way, where it stays on the way, and at the end,
    where a reward may well punish what is gone beyond the target."""
    transition = subject.episodes.transitions()
    smaller = transition._replace(after=_smaller(transition.after, transition.baseline))
    ends = np.asarray(transition.terminal)
    on_the_way = ~ends & (transition.target.removed(smaller.after) < transition.target.required)
    change = subject.change(transition, smaller)
    cause = f"{1 - SMALLER:.0%} less of a network"
    if (change[ends] < -ROUNDING).any() and not (change[on_the_way] < -ROUNDING).any():
        yield Finding("savings", NOTE, f"{cause} gives less reward in the last step alone, {-change[ends].min():.3g} at most")
    else:
        yield _growth("savings", change[ends | on_the_way], cause, NOTE)


def _smaller(score: Score, baseline: Score) -> Score:
    """Scores of arrays of networks of which a share is gone."""
    macs, params = SMALLER * np.asarray(score.macs), SMALLER * np.asarray(score.params)
    return replace(
        score,
        macs=macs,  # type: ignore[arg-type]  # arrays in place of numbers
        params=params,  # type: ignore[arg-type]
        flops_reduction=1 - macs / baseline.macs,  # type: ignore[arg-type]
        params_reduction=1 - params / baseline.params,  # type: ignore[arg-type]
        channel_sparsity=1 - SMALLER * (1 - np.asarray(score.channel_sparsity)),  # type: ignore[arg-type]
        widths=np.maximum(SMALLER * score.widths, 1).astype(np.int64),
    )


def _growth(check: str, change: np.ndarray, cause: str, if_flat: str) -> Finding:
    falls, rises = change < -ROUNDING, change > ROUNDING
    if falls.any():
        return Finding(check, FAULT, f"{cause} gives less reward in {falls.mean():.0%} of the moves, {-change.min():.3g} at most")
    if not rises.any():
        return Finding(check, if_flat, f"{cause} never changes the reward")
    return Finding(check, FINE, f"{cause} never gives less reward, and more in {rises.mean():.0%} of the moves")


def no_cliff(subject: Subject) -> Iterator[Finding]:
    """The same network, a millionth short of the target and a millionth beyond it: the difference, against that between
    networks."""
    transition = subject.episodes.transitions()
    last = np.asarray(transition.terminal)
    ends = Transition(_rows(transition.before, last), _rows(transition.after, last), *transition[2:4], np.ones(last.sum(), bool))
    short, beyond = (ends._replace(after=_at(ends, transition.target.reduction + step)) for step in (-EDGE, EDGE))
    cliff = float(np.median(np.abs(subject.change(short, beyond))))
    rewards = subject.of(ends)
    spread, size = float(np.subtract(*np.percentile(rewards, [75, 25]))), float(np.abs(rewards).max())
    if cliff > 1e3 * EDGE * size and cliff > LARGEST_CLIFF * spread:
        times = f"{cliff / spread:.1f} times " if spread else "more than "
        yield Finding("cliff", FAULT, f"the target is a cliff of {cliff:.3g}, {times}the spread between networks at it")
    else:
        yield Finding("cliff", FINE, "the target is no cliff")


def _at(ends: Transition, reduction: float) -> Score:
    """The networks with another share gone of what the target counts."""
    share = np.full(np.shape(ends.after.accuracy), reduction)
    changed: dict[str, Any] = {REMOVED[ends.target.kind]: share}
    counted = {"macs_reduction": "macs", "params_reduction": "params"}.get(ends.target.kind)
    if counted:
        changed[counted] = (1 - share) * getattr(ends.baseline, counted)
    return replace(ends.after, **changed)


def _rows(score: Score, chosen: np.ndarray) -> Score:
    return Score(*[np.asarray(values)[chosen] for values in vars(score).values()])


def scale(subject: Subject) -> Iterator[Finding]:
    """Agents scale neither rewards nor values: the value loss grows with the square of the returns."""
    deviation = float(subject.episodes.returns(subject.reward, subject.gamma).std())
    low, high = SCALES
    if not low <= deviation <= high:
        yield Finding("scale", FAULT, f"returns deviate by {deviation:.3g}; values are learned well between {low:g} and {high:g}")
    else:
        yield Finding("scale", FINE, f"returns deviate by {deviation:.3g}")


def shaping_is_neutral(subject: Subject) -> Iterator[Finding]:
    """Shaping leaves the best policy as it is with the learner's own discount, without a potential at the end, and as a summand
    of the reward."""
    inside = [part for part in without_shaping(subject.reward).walk() if isinstance(part, Shaping)]
    for term in (part for part in subject.reward.walk() if isinstance(part, Shaping)):
        if term.gamma != subject.gamma:
            yield Finding("gamma", FAULT, f"{term} discounts by {term.gamma:g}, the learner by {subject.gamma:g}")
        else:
            yield Finding("gamma", FINE, f"{term} discounts as the learner does")
        if term.kept:
            also = " and for few steps" if term.gamma < 1 else ""
            yield Finding("potential", NOTE, f"{term} keeps its potential at the end: it rewards the last network{also}")
        elif term in inside:
            yield Finding("potential", FAULT, f"{term} is no summand of the reward, so it may change what is best")
        else:
            yield Finding("potential", FINE, f"{term} has no potential at the end")


def agrees_with_the_yardstick(subject: Subject) -> Iterator[Finding]:
    """Kendall's tau between the return of random games and what their last networks are worth."""
    returns, worth = subject.episodes.returns(subject.reward, subject.gamma), subject.episodes.worth(subject.yardstick)
    if np.ptp(returns) == 0:
        yield Finding("tau", FAULT, "all games have the same return")
        return
    tau = float(kendalltau(returns, worth).statistic)
    text = f"returns rank {EPISODES:,} random games as the yardstick does with Kendall's tau {tau:.2f}"
    yield Finding("tau", FINE if tau >= LEAST_TAU else FAULT, text)


def best_play(subject: Subject) -> Iterator[Finding]:
    """What the best play leads to, by dynamic programming; of rewards that take arrays alone, as there are millions of moves."""
    if not subject.reward.elementwise:
        yield Finding("optimum", NOTE, "not computed: mark your function with prune_gym.simulation.score_functions.elementwise")
        return
    found = optimum(subject.game, subject.reward, subject.gamma, subject.yardstick)
    text = f"the best play ends with a network that is worth {found.regret:.4f} less than the best one by the yardstick"
    yield Finding("optimum", FAULT if found.regret > LARGEST_REGRET else FINE, text)


CHECKS: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    grows_with_accuracy,
    grows_with_savings,
    no_cliff,
    scale,
    shaping_is_neutral,
    agrees_with_the_yardstick,
    best_play,
)
