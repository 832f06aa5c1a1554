"""Which reward teaches an agent to prune well? Agents x rewards x seeds on tables, all judged by the accuracy and by regret.

A reward is read in two ways: by the best network that the agent came across while it learned, and by the network that its final
policy leads to without noise, which is what the reward taught it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from scipy.stats import kendalltau, spearmanr

from prune_gym import tables
from prune_gym.agents.registry import reads_reward
from prune_gym.arguments import AtLeast
from prune_gym.benchmark.games import REWARD, SELF_COMPETITION, TABULAR
from prune_gym.benchmark.harness import BenchmarkConfig, Players, Targets, Tasks
from prune_gym.benchmark.play import DEFAULT
from prune_gym.benchmark.report.curves import regret_line
from prune_gym.benchmark.report.figures import Figure
from prune_gym.benchmark.report.standings import Field, Problem, Standing, player_name
from prune_gym.benchmark.rewards.episodes import Episodes, random_episodes
from prune_gym.benchmark.rewards.lint import EPISODES
from prune_gym.benchmark.rewards.optimum import optimum
from prune_gym.benchmark.statistics import Interval
from prune_gym.benchmark.table import markdown_table
from prune_gym.simulation.block_world import BlockGame, world_of
from prune_gym.simulation.rewards import REWARDS, make_scalar
from prune_gym.simulation.yardsticks import make_yardstick

AGENTS = ("ppo", "sac", "dqn", "rl_pruner")
MANY = 5  # rewards, for a correlation over them
GAMMA = 0.99  # of PPO, SAC and DQN
SUITE = (*(name for name in REWARDS if name != "paper"), SELF_COMPETITION)  # the paper's default weights are "accuracy"


@dataclass(frozen=True)
class StudyConfig(BenchmarkConfig):
    """What is played: every agent under every reward."""

    tasks: Tasks = tuple(TABULAR + name for name in tables.DIGESTS)
    macs_reductions: Targets = (0.75,)
    agents: Players = AGENTS
    rewards: tuple[str, ...] = SUITE
    seeds: Annotated[int, AtLeast(1)] = 20
    store: Path = Path("runs/reward_study")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.settings != ("default",):
            raise ValueError(f"settings: the study is of rewards, with default settings; got {self.settings}.")
        for agent in self.agents:
            if not reads_reward(agent):
                raise ValueError(f"agents: expected ones that learn from the reward; {agent} plays the same under all of them.")


@dataclass(frozen=True)
class Lesson:
    """What a reward taught. Regrets are in points.

    Attributes:
        reward: its name or its formula.
        standings: of the agents that learned from it, by their names.
        clear: by agent, how the regret of the network that was found differs from that under the benchmark's reward where that is
            clear: ``"better"``, ``"worse"`` or ``""``; by a permutation test, corrected for the number of rewards.
        policy_clear: the same of the network that the final policy leads to.
        best_play: the regret of the best play under the reward in the game of single blocks, for a learner that discounts by
            :data:`GAMMA`, the mean over the problems; None for a reward that is no formula.
        tau: Kendall's tau between the return of random games and the yardstick, the mean over the problems; None likewise.
    """

    reward: str
    standings: dict[str, Standing]
    clear: dict[str, str]
    policy_clear: dict[str, str]
    best_play: float | None
    tau: float | None

    def regret(self, agents: Iterable[str]) -> float:
        """The mean over these agents."""
        return float(np.mean([self.standings[agent].regret.value for agent in agents]))


def agents_of(field: Field) -> tuple[str, ...]:
    """The agents that played, those of :data:`AGENTS` first."""
    names = {play.row["agent"] for by_problem in field.plays.values() for plays in by_problem.values() for play in plays}
    return tuple(sorted(names, key=lambda name: (AGENTS.index(name) if name in AGENTS else len(AGENTS), name)))


def lessons(field: Field, agents: Sequence[str]) -> list[Lesson]:
    """What every reward taught that the plays of a field learned from, the best first: by the agents that learned from all.

    Agents without a play under default settings of every problem of the field are in none of them.
    """
    standings = {one.name: one for one in field.standings}
    played = (play for by_problem in field.plays.values() for plays in by_problem.values() for play in plays)
    rewards = list(dict.fromkeys(play.row["reward"] for play in played))
    taught = {
        reward: {agent: standings[name] for agent in agents if (name := player_name(agent, DEFAULT, reward)) in standings}
        for reward in rewards
    }
    clear, policy_clear = (
        {
            agent: _differences(field, {reward: taught[reward][agent] for reward in rewards if agent in taught[reward]}, column)
            for agent in agents
        }
        for column in ("val_accuracy", "policy_accuracy")
    )
    games = [_game_and_episodes(problem) for problem in field.problems]
    found = [
        Lesson(
            reward,
            theirs,
            {agent: clear[agent].get(reward, "") for agent in theirs},
            {agent: policy_clear[agent].get(reward, "") for agent in theirs},
            *_known(games, reward),
        )
        for reward, theirs in taught.items()
        if theirs
    ]
    common = [agent for agent in agents if all(agent in lesson.standings for lesson in found)]
    return sorted(found, key=lambda lesson: lesson.regret(common or lesson.standings))


def _differences(field: Field, by_reward: dict[str, Standing], column: str) -> dict[str, str]:
    """By reward, how an agent's regret differs from that under the benchmark's reward."""
    others = [reward for reward in by_reward if reward != REWARD]
    if REWARD not in by_reward or not others:
        return {}
    compared = field.compared(by_reward[REWARD].name, [by_reward[reward].name for reward in others], column)
    return {
        reward: ("worse" if one.difference > 0 else "better") if one.clear else ""
        for reward, one in zip(others, compared, strict=True)
    }


def _game_and_episodes(problem: Problem) -> tuple[BlockGame, Episodes]:
    """The game of single blocks, and random games of it."""
    table = tables.load(problem.task.removeprefix(TABULAR), problem.base)
    game = BlockGame(world_of(table), "macs_reduction", problem.macs_reduction)
    return game, random_episodes(game, EPISODES)


def _known(games: Sequence[tuple[BlockGame, Episodes]], reward: str) -> tuple[float | None, float | None]:
    """What the best play and random games say of a reward, without any agent."""
    if reward == SELF_COMPETITION:
        return None, None
    made, yardstick = make_scalar(reward), make_yardstick("accuracy")
    regrets, taus = [], []
    for game, episodes in games:
        regrets.append(100 * optimum(game, made, GAMMA, yardstick).regret)
        returns = episodes.returns(made, GAMMA)
        taus.append(kendalltau(returns, episodes.worth(yardstick)).statistic if np.ptp(returns) else 0.0)
    return float(np.mean(regrets)), float(np.mean(taus))


def table(of_all: Sequence[Lesson], agents: Sequence[str]) -> str:
    """Markdown: for every reward and agent the regret of the network that was found, behind it in brackets that of the final
    policy; a + or - behind what is clearly better or worse than under the benchmark's reward."""
    signs = {"better": "+", "worse": "-", "": ""}
    lines = []
    for lesson in of_all:
        cells = []
        for agent in agents:
            one = lesson.standings.get(agent)
            sign, policy_sign = signs[lesson.clear.get(agent, "")], signs[lesson.policy_clear.get(agent, "")]
            cells.append(f"{one.regret.value:.1f}{sign} ({one.policy.value:.1f}{policy_sign})" if one else "")
        best_play = "" if lesson.best_play is None else f"{lesson.best_play:.1f}"
        lines.append([f"`{lesson.reward}`", *cells, best_play, "" if lesson.tau is None else f"{lesson.tau:.2f}"])
    return markdown_table(["reward", *agents, "best play", "tau"], lines)


def markdown(of_all: Sequence[Lesson], agents: Sequence[str]) -> str:
    """The sentences of :func:`verdict` and the table."""
    return "\n".join(verdict(of_all, agents)) + "\n\n" + table(of_all, agents)


def verdict(of_all: Sequence[Lesson], agents: Sequence[str]) -> list[str]:
    """What the study shows, in sentences: a reward is better or worse than the benchmark's only where that is clear."""
    sentences = []
    for agent in agents:
        with_it = [lesson for lesson in of_all if agent in lesson.standings]
        if not with_it:
            continue
        found = {lesson.reward: lesson.standings[agent].regret.value for lesson in with_it}
        policy = {lesson.reward: lesson.standings[agent].policy.value for lesson in with_it}
        sentences.append(
            f"{agent} finds the best networks under {_least(found)}{_clear({one.reward: one.clear[agent] for one in with_it})}"
        )
        if policy != found:  # it learns one
            clear = _clear({one.reward: one.policy_clear[agent] for one in with_it})
            sentences[-1] += f" Its final policy is best under {_least(policy)}{clear}{_foreseen(with_it, agent)}"
    return sentences


def _foreseen(of_all: Sequence[Lesson], agent: str) -> str:
    """How well what is known of a reward before anything has learned ranks rewards as the final policies do."""
    known = [(lesson.best_play, lesson.tau, lesson.standings[agent].policy.value) for lesson in of_all]
    known = [each for each in known if each[0] is not None]
    if len(known) < MANY or any(len(set(values)) == 1 for values in zip(*known, strict=True)):
        return ""
    best_plays, taus, policies = np.array(known, float).T
    by_play, by_tau = (spearmanr(values, policies).statistic for values in (best_plays, -taus))
    return (
        f" Over {len(known)} rewards, the regret of its final policy has a rank correlation of {by_play:.2f} with the regret of "
        f"the best play, and of {by_tau:.2f} with -tau."
    )


def _least(regrets: dict[str, float]) -> str:
    best = min(regrets, key=regrets.__getitem__)
    return f"{best} ({regrets[best]:.1f} points of regret)."


def _clear(differences: dict[str, str]) -> str:
    """Which rewards are clearly better or worse than the benchmark's; nothing without it."""
    if REWARD not in differences:
        return ""
    better, worse = (
        ", ".join(reward for reward, found in differences.items() if found == kind) or "none" for kind in ("better", "worse")
    )
    return f" Clearly better than under {REWARD}: {better}; clearly worse: {worse}."


def picture(of_all: Sequence[Lesson], agents: Sequence[str]) -> Canvas:
    """A row for every reward, the best on top, with a point for every agent: what it found on the left, what its policy does on
    the right."""
    canvas = Canvas(figsize=(9.5, 1.4 + 0.36 * len(of_all)), layout="constrained")
    left, right = canvas.subplots(1, 2, sharey=True)
    for axes, title, of_one in (
        (left, "the best network it found", lambda one: one.regret),
        (right, "what its final policy does", lambda one: one.policy),
    ):
        for i, agent in enumerate(agents):
            rows = [(row, of_one(lesson.standings[agent])) for row, lesson in enumerate(of_all) if agent in lesson.standings]
            _points(axes, rows, (i - (len(agents) - 1) / 2) * 0.16, f"C{i}", agent)
        axes.set(title=title, xlabel="regret, points")
        axes.grid(alpha=0.3)
    left.set_yticks(range(len(of_all)), [lesson.reward for lesson in of_all])
    left.invert_yaxis()
    right.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return canvas


def _points(axes: Any, rows: Sequence[tuple[int, Interval]], shift: float, colour: str, label: str) -> None:
    values = np.array([interval for _, interval in rows])
    places = np.array([row for row, _ in rows]) + shift
    axes.hlines(places, values[:, 1], values[:, 2], color=colour, linewidth=1.2, alpha=0.6)
    axes.plot(values[:, 0], places, "o", color=colour, markersize=4, label=label)


def learning_curves(field: Field, of_all: Sequence[Lesson], agent: str) -> Figure:
    """The regret of the best network so far by evaluations, a line for every reward; the benchmark's, the best and the worst are
    shown at first."""
    lines = [
        replace(regret_line(field, lesson.standings[agent].name), name=lesson.reward)
        for lesson in of_all
        if agent in lesson.standings
    ]
    names = [line.name for line in lines]
    shown = tuple(dict.fromkeys([*names[:4], *([REWARD] if REWARD in names else []), *names[-2:]]))
    caption = "How far the best network so far is behind the best one of the table, under each reward."
    name, title = f"{agent}_curves", f"Regret of {agent} by evaluations"
    return Figure(name, title, caption, "evaluations", "regret, points", tuple(lines), shown, log_x=True)
