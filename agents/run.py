"""One run: an agent on a task, and the folder that holds everything about it."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure

from prune_gym.agents.base import EvaluationBudget
from prune_gym.agents.config import RunConfig, read_config
from prune_gym.agents.pictures import plot_channels, plot_progress
from prune_gym.agents.registry import AgentMaker, make_agent
from prune_gym.envs.pruning import PruningEnv
from prune_gym.files import csv_text, write_atomically
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.journal import Journal, remove_journal
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.simulator import PROTOCOLS
from prune_gym.surgery.pruned_file import save_pruned
from prune_gym.training.train import accuracy, deterministic

JOURNAL = "journal.txt"
MEASURES = ("accuracy", "flops_reduction", "params_reduction", "channel_sparsity")


@dataclass(frozen=True)
class RunResult:
    """What a run found; ``summary`` is the content of summary.json."""

    folder: Path
    summary: dict[str, Any]


def prepare(
    config: RunConfig, progress: bool = False, agent: AgentMaker = make_agent, cache: ResultCache | None = None
) -> tuple[PruningEnv, BaseAlgorithm, int]:
    """The environment, the agent on it, and how many networks it may score. Raises ValueError if that is less than an episode."""
    env = config.environment(config.load_task(progress), cache)
    env.reset(seed=config.seed)
    steps = env.steps_left
    evaluations = config.evaluations or config.rl_pruner.evaluations(steps)
    if evaluations < steps:
        raise ValueError(f"evaluations: expected at least {steps}, one per pruning step, got {evaluations}.")
    return env, agent(config, env), evaluations


def search(env: PruningEnv, algorithm: BaseAlgorithm, evaluations: int, progress: bool = False) -> StepRecorder:
    """The loop that all agents go through: learn for exactly so many evaluations. What it found is in the environment's
    ``best``."""
    recorder = StepRecorder(env)
    algorithm.learn(evaluations, CallbackList([recorder, EvaluationBudget(evaluations)]), progress_bar=progress)
    return recorder


@deterministic()
def run(config: RunConfig, progress: bool = False, agent: AgentMaker = make_agent) -> RunResult:
    """Let an agent prune, and write config, steps, pictures, the pruned network and at last ``summary.json``.

    The pruned network is the best one at the target sparsity that the agent scored, by its reward. ``agent`` makes an agent of
    your own: an algorithm of Stable-Baselines3, or a :class:`prune_gym.agents.SearchAgent`.

    Everything that takes long is noted in the folder's journal as soon as it is known, so a run that was interrupted or
    killed at any moment goes on with ``resume=True`` and ends with the same bytes; see :mod:`prune_gym.cache`.

    Raises FileExistsError if the folder already holds a run, ValueError for a bad configuration; then nothing is written. A
    run that fails later leaves its folder, and goes on as one that was killed; OSError, for a full disk, says how.
    """
    clock = {"start": time.perf_counter()}
    if config.resume:
        config = _continued(config)
        summary_file = Path(config.out or "").expanduser() / "summary.json"
        if summary_file.exists():
            remove_journal(summary_file.with_name(JOURNAL))  # in case it was killed in its last moment
            return RunResult(summary_file.parent, read_summary(summary_file.parent))
    else:
        _check_free(config.out)
    folder: Path | None = None
    journal = Journal()
    try:
        env, algorithm, evaluations = prepare(config, progress, agent, journal)
        clock["task"] = time.perf_counter()
        name = config.agent if agent is make_agent else type(algorithm).__name__
        folder = _make_folder(config, env.task.name, name)
        if not (folder / "config.json").exists():
            write_atomically(folder / "config.json", _json(config.settings() | {"made_by": name}))
        journal.open(folder / JOURNAL, {"settings": config.settings(), "agent": name} | env.simulator.identity)
        events = folder / "tensorboard"
        if events.exists():  # of a run that was killed; all is logged again
            shutil.rmtree(events)
        logger = configure(str(events), ["tensorboard"])
        algorithm.set_logger(logger)
        recorder = search(env, algorithm, evaluations, progress)
        logger.close()
        clock["search"] = time.perf_counter()
        summary = _write_results(folder, config, name, env, recorder)
        algorithm.save(folder / "agent.zip")
        clock["write"] = time.perf_counter()
        timings = {later: round(clock[later] - clock[earlier], 3) for earlier, later in pairwise(clock)}
        write_atomically(folder / "timings.json", _json({"seconds": timings}))
        write_atomically(folder / "summary.json", _json(summary))  # it marks the run as complete
        journal.remove()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written" if folder is None else _how_to_go_on(folder)) from None
    except OSError as error:  # a full disk, say: what the folder holds is whole
        if folder is None or error.errno is None:
            raise
        hint = f"{error.strerror}; when that is mended, {_how_to_go_on(folder)}"
        raise OSError(error.errno, hint, error.filename) from error
    finally:
        journal.close()
    return RunResult(folder, summary)


def _how_to_go_on(folder: Path) -> str:
    return f"go on with --out {folder} --resume" if (folder / "config.json").exists() else "repeat the same command"


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run, which is there once the run is finished. Raises FileNotFoundError, or ValueError if it is damaged."""
    folder = folder.expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"run: expected the folder of a run, made by train_agent.py; {folder} is not a folder.")
    path = folder / "summary.json"
    if not path.is_file():
        raise FileNotFoundError(f"run: {folder} holds no finished run, as it has no summary.json; run train_agent.py first.")
    try:
        summary = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"run: {path} is damaged ({error}); run train_agent.py again.") from error
    for key in ("task", "agent", "protocol"):
        if not isinstance(summary, dict) or not isinstance(summary.get(key), str):
            raise ValueError(f"run: {path} is damaged (it says no {key}); run train_agent.py again.")
    return summary


def _continued(config: RunConfig) -> RunConfig:
    """The settings of the run in ``config.out``, if there is one. What ``config`` says besides its defaults must agree."""
    folder = Path(config.out or "").expanduser()
    if not (folder / "config.json").exists():
        _check_free(folder)
        return config
    continued = replace(read_config(folder), out=folder, resume=True)
    given, default, settings = (_flat(c.settings()) for c in (config, RunConfig(), continued))
    for key, value in given.items():
        if value not in (default[key], settings[key]):
            raise ValueError(f"{key}: the run in {folder} has {settings[key]}, got {value}; leave it out, or start another run.")
    return continued


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """One entry for every setting, as on the command line."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _write_results(folder: Path, config: RunConfig, name: str, env: PruningEnv, recorder: StepRecorder) -> dict[str, Any]:
    """Write the steps, the pruned network and the pictures; gives the summary."""
    best = env.best
    if best is None:
        raise ValueError(f"evaluations: {name} ended no episode within {env.evaluations} of them; give it more.")
    simulator, task, architecture = env.simulator, env.task, best.snapshot.architecture
    val, test = task.val.to(simulator.device), task.test.to(simulator.device)
    original, pruned = simulator.network(simulator.initial()), simulator.network(best.snapshot)
    summary: dict[str, Any] = {
        "task": task.name,
        "agent": name,
        "seed": config.seed,
        "evaluations": env.evaluations,
        "protocol": PROTOCOLS[config.reward_split],
        "reward": best.reward,
        "before": _measures(simulator.baseline, accuracy(original, val), accuracy(original, test)),
        "after": _measures(best.score, accuracy(pruned, val), accuracy(pruned, test)),
        "widths": {
            group.name: [group.width, kept] for group, kept in zip(env.graph.groups, architecture.widths.tolist(), strict=True)
        },
        "architecture": architecture.digest,
    }
    student = best.snapshot.weights.student
    if student is not None:
        untrained = simulator.trainer.network(student)
        summary["before_posttraining"] = {"val_accuracy": accuracy(untrained, val), "test_accuracy": accuracy(untrained, test)}
    write_atomically(folder / "steps.csv", recorder.csv())
    save_pruned(folder / "pruned.safetensors", pruned, {"summary": summary})
    write_atomically(folder / "channels.png", plot_channels(env, best))
    write_atomically(folder / "progress.png", plot_progress(recorder.rows, env, best))
    return summary


def _check_free(out: str | Path | None) -> None:
    folder = None if out is None else Path(out).expanduser()
    if folder is not None and folder.exists() and (not folder.is_dir() or any(not _is_leftover(p) for p in folder.iterdir())):
        raise FileExistsError(f"out: {folder} is not an empty folder, it may hold a run; choose another or delete it.")


def _is_leftover(path: Path) -> bool:
    """Whether it is a file of :func:`write_atomically` in a process that was killed."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def _make_folder(config: RunConfig, task: str, agent: str) -> Path:
    """The run folder, new; two runs that start at once never get the same one."""
    if config.out is not None:
        if not config.resume:
            _check_free(config.out)
        folder = Path(config.out).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    base = Path("runs") / f"{task}_{agent}_seed{config.seed}_{time.strftime('%Y%m%d-%H%M%S')}"
    for number in count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("count() does not end")


def _measures(score: Score, val: float, test: float) -> dict[str, float]:
    return {
        "val_accuracy": val,
        "test_accuracy": test,
        "macs": score.macs,
        "params": score.params,
        "flops_reduction": score.flops_reduction,
        "params_reduction": score.params_reduction,
        "channel_sparsity": score.channel_sparsity,
    }


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


class StepRecorder(BaseCallback):
    """Notes every real step of any agent, one row each: what becomes steps.csv."""

    def __init__(self, env: PruningEnv):
        super().__init__()
        self.inner = env
        self.rows: list[dict[str, Any]] = []
        self.columns = [
            "episode",
            "step",
            "evaluations",
            "reward",
            *MEASURES,
            *(f"width:{group.name}" for group in env.graph.groups),
        ]
        self._episode = self._step = 0

    def _on_step(self) -> bool:
        if self.locals.get("preview"):
            return True
        info = self.locals["infos"][0]
        row = {"episode": self._episode, "step": self._step, "evaluations": self.inner.evaluations, "reward": self._reward()}
        row |= {key: info[key] for key in MEASURES}
        row |= dict(zip(self.columns[-len(info["widths"]) :], info["widths"].tolist(), strict=True))
        self.rows.append(row)
        self.inner.simulator.cache.sync()  # a checkpoint
        self._step += 1
        if self.locals["dones"][0]:
            self._episode, self._step = self._episode + 1, 0
        return True

    def _reward(self) -> float:
        return float(f"{self.locals['rewards'][0]:.7g}")  # SB3's vectorised environments hand on float32

    def csv(self) -> str:
        return csv_text(self.columns, self.rows)
