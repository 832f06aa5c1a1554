"""All measurements of speed, one after the other."""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from tqdm import tqdm

from prune_gym import models, tasks
from prune_gym.arguments import AtLeast, check_settings, choose_device
from prune_gym.benchmark.speed import at_scale
from prune_gym.benchmark.speed.clock import median_seconds
from prune_gym.benchmark.speed.environments import steps_per_second
from prune_gym.benchmark.speed.scoring import scoring, step_shares
from prune_gym.graph.trace import trace
from prune_gym.scoring.candidates import FIDELITIES
from prune_gym.tasks import Task
from prune_gym.training.train import one_thread

Result = TypeVar("Result")

LARGE_CANDIDATES = 4  # of networks whose passes over all images take seconds
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


@dataclass(frozen=True)
class SpeedConfig:
    """What to measure."""

    device: str = "auto"
    """Where to measure: auto, cpu, cuda, ..."""
    threads: Annotated[int, AtLeast(1)] | None = None
    """Threads of PyTorch; by default its own choice."""
    repetitions: Annotated[int, AtLeast(1)] = 7
    """Measurements per number; the median is reported."""
    processes: Annotated[int, AtLeast(1)] = 5
    """Processes that measure the scoring of the small tasks, one after the other; the middle one is reported."""
    images: Annotated[int, AtLeast(1)] | None = None
    """Random images for VGG-19, ResNet-20 and ResNet-56 at 32x32; by default 1,000 on a CPU and 10,000 on a GPU."""
    search: bool | None = None
    """A whole search for VGG-19 at a quarter of its channels; by default on a GPU only, since a CPU takes hours."""
    memory: bool = True
    """Memory over 2,000 environment steps and 20 post-trainings; needs Linux."""
    out: Path | None = None
    """Where to write the JSON; by default results/speed_<device>.json."""

    def __post_init__(self) -> None:
        check_settings(self)
        choose_device(self.device)

    @property
    def file(self) -> Path:
        return (self.out or Path("results") / f"speed_{choose_device(self.device).type}.json").expanduser()


def measure(config: SpeedConfig) -> dict[str, Any]:
    """Everything that the configuration asks for, as the content of a JSON file.

    Raises ValueError if memory is asked for on a system that does not tell it.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    on_gpu = device.type == "cuda"
    images = config.images or (10_000 if on_gpu else 1000)
    searched = on_gpu if config.search is None else config.search
    if config.memory and not at_scale.STATM.exists():
        raise ValueError(f"memory: expected a system with {at_scale.STATM}, this one has none; use --no-memory.")
    with tqdm(total=2 + len(tasks.TASKS) + 3 + config.memory + searched, unit="part") as bar:
        result: dict[str, Any] = {"machine": machine(device), "trace_seconds": trace_times(config.repetitions)}
        bar.update()
        result["environments"] = steps_per_second(config.device, config.repetitions)
        bar.update()
        if config.memory:
            result["memory"] = at_scale.memory(tasks.load("digits"), device)
            bar.update()
        result["scoring"] = {}
        result["step"] = {}
        for name in tasks.TASKS:
            task = tasks.load(name)
            runs = [apart(by_fidelity, task, device, config.repetitions) for _ in range(config.processes)]
            result["scoring"][name] = {fidelity: middle([run[fidelity] for run in runs]) for fidelity in FIDELITIES}
            result["step"][name] = apart(step_shares, task, device, config.repetitions)
            bar.update()
        for name in ("vgg19", "resnet20", "resnet56"):
            task, label = at_scale.random_task(name, images), f"{name}, {images} images"
            # VGG-19 takes minutes for each, and what is beside its passes is known from the others
            fidelities = FIDELITIES if on_gpu or name != "vgg19" else FIDELITIES[:1]
            result["scoring"][label] = apart(by_fidelity, task, device, config.repetitions, LARGE_CANDIDATES, fidelities)
            if on_gpu and name != "resnet20":
                result.setdefault("arithmetic", {})[label] = at_scale.arithmetic(task, device, config.repetitions)
            bar.update()
        if searched:
            result["search"] = {f"vgg19, {images} images": at_scale.search(at_scale.random_task("vgg19", images), device)}
            bar.update()
    return result


def apart(function: Callable[..., Result], *args: object) -> Result:
    """The result of a call in a process of its own: kernels that were made for one network, and memory that it left, speed up or
    slow down what is measured next."""
    with ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    ) as pool:
        return pool.submit(function, *args).result()


def middle(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The row with the middle ratio: where memory lies and which cores are free makes processes differ as a whole."""
    return sorted(rows, key=lambda row: row["ratio_to_bare_passes"])[len(rows) // 2]


def by_fidelity(
    task: Task, device: torch.device, repetitions: int, candidates: int = 10, fidelities: Sequence[str] = FIDELITIES
) -> dict[str, dict[str, float]]:
    return {fidelity: scoring(task, device, repetitions, candidates, fidelity) for fidelity in fidelities}


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
            times[name] = round(median_seconds(partial(trace, model, images), repetitions, torch.device("cpu")), 4)
    return times
