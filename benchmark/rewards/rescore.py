"""What another reward would have said about a run: read off its ``evaluations.csv``, without running a network."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from prune_gym.agents.results import read_summary
from prune_gym.agents.rl_pruner import RLPrunerConfig
from prune_gym.agents.run_folder import CONFIG, read_stored
from prune_gym.arguments import check_choice
from prune_gym.envs.pruning import DEFAULT_SPARSITY
from prune_gym.scoring.evaluation import NUMBERS, Score
from prune_gym.simulation.simulator import PROTOCOLS
from prune_gym.simulation.space import UNITS
from prune_gym.simulation.target import Target, the_target
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
    """The networks of a run that is finished.

    Raises FileNotFoundError for a folder that holds none, ValueError for a damaged file; it names the file.
    """
    folder = folder.expanduser()
    summary = read_summary(folder)
    target, split, sample_steps = _read_settings(folder / CONFIG, summary["agent"])
    widths = {f"width:{name}": full for name, (full, _) in summary["widths"].items()}
    baseline = _score(summary["before"] | widths | {"accuracy": summary["before"][f"{split}_accuracy"]})
    transitions, rewards, before, kinds = [], [], baseline, set()
    for step, kind, after, reward in _read_evaluations(folder / EVALUATIONS):
        before = baseline if step == "0" else before
        ends = kind == "target" or target.removed(after) >= target.required
        transitions.append(Transition(before, after, baseline, target, ends))
        rewards.append(reward)
        before = after if kind == "step" else before
        kinds.add(kind)
    shrinks = all(after.params <= before.params for before, after, *_ in transitions)
    return Recorded(transitions, np.array(rewards), shrinks and _goes_straight(summary["agent"], sample_steps, kinds))


def _read_settings(path: Path, agent: str) -> tuple[Target, str, int]:
    """The target of a run, the split that its accuracies are of, and how deep its agent samples. Not the whole
    :class:`prune_gym.agents.RunConfig`, which takes no agent, device or reward that only the run's own machine has."""
    settings = read_stored(path)
    try:
        reductions = [settings[kind] for kind in UNITS]
        target = Target("sparsity", DEFAULT_SPARSITY) if reductions == [None] * len(UNITS) else the_target(*reductions)
        check_choice("reward_split", settings["reward_split"], PROTOCOLS)
        sample_steps = RLPrunerConfig(**settings["rl_pruner"]).sample_steps if agent == "rl_pruner" else 1
    except KeyError as error:
        raise ValueError(f"{path}: damaged, or of another version; it does not have the setting {error}.") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged, or of another version ({error}).") from error
    return target, settings["reward_split"], sample_steps


def _read_evaluations(path: Path) -> list[tuple[str, str, Score, float]]:
    """Of every network of a run the step, the kind, the score and the reward."""
    with path.open(newline="") as file:
        try:
            return [(row["step"], row["kind"], _score(row), float(row["reward"])) for row in csv.DictReader(file)]
        except KeyError as error:
            raise ValueError(f"{path}: damaged, or of another version; it does not have the column {error}.") from error
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{path}: damaged, or of another version ({error}).") from error


def _goes_straight(agent: str, sample_steps: int, kinds: set[str]) -> bool:
    """Whether an agent previews from the state that its next step goes from, if it previews at all."""
    if agent == "rl_pruner":
        return sample_steps == 1
    return kinds == {"step"} or agent in ("lookahead", "greedy")


def _score(row: Any) -> Score:
    kinds: dict[str, Any] = {"macs": int, "params": int}
    widths = [int(value) for name, value in row.items() if name.startswith("width:")]
    return Score(**{name: kinds.get(name, float)(row[name]) for name in NUMBERS}, widths=np.array(widths) if widths else None)
