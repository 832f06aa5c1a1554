"""What another reward would have said about a run: read off its ``evaluations.csv``, without running a network."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from prune_gym.agents.results import read_summary
from prune_gym.agents.run_folder import CONFIG
from prune_gym.envs.pruning import DEFAULT_SPARSITY
from prune_gym.files import parse_json
from prune_gym.scoring.evaluation import NUMBERS, Score
from prune_gym.simulation.space import UNITS
from prune_gym.simulation.target import Target
from prune_gym.simulation.terms import Formula, Function, Transition

EVALUATIONS = "evaluations.csv"


@dataclass(frozen=True)
class Rescored:
    """A reward on the networks of a run.

    Attributes:
        rewards: of every network that was scored, float64 (networks,).
        chosen: the score of the network at the target that has the highest reward, the first of equal ones.
        tau: Kendall's tau between the reward and the accuracy of the networks at the target; NaN if either is the same for all.
    """

    rewards: np.ndarray
    chosen: Score
    tau: float


@dataclass(frozen=True)
class Recorded:
    """The networks that a run scored, as the transitions that led to them.

    Attributes:
        transitions: one for each row of ``evaluations.csv``.
        rewards: what the run's own reward was, float64 (networks,).
        straight: whether the agent is known to have gone from state to state without going back; else it is not known what was
            before its networks.
    """

    transitions: list[Transition]
    rewards: np.ndarray
    straight: bool

    def under(self, reward: Formula) -> Rescored:
        """What a reward says of them. Raises ValueError if none is at the target, for a reward that is not finite, and for one
        that reads what was before a step, or is a function of yours, if the agent went back on its way."""
        if not self.straight and (reward.reads_before or any(isinstance(part, Function) for part in reward.walk())):
            raise ValueError(
                f"reward: {reward} may read what was before a step, and this run's agent may have gone back on its way."
            )
        found = np.array([float(reward(*transition)) for transition in self.transitions])
        if not np.isfinite(found).all():
            raise ValueError(f"reward: expected finite numbers, {reward} gives {found[~np.isfinite(found)][0]}.")
        ends = np.array([bool(transition.terminal) for transition in self.transitions])
        if not ends.any():
            raise ValueError("run: expected one that scored a network at its target, got none.")
        accuracies = np.array([transition.after.accuracy for transition in self.transitions])
        best = int(np.flatnonzero(ends)[np.argmax(found[ends])])
        varied = np.ptp(found[ends]) > 0 and np.ptp(accuracies[ends]) > 0
        tau = float(kendalltau(found[ends], accuracies[ends]).statistic) if varied else float("nan")
        return Rescored(found, self.transitions[best].after, tau)


def read_run(folder: Path) -> Recorded:
    """The networks of a run that is finished. Raises FileNotFoundError for a folder that holds none."""
    folder = folder.expanduser()
    summary, settings = read_summary(folder), parse_json((folder / CONFIG).read_text())
    given = {kind: settings[kind] for kind in UNITS if settings[kind] is not None} or {"sparsity": DEFAULT_SPARSITY}
    ((kind, reduction),) = given.items()
    target = Target(kind, reduction)
    widths = {f"width:{name}": full for name, (full, _) in summary["widths"].items()}
    baseline = _score(summary["before"] | widths | {"accuracy": summary["before"][f"{settings['reward_split']}_accuracy"]})
    transitions, rewards, before, kinds = [], [], baseline, set()
    with (folder / EVALUATIONS).open(newline="") as file:
        for row in csv.DictReader(file):
            before = baseline if row["step"] == "0" else before
            after = _score(row)
            ends = row["kind"] == "target" or target.removed(after) >= target.required
            transitions.append(Transition(before, after, baseline, target, ends))
            rewards.append(float(row["reward"]))
            before = after if row["kind"] == "step" else before
            kinds.add(row["kind"])
    shrinks = all(after.params <= before.params for before, after, *_ in transitions)
    return Recorded(transitions, np.array(rewards), shrinks and _goes_straight(summary["agent"], settings, kinds))


def _goes_straight(agent: str, settings: dict[str, Any], kinds: set[str]) -> bool:
    """Whether an agent previews from the state that its next step goes from, if it previews at all."""
    if agent == "rl_pruner":
        return bool(settings["rl_pruner"]["sample_steps"] == 1)
    return kinds == {"step"} or agent in ("lookahead", "greedy")


def _score(row: Any) -> Score:
    kinds: dict[str, Any] = {"macs": int, "params": int}
    widths = [int(value) for name, value in row.items() if name.startswith("width:")]
    return Score(**{name: kinds.get(name, float)(row[name]) for name in NUMBERS}, widths=np.array(widths) if widths else None)
