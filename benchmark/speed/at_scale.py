"""Measurements at the size of the paper: how near scoring is to what the device can compute, how long a whole search takes,
and whether memory grows over many steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune_gym import models
from prune_gym.agents import RLPruner, RLPrunerConfig
from prune_gym.benchmark.speed.clock import median_seconds
from prune_gym.data.splits import Split
from prune_gym.envs import PruningEnv
from prune_gym.scoring.evaluation import batch_size_for
from prune_gym.scoring.folding import fold
from prune_gym.scoring.latency import seconds
from prune_gym.scoring.masked import MaskedNetwork
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining

ARITHMETIC = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "tf32", "bfloat16")}
STATM = Path("/proc/self/statm")


def random_task(name: str, images: int) -> Task:
    """A network with random weights and random 32x32 images: speed does not depend on what they show. Its batch norms know
    the statistics of some of them, lest all images look alike to it."""
    torch.manual_seed(0)
    split = Split(torch.randn(images, 3, 32, 32), torch.randint(10, (images,)))
    model = models.create(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(split.inputs(slice(200)))
    return Task(name, model.eval(), split, split, split)


# ------------------------------------------------------------------------------------------------ arithmetic


@contextmanager
def arithmetic_of(name: str) -> Iterator[torch.dtype]:
    """The type to compute in; products of float32 are rounded to TF32 on tensor cores with ``"tf32"`` and not with another."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = name == "tf32"
    try:
        yield torch.bfloat16 if name == "bfloat16" else torch.float32
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


def _rounded(number: float) -> float:
    """Four digits of a measurement, however small it is."""
    return float(f"{number:.4g}")


def arithmetic(
    task: Task, device: torch.device, repetitions: int, candidates: int = 10, size: int = 8192
) -> dict[str, dict[str, float]]:
    """Scoring with a masked network against the arithmetic limit, for every arithmetic of the device.

    The limit is the time in which a product of two ``size`` x ``size`` matrices, on the same device, does as many operations
    as the unpruned network does for all images, two per multiply-accumulate. ``changed_predictions`` is the fraction of the
    images of pruned networks that another class is predicted for than in float32.
    """
    graph, split = task.graph, task.val.to(device)
    tensors = {name: tensor.detach().to(device) for name, tensor in named_tensors(task.model, graph).items()}
    masks = np.random.default_rng(0).random((candidates, graph.n_units)) < 0.75
    operations = 2 * graph.cost(graph.full()).macs * len(split)
    result = {}
    reference = None
    for name in ARITHMETIC[device.type]:
        with arithmetic_of(name) as dtype:
            square = torch.randn(size, size, device=device, dtype=dtype)
            speed = 2 * size**3 / median_seconds(partial(torch.mm, square, square), repetitions, device)
            network = MaskedNetwork(
                fold(graph, tensors).to(dtype), graph, split.inputs().to(dtype), split.labels, batch_size_for(split.images)
            )
            each = median_seconds(partial(network.accuracies, masks), repetitions, device) / candidates
            predictions = torch.stack([network.logits(mask).argmax(1) for mask in masks])
        reference = predictions if reference is None else reference
        result[name] = {
            "matrix_product_teraflops": _rounded(speed / 1e12),
            "milliseconds_per_candidate": _rounded(1e3 * each),
            "evaluations_per_second": _rounded(1 / each),
            "times_arithmetic_limit": _rounded(each * speed / operations),
            "changed_predictions": round(float((predictions != reference).double().mean()), 5),
        }
    return result


# ---------------------------------------------------------------------------------------- search and memory


def search(task: Task, device: torch.device, sparsity: float = 0.75, step_ratio: float = 0.01) -> dict[str, float]:
    """One episode of RL-Pruner with the paper's settings, rewarded by accuracy, without any training in between; the
    environment is made within the time."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what earlier measurements left
        torch.cuda.reset_peak_memory_stats(device)

    def episode() -> None:
        env = PruningEnv(task, sparsity, step_ratio, reward="accuracy", device=device)
        env.reset()
        config = RLPrunerConfig.paper()
        result["steps"] = env.steps_left
        RLPruner(env, config, seed=0).learn(config.evaluations(env.steps_left))
        result["evaluations"] = env.evaluations

    result: dict[str, float] = {}
    result["seconds"] = round(seconds(episode, device), 3)
    result["milliseconds_per_evaluation"] = round(1e3 * result["seconds"] / result["evaluations"], 3)
    if device.type == "cuda":
        result["peak_device_megabytes"] = round(torch.cuda.max_memory_reserved(device) / 1e6, 1)
    return result


def memory(task: Task, device: torch.device, steps: int = 2000, trainings: int = 20) -> dict[str, list[dict[str, float]]]:
    """Memory during random steps, and during steps that end with a post-training of one epoch each."""
    return {
        "steps": memory_over(PruningEnv(task, device=device), steps),
        "post-trainings": memory_over(PruningEnv(task, device=device, posttraining=PostTraining(epochs=1)), trainings),
    }


def memory_over(env: PruningEnv, steps: int, samples: int = 20) -> list[dict[str, float]]:
    """Megabytes that this process holds on the host and on a GPU, up to ``samples`` times during ``steps`` random steps."""
    rng = np.random.default_rng(0)
    curve, terminated = [], True
    for step in range(1, steps + 1):
        if terminated:
            env.reset()
        _, _, terminated, _, _ = env.step(rng.random(len(env.graph.groups)))
        if step * samples // steps > (step - 1) * samples // steps:
            row = {"step": step, "host_megabytes": round(host_bytes() / 1e6, 1)}
            if env.simulator.device.type == "cuda":
                row["device_megabytes"] = round(torch.cuda.memory_reserved(env.simulator.device) / 1e6, 1)
            curve.append(row)
    return curve


def host_bytes() -> int:
    """Resident memory of this process. Raises FileNotFoundError where there is no ``/proc``."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
