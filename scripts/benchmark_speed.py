"""Measure what tracing, scoring and stepping cost, and write the numbers as JSON.

Every speed is also given as a ratio to the bare forward passes that the same work needs: the compact networks, built
beforehand, at the best batch size, in inference mode. Ratios are taken within one run and medians over repetitions, since
machines are noisy. On a GPU scoring is also compared to its arithmetic limit, and a whole search is timed.
"""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from command import run_command
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import prune_gym
from prune_gym import models, tasks
from prune_gym.arguments import choose_device
from prune_gym.benchmark.speed import at_scale
from prune_gym.benchmark.speed.clock import median_seconds
from prune_gym.envs import PruningEnv
from prune_gym.files import write_atomically
from prune_gym.graph.program import Program
from prune_gym.scoring.latency import seconds
from prune_gym.scoring.masked import MaskedNetwork
from prune_gym.tasks import Task
from prune_gym.training.train import one_thread

TRACED = ("vgg19", "resnet56", "densenet121", "googlenet", "mobilenet_v3_large")
TRACED_IMAGENET = (
    "torchvision/resnet18",
    "torchvision/resnet152",
    "torchvision/densenet201",
    "torchvision/efficientnet_b7",
    "torchvision/efficientnet_v2_l",
    "torchvision/convnext_large",
    "torchvision/shufflenet_v2_x2_0",
)
BATCH_SIZES = (50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Config:
    """What to measure."""

    device: str = "auto"
    """Where to measure: auto, cpu, cuda, ..."""
    threads: int | None = None
    """Threads of PyTorch; by default its own choice."""
    repetitions: int = 7
    """Measurements per number; the median is reported."""
    images: int | None = None
    """Random images for VGG-19 and ResNet-56 at 32x32; by default 1,000 on a CPU and 10,000 on a GPU."""
    search: bool | None = None
    """A whole search for VGG-19 at a quarter of its channels; by default on a GPU only, since a CPU takes hours."""
    memory: bool = True
    """Memory over 2,000 environment steps and 20 post-trainings; needs Linux."""
    out: Path | None = None
    """Where to write the JSON; by default results/speed_<device>.json."""


def main(config: Config) -> None:
    """Measure, write the numbers, and print them."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    on_gpu = device.type == "cuda"
    images = config.images or (10_000 if on_gpu else 1000)
    searched = on_gpu if config.search is None else config.search
    if config.memory and not at_scale.STATM.exists():
        raise ValueError(f"memory: expected a system with {at_scale.STATM}, this one has none; use --no-memory.")
    with tqdm(total=1 + len(tasks.TASKS) + 2 + config.memory + searched, unit="part") as bar:
        result: dict[str, Any] = {"machine": machine(device), "trace_seconds": trace_times(config.repetitions)}
        bar.update()
        if config.memory:
            result["memory"] = at_scale.memory(tasks.load("digits"), device)
            bar.update()
        result["scoring"] = {}
        result["step"] = {}
        for name in tasks.TASKS:
            task = tasks.load(name)
            result["scoring"][name] = scoring(task, device, config.repetitions)
            result["step"][name] = step_shares(task, device, config.repetitions)
            bar.update()
        for name in ("vgg19", "resnet56"):
            task, label = at_scale.random_task(name, images), f"{name}, {images} images"
            result["scoring"][label] = scoring(task, device, max(1, config.repetitions // 3))
            if on_gpu:
                result.setdefault("arithmetic", {})[label] = at_scale.arithmetic(task, device, config.repetitions)
            bar.update()
        if searched:
            result["search"] = {f"vgg19, {images} images": at_scale.search(at_scale.random_task("vgg19", images), device)}
            bar.update()
    out = config.out or Path("results") / f"speed_{device.type}.json"
    write_atomically(out, json.dumps(result, indent=2) + "\n")
    report(result)
    print(f"written to {out}")


def machine(device: torch.device) -> dict[str, object]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version()}


def trace_times(repetitions: int) -> dict[str, float]:
    """Seconds to trace a network on one core, its copy to the meta device included."""
    times = {}
    with one_thread():
        for name in (*TRACED, *TRACED_IMAGENET):
            with torch.device("meta"):
                model = models.create(name)
            images = torch.zeros(1, 3, *((32, 32) if name in TRACED else (224, 224)))
            times[name] = round(median_seconds(partial(prune_gym.trace, model, images), repetitions, torch.device("cpu")), 4)
    return times


def scoring(task: Task, device: torch.device, repetitions: int, candidates: int = 10) -> dict[str, float]:
    """Preview ``candidates`` actions, and the bare passes of the same compact networks over the same images."""
    env = PruningEnv(task, device=device, step_ratio=0.05)
    env.reset()
    rng = np.random.default_rng(0)
    simulator = env.simulator
    simulator.successors(simulator.initial(), [env.uniform_action])  # importance is computed once per state
    images = simulator.evaluator.split.inputs()

    ratios, rates = [], []
    batch_size = None
    for _ in range(repetitions):
        actions = rng.random((candidates, len(env.graph.groups)))  # new ones, so that no score is cached
        states = simulator.successors(simulator.initial(), list(actions))
        small = (prune_gym.compact(task.model, task.graph, state.architecture, form="program") for state in states)
        networks = [network.eval().to(device) for network in small]

        @torch.inference_mode()
        def bare(size: int, count: int = candidates, networks: list = networks) -> None:
            for network in networks[:count]:
                for batch in images.split(size):
                    network(batch).argmax(1)

        if batch_size is None:
            bare(max(BATCH_SIZES), 1)
            times = {size: min(seconds(partial(bare, size, 1), device) for _ in range(2)) for size in BATCH_SIZES}
            batch_size = min(times, key=times.__getitem__)
        before = seconds(partial(bare, batch_size), device)
        preview = seconds(partial(env.preview, actions), device)
        after = seconds(partial(bare, batch_size), device)
        ratios.append(preview / ((before + after) / 2))
        rates.append(candidates / preview)
    return {
        "evaluations_per_second": round(statistics.median(rates), 2),
        "ratio_to_bare_passes": round(statistics.median(ratios), 3),
        "best_batch_size": batch_size or 0,
    }


def step_shares(task: Task, device: torch.device, repetitions: int) -> dict[str, float]:
    """Which part of a full environment step, one that was never taken before, runs the network forward and backward."""
    env = PruningEnv(task, device=device, step_ratio=0.05)
    rng = np.random.default_rng(0)
    shares, times = [], []
    for repetition in range(4 * repetitions + 1):
        env.reset()
        env.step(rng.random(len(env.graph.groups)))
        action = rng.random(len(env.graph.groups))
        with passes_timed(device) as passes:
            step = seconds(partial(env.step, action), device)
        if repetition:  # the first one warms up
            shares.append(sum(passes) / step)
            times.append(step)
    return {"milliseconds": round(1e3 * statistics.median(times), 3), "share_of_passes": round(statistics.median(shares), 3)}


@contextmanager
def passes_timed(device: torch.device) -> Iterator[list[float]]:
    """Collects the seconds of every forward and backward pass of any network."""
    passes: list[float] = []

    def timed(function: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            results: list[object] = []
            passes.append(seconds(lambda: results.append(function(*args, **kwargs)), device))
            return results[0]

        return call

    with (  # a captured network runs no program
        patch.object(Program, "run", timed(Program.run)),
        patch.object(torch.autograd, "grad", timed(torch.autograd.grad)),
        patch.object(MaskedNetwork, "accuracies", timed(MaskedNetwork.accuracies)),
    ):
        yield passes


def report(result: dict[str, Any]) -> None:
    """Print what was measured."""
    console = Console()
    table = Table(title="tracing, one core")
    for heading in ("network", "ms"):
        table.add_column(heading, justify="right" if heading == "ms" else "left")
    for name, value in result["trace_seconds"].items():
        table.add_row(name, f"{1e3 * value:.0f}")
    console.print(table)
    table = Table(title=f"scoring 10 candidates on {result['machine']['device']}, {result['machine']['threads']} threads")
    for heading in ("network", "evaluations/s", "time over bare passes", "step, ms", "step in the network's passes"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, row in result["scoring"].items():
        step = result["step"].get(name)
        extra = (f"{step['milliseconds']:.1f}", f"{step['share_of_passes']:.0%}") if step else ("", "")
        table.add_row(name, f"{row['evaluations_per_second']:.1f}", f"{row['ratio_to_bare_passes']:.2f}", *extra)
    console.print(table)
    for name, rows in result.get("arithmetic", {}).items():
        table = Table(title=f"{name}: masked scoring against a matrix product")
        for heading in ("arithmetic", "teraflops", "ms per candidate", "times the limit", "changed predictions"):
            table.add_column(heading, justify="left" if heading == "arithmetic" else "right")
        for arithmetic, row in rows.items():
            numbers = (f"{row['matrix_product_teraflops']:.0f}", f"{row['milliseconds_per_candidate']:.1f}")
            table.add_row(arithmetic, *numbers, f"{row['times_arithmetic_limit']:.2f}", f"{row['changed_predictions']:.2%}")
        console.print(table)
    for name, row in result.get("search", {}).items():
        console.print(f"search of {name}: {row['evaluations']} evaluations in {row['seconds']:.0f} s")
    for what, curve in result.get("memory", {}).items():
        first, last = curve[0], curve[-1]
        grown = [f"{key.partition('_')[0]} {first[key]:.0f} to {last[key]:.0f} MB" for key in first if key != "step"]
        console.print(f"memory over {what} {first['step']} to {last['step']}: {', '.join(grown)}")


if __name__ == "__main__":
    run_command(main, Config, __doc__)
