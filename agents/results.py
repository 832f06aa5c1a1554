"""What a run found: its steps, the pruned network, pictures, and a summary of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from prune_gym.agents.config import RunConfig
from prune_gym.agents.pictures import plot_channels, plot_progress
from prune_gym.agents.recorder import SearchRecorder
from prune_gym.envs.pruning import Preview, PruningEnv
from prune_gym.files import read_json, write_atomically
from prune_gym.scoring.evaluation import Score
from prune_gym.simulation.simulator import PROTOCOLS
from prune_gym.surgery.pruned_file import save_pruned
from prune_gym.training.train import accuracy

SUMMARY = "summary.json"
ENTRIES: dict[str, type] = {  # of a summary
    "task": str,
    "agent": str,
    "seed": int,
    "evaluations": int,
    "protocol": str,
    "reward": Real,
    "yardstick": Real,
    "before": dict,
    "after": dict,
    "widths": dict,
    "architecture": str,
    "compute": dict,
    "kept": str,
}
MEASURED = ("val_accuracy", "test_accuracy", "macs", "params", "flops_reduction", "params_reduction", "channel_sparsity")


def best_of(env: PruningEnv, agent: str) -> Preview:
    """The best network that a search came to, by the yardstick. Raises ValueError, which names the agent, if it ended no
    episode."""
    if env.best is None:
        spent = f"{env.evaluations} of them, which took {env.compute.macs:.3g} MACs"
        raise ValueError(f"evaluations: {agent} ended no episode within {spent}; give it more.")
    return env.best


def write_results(folder: Path, config: RunConfig, agent: str, env: PruningEnv, recorder: SearchRecorder) -> dict[str, Any]:
    """Write the steps, the pruned network and the pictures of the best network, by the yardstick; gives the summary.

    Raises ValueError if no episode was ended.
    """
    best = best_of(env, agent)
    simulator, task, architecture = env.simulator, env.task, best.snapshot.architecture
    val, test = task.val.to(simulator.device), task.test.to(simulator.device)
    original, pruned = simulator.network(simulator.initial()), simulator.network(best.snapshot)
    summary: dict[str, Any] = {
        "task": task.name,
        "agent": agent,
        "seed": config.seed,
        "evaluations": env.evaluations,
        "compute": asdict(env.compute),
        "protocol": PROTOCOLS[config.reward_split],
        "reward": best.reward,
        "yardstick": best.yardstick,
        "before": _measures(simulator.baseline, accuracy(original, val), accuracy(original, test)),
        "after": _measures(best.score, accuracy(pruned, val), accuracy(pruned, test)),
        "widths": {
            group.name: [group.width, kept] for group, kept in zip(env.graph.groups, architecture.widths.tolist(), strict=True)
        },
        "architecture": architecture.digest,
        "kept": np.packbits(architecture.mask).tobytes().hex(),
    }
    student = best.snapshot.weights.student
    if student is not None:
        untrained = simulator.store.network(student)
        summary["before_posttraining"] = {"val_accuracy": accuracy(untrained, val), "test_accuracy": accuracy(untrained, test)}
    write_atomically(folder / "steps.csv", recorder.steps_csv())
    write_atomically(folder / "evaluations.csv", recorder.evaluations_csv())
    save_pruned(folder / "pruned.safetensors", pruned, {"summary": summary})
    write_atomically(folder / "channels.png", plot_channels(env, best))
    write_atomically(folder / "progress.png", plot_progress(recorder.rows, env))
    return summary


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


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run, which is there once the run is finished.

    Raises FileNotFoundError if it is not, ValueError for a damaged file; it names the file and the entry that is missing.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"run: expected the folder of a run, made by train_agent.py; {folder} is not a folder.")
    path = folder / SUMMARY
    if not path.is_file():
        raise FileNotFoundError(f"run: {folder} holds no finished run, as it has no summary.json; run train_agent.py first.")
    summary = read_json(path, "the summary of a run")
    missing = _missing_entry(summary)
    if missing:
        raise ValueError(f"{path}: damaged, its entry {missing!r} is missing or of another kind; run train_agent.py again.")
    return summary


def _missing_entry(summary: Mapping[str, Any]) -> str | None:
    """The first entry that a summary does not have as it should."""
    for name, kind in ENTRIES.items():
        if not isinstance(summary.get(name), kind):
            return name
    for part in ("before", "after"):
        for name in MEASURED:
            if not isinstance(summary[part].get(name), Real):
                return f"{part}.{name}"
    for name, widths in summary["widths"].items():
        if not (isinstance(widths, list) and len(widths) == 2 and all(isinstance(width, int) for width in widths)):
            return f"widths.{name}"
    return None
