"""Settings of agents, tuned on tables by Optuna: ``python -m prune_gym.benchmark.tuning --help``

Every agent has the same number of trials. A trial plays the tables of the first base networks with seeds of its own, and is worth
the mean regret. What comes out is data, ``agents/tuned.json``; how good it is must be seen on other base networks and other
seeds, as scripts/benchmark.py does with ``--settings tuned``. An interrupted command goes on where it stopped. Needs
``pip install "prune_gym[tuning]"``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from prune_gym.arguments import AtLeast, Within, check_choice, check_different, check_settings
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.games import TABULAR, TASKS, Game
from prune_gym.benchmark.play import Play, play
from prune_gym.benchmark.processes import in_processes
from prune_gym.benchmark.rows import Rows
from prune_gym.benchmark.table import markdown_table
from prune_gym.files import check_writable, read_json, write_atomically

BASE = 0  # whose tables are tuned on
DEFAULT = -1  # the number of the trial that plays with the default settings
TABULAR_TASKS = tuple(name for name in TASKS if name.startswith(TABULAR))
KEY = ("agent", "game", "trial")
COLUMNS = (*KEY, "settings", "regret")


def _log(low: float, high: float) -> FloatDistribution:
    return FloatDistribution(low, high, log=True)


def _one_of(*values: Any) -> CategoricalDistribution:
    return CategoricalDistribution(values)


GAMMA = _one_of(0.9, 0.99, 1.0)
ON_POLICY: dict[str, BaseDistribution] = {
    "learning_rate": _log(1e-4, 1e-2),
    "n_steps": _one_of(16, 32, 64, 128),
    "gamma": GAMMA,
}
OFF_POLICY: dict[str, BaseDistribution] = {
    "learning_rate": _log(1e-4, 1e-2),
    "learning_starts": _one_of(25, 50, 100, 200),
    "batch_size": _one_of(32, 64, 128),
    "tau": _log(1e-3, 1e-1),
    "gamma": GAMMA,
}
SPACES: dict[str, dict[str, BaseDistribution]] = {
    "random": {"scale": _log(0.1, 3)},
    "eagle_eye": {"low": FloatDistribution(0.0, 0.2)},
    "cma_es": {"sigma": _log(0.1, 2), "population": IntDistribution(4, 16)},
    "tpe": {"bound": FloatDistribution(0.5, 5)},
    "uct": {"exploration": _log(0.01, 1)},
    "lookahead": {
        "noise_std": _log(0.1, 2),
        "samples": IntDistribution(5, 20),
        "stages": IntDistribution(1, 15),
        "elites": IntDistribution(1, 5),
    },
    "rl_pruner": {
        "noise_std": _log(0.01, 0.5),
        "step_size": _log(0.02, 1),
        "samples": IntDistribution(3, 20),
        "stages": IntDistribution(1, 15),
        "prune_with": _one_of("policy", "sample"),
    },
    "ppo": ON_POLICY | {"n_epochs": _one_of(5, 10, 20), "ent_coef": _log(1e-5, 1e-1)},
    "a2c": ON_POLICY | {"n_steps": _one_of(5, 15, 30, 60), "ent_coef": _log(1e-5, 1e-1)},
    "trpo": ON_POLICY | {"target_kl": _log(0.003, 0.3)},
    "sac": OFF_POLICY,
    "tqc": OFF_POLICY,
    "td3": OFF_POLICY,
    "ddpg": OFF_POLICY,
    "dqn": OFF_POLICY | {"exploration_fraction": FloatDistribution(0.1, 0.9)},
    "ars": {"learning_rate": _log(0.01, 1), "n_delta": IntDistribution(2, 16), "delta_std": _log(0.01, 1)},
}


@dataclass(frozen=True)
class TuningConfig:
    """Which agents are tuned, and on what."""

    agents: tuple[str, ...] = tuple(SPACES)
    """Agents by name."""
    trials: Annotated[int, AtLeast(1)] = 20
    """Settings that are tried for each of them, the default ones apart."""
    tasks: tuple[str, ...] = TABULAR_TASKS
    """Tasks with tables."""
    macs_reduction: Annotated[float, Within("(0, 1)")] = 0.75
    """Target: MACs to remove, as a fraction of the original network's."""
    evaluations: Annotated[int, AtLeast(1)] = 1000
    """Networks that an agent may score in one search."""
    seeds: Annotated[int, AtLeast(1)] = 2
    """How many seeds: 0, 1, ..."""
    processes: Annotated[int, AtLeast(1)] = 2
    """Searches at a time, one thread each."""
    trials_file: Path = Path("results/tuning.csv")
    """The CSV of all trials; rows that it holds are kept. A table of what was chosen lies beside it."""
    out: Path = Path("agents/tuned.json")
    """Where the best settings are written."""

    def __post_init__(self) -> None:
        check_settings(self)
        check_different("agents", self.agents)
        check_different("tasks", self.tasks)
        for agent in self.agents:
            check_choice("agents", agent, SPACES)
        for task in self.tasks:
            check_choice("tasks", task, TABULAR_TASKS)

    @property
    def game(self) -> str:
        """What is played in a trial, as text."""
        tables = ", ".join(f"{task} {BASE}" for task in self.tasks)
        return f"{tables}; {self.macs_reduction:.0%} of the MACs; {self.evaluations} evaluations; {self.seeds} seeds"


def tune(config: TuningConfig) -> Rows:
    """Play the trials that the CSV lacks, one of every agent at a time; they are written when all agents have played theirs."""
    rows = Rows(config.trials_file.expanduser(), COLUMNS, KEY)
    check_writable(rows.path)
    check_writable(config.out.expanduser())
    for number in range(DEFAULT, config.trials):
        missing = [agent for agent in config.agents if (agent, config.game, number) not in rows]
        if not missing:
            continue
        chosen = {agent: {} if number == DEFAULT else suggest(agent, number, trials_of(config, agent, rows)) for agent in missing}
        plays = [one for agent, settings in chosen.items() for one in plays_of(config, agent, settings)]
        regrets: dict[str, list[float]] = {agent: [] for agent in missing}
        for record in in_processes(play, plays, config.processes):
            regrets[record.key["agent"]].append(record.found["regret"])
        for agent in missing:
            trial = {"agent": agent, "game": config.game, "trial": number, "settings": json.dumps(chosen[agent])}
            rows.add(trial | {"regret": round(mean(regrets[agent]), 6)})
    return rows


def trials_of(config: TuningConfig, agent: str, rows: Rows) -> list[dict[str, str]]:
    """The trials of an agent in this game, the one with the default settings first."""
    return [row for row in rows.rows if (row["agent"], row["game"]) == (agent, config.game)]


def suggest(agent: str, number: int, trials: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What Optuna wants to try after the trials before this one. It follows from them, whether they were interrupted or not."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=number, n_startup_trials=8))
    for row in trials:
        if DEFAULT < int(row["trial"]) < number:
            params = json.loads(row["settings"])
            study.add_trial(optuna.trial.create_trial(params=params, distributions=SPACES[agent], value=float(row["regret"])))
    return study.ask(SPACES[agent]).params


def plays_of(config: TuningConfig, agent: str, settings: Mapping[str, Any]) -> list[Play]:
    """A trial: the searches on all tables with all seeds."""
    return [
        Play(Game(task, BASE, config.macs_reduction, config.evaluations), agent, seed, json.dumps(settings))
        for task, seed in product(config.tasks, range(config.seeds))
    ]


def best_settings(config: TuningConfig, rows: Rows) -> dict[str, dict[str, Any]]:
    """For every agent that is tuned, as in ``tuned.json``, the settings with the least regret, the default ones if none has
    less."""
    found = {}
    for agent in sorted(config.agents):
        trials = trials_of(config, agent, rows)
        best = min(trials, key=lambda row: float(row["regret"]))
        found[agent] = {
            "settings": json.loads(best["settings"]),
            "ranges": {name: range_of(distribution) for name, distribution in SPACES[agent].items()},
            "regret": float(best["regret"]),
            "default_regret": float(trials[0]["regret"]),
            "tables": [f"{task} {BASE}" for task in config.tasks],
            "macs_reduction": config.macs_reduction,
            "evaluations": config.evaluations,
            "seeds": list(range(config.seeds)),
            "trials": len(trials) - 1,
        }
    return found


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of the content of ``tuned.json``: regrets in points where it was tuned, and what was chosen."""
    lines = []
    for agent, about in sorted(found.items(), key=lambda item: item[1]["regret"]):
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in about["settings"].items()) or "the default ones"
        lines.append([agent, f"{100 * about['default_regret']:.1f}", f"{100 * about['regret']:.1f}", chosen])
    return markdown_table(["agent", "default", "tuned", "settings"], lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def range_of(distribution: BaseDistribution) -> list[Any]:
    """Its least and its largest value, or its choices."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def main(config: TuningConfig) -> None:
    """Tune, and write the best settings and their table. What the file says of other agents stays."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out = config.out.expanduser()
    known = read_json(out, "tuned settings") if out.exists() else {}  # before the trials, so that a damaged file is noticed
    found = known | best_settings(config, tune(config))
    found = {agent: found[agent] for agent in sorted(found)}
    write_atomically(out, json.dumps(found, indent=2) + "\n")
    write_atomically(config.trials_file.expanduser().with_suffix(".md"), table(found))
    print(table(found))


if __name__ == "__main__":
    run_command(main, TuningConfig, __doc__, "trials that were finished are kept; the same command goes on")
