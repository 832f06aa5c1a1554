"""What scoring candidates and taking a step cost, beside the passes of the networks that they cannot do without."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
import torch

from prune_gym.envs import PruningEnv
from prune_gym.graph.program import Program
from prune_gym.scoring.calibration import RECALIBRATION_IMAGES, how_many
from prune_gym.scoring.latency import seconds
from prune_gym.scoring.masked import MaskedNetwork
from prune_gym.surgery.compact import compact
from prune_gym.tasks import Task

BATCH_SIZES = (50, 100, 200, 500, 1000)


def scoring(
    task: Task, device: torch.device, repetitions: int, candidates: int = 10, fidelity: str = "original"
) -> dict[str, float]:
    """Preview ``candidates`` actions, and the bare passes of the same compact networks over the same images, those included on
    which a candidate is recalibrated."""
    env = PruningEnv(task, device=device, step_ratio=0.05, fidelity=fidelity)
    env.reset()
    env.preview([env.uniform_action])  # so that what is computed once is known
    rng = np.random.default_rng(0)
    simulator = env.simulator
    images = simulator.scorer.split.inputs()
    if fidelity == "recalibrated":
        calibration = task.train.sample(how_many(RECALIBRATION_IMAGES, task.train)).to(device).inputs()
        images = torch.cat([images, calibration])

    def draw() -> list[np.ndarray]:
        """New actions, so that no score is cached and no kernel was made for their shapes: every candidate of a search is new."""
        return list(rng.random((candidates, len(env.graph.groups))))

    def new_networks() -> list[torch.nn.Module]:
        states = simulator.successors(simulator.initial(), draw())
        return [compact(task.model, task.graph, state.architecture, form="program").eval().to(device) for state in states]

    @torch.inference_mode()
    def bare(networks: list[torch.nn.Module], size: int) -> None:
        for network in networks:
            for batch in images.split(size):
                network(batch).argmax(1)

    few = new_networks()[:2]
    bare(few, len(images))
    times = {size: min(seconds(partial(bare, few, size), device) for _ in range(3)) for size in BATCH_SIZES}
    batch_size = min(times, key=times.__getitem__)
    ratios, rates = [], []
    for _ in range(repetitions):
        before = seconds(partial(bare, new_networks(), batch_size), device)
        preview = seconds(partial(env.preview, draw()), device)
        after = seconds(partial(bare, new_networks(), batch_size), device)
        ratios.append(preview / ((before + after) / 2))
        rates.append(candidates / preview)
    return {
        "evaluations_per_second": round(statistics.median(rates), 2),
        "ratio_to_bare_passes": round(statistics.median(ratios), 3),
        "best_batch_size": batch_size,
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
