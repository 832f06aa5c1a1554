"""The pruned network of a run in a format to ship, and a report of what it is worth."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro

from prune_gym.agents.config import RunConfig
from prune_gym.agents.results import read_summary
from prune_gym.agents.run_folder import read_config
from prune_gym.arguments import check_choice, check_integer, choose_device
from prune_gym.files import check_writable, write_atomically
from prune_gym.graph.channel_graph import Architecture
from prune_gym.graph.trace import trace
from prune_gym.scoring.calibration import COMPENSATION_IMAGES, how_many
from prune_gym.scoring.compensation import compensate
from prune_gym.scoring.importance import importance
from prune_gym.scoring.latency import latencies, peak_memory
from prune_gym.surgery.compact import compact, program_form
from prune_gym.surgery.export import EXPORTERS, compare, export
from prune_gym.surgery.pruned_file import load_pruned
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.surgery.widths import rounded
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining, distill
from prune_gym.training.train import accuracy

BATCH_SIZES = (1, 64)
SUFFIXES = {"safetensors": ".safetensors", "onnx": ".onnx", "torch-export": ".pt2"}


@dataclass(frozen=True)
class ExportConfig:
    """Write the pruned network of a run in a format to ship, and a report about it beside it."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of a finished run, made by train_agent.py."""
    format: str = "onnx"
    """What to write: safetensors, onnx or torch-export."""
    round_to: int = 1
    """Cut layers down to multiples of this many channels, the least important ones first; 8 suits most hardware."""
    compensate: bool = True
    """Let what stays make up for what was cut, without labels or training: for what rounding cuts, and for what the run cut
    unless it trained the network."""
    out: Path | None = None
    """File to write; must not exist. By default export.<suffix of the format> in the run folder."""
    device: str = "auto"
    """Where to train, and to measure accuracy, latency and memory: auto, cpu, cuda, ..."""
    posttraining: PostTraining = field(default_factory=PostTraining)
    """Train what is written once more, after rounding; by default it is not."""

    def __post_init__(self) -> None:
        check_choice("format", self.format, EXPORTERS)
        check_integer("round_to", self.round_to, 1)
        self.posttraining.check_one("posttraining")
        choose_device(self.device)

    @property
    def file(self) -> Path:
        return (self.out or self.run / f"export{SUFFIXES[self.format]}").expanduser()

    @property
    def report(self) -> Path:
        return self.file.with_name(self.file.name + ".json")


def export_run(config: ExportConfig) -> dict[str, Any]:
    """Export, check what was exported on the test images, measure, and write the file and then its report.

    Raises FileNotFoundError and ValueError if the folder holds no finished run or a damaged one, FileExistsError if a file
    is in the way, and whatever :func:`prune_gym.surgery.export.export` and ``compare`` raise; then nothing is written.
    """
    for path in (config.file, config.report):
        if path.exists():
            raise FileExistsError(f"out: {path} exists; choose another name or delete it.")
    summary = read_summary(config.run)
    pruned = load_pruned(config.run.expanduser() / "pruned.safetensors")
    settings = read_config(config.run.expanduser(), device="auto", agent=RunConfig.agent)  # theirs may not be known here
    task = settings.load_task(progress=True)
    networks = {"original": compact(task.model, task.graph, task.graph.full(), form="program").eval(), "pruned": pruned}
    check_writable(config.file)
    calibration = task.train.sample(how_many(COMPENSATION_IMAGES, task.train)).inputs()
    if config.compensate and not settings.posttraining.epochs:
        kept = np.unpackbits(np.frombuffer(bytes.fromhex(summary["kept"]), np.uint8), count=task.graph.n_units).astype(bool)
        architecture = Architecture(task.graph, kept)
        pruned = program_form(compensate(task.model, task.graph, architecture, calibration, form="program")).eval()
        networks["compensated"] = pruned
    if config.round_to > 1:
        images, labels = task.calibration.images, task.calibration.labels
        graph = trace(pruned, images[:1])
        architecture = rounded(graph, importance("taylor")(pruned, graph, images, labels), config.round_to)
        if config.compensate:
            small = program_form(compensate(pruned, graph, architecture, calibration, form="program"))
        else:
            small = compact(pruned, graph, architecture, form="program")
        networks[f"rounded to {config.round_to}"] = small.eval()
    if config.posttraining.epochs:
        networks["trained again"] = trained_again(networks, task, config)
    name, shipped = list(networks.items())[-1]
    exported = {key: export(network, task.test.inputs(slice(1)), config.format) for key, network in networks.items()}
    parts = [slice(1), *(slice(start, start + 64) for start in range(1, len(task.test), 64))]  # one image on its own at first
    agreement = compare(exported[name], shipped, (task.test.inputs(part) for part in parts))
    report = {
        "task": task.name,
        "agent": summary["agent"],
        "protocol": summary["protocol"],
        "file": config.file.name,
        "format": config.format,
        "round_to": config.round_to,
        "compensate": config.compensate,
        "posttraining": asdict(config.posttraining),
        "network": name,
        "agreement": {
            "test_images": agreement.images,
            "max_difference": agreement.max_difference,
            "changed_predictions": agreement.changed_predictions,
        },
        **measure(networks, task, choose_device(config.device)),
    }
    for key, file in exported.items():
        report["networks"][key]["file_bytes"] = len(file.content)
    write_atomically(config.file, exported[name].content)
    write_atomically(config.report, json.dumps(report, indent=2, allow_nan=False) + "\n")
    return report


def trained_again(networks: dict[str, PrunedNetwork], task: Task, config: ExportConfig) -> PrunedNetwork:
    """A copy of the last of the networks, trained by the original or the pruned one, whichever validates better."""
    device = choose_device(config.device)
    train, val = task.train.to(device), task.val.to(device)
    *_, student = (copy.deepcopy(network).to(device) for network in networks.values())
    teachers = [copy.deepcopy(networks[name]).to(device) for name in ("original", "pruned")]
    teacher = max(teachers, key=lambda network: accuracy(network, val))
    distill(student, teacher, train, val, config.posttraining, 0, task.augmentation, progress=True)
    return student.cpu()


def measure(networks: dict[str, PrunedNetwork], task: Task, device: torch.device) -> dict[str, Any]:
    """Accuracy, cost, latency and memory of the networks, on one device."""
    for network in networks.values():
        network.to(device)
    val, test = task.val.to(device), task.test.to(device)
    batches = {str(n): test.inputs(torch.arange(n, device=device) % len(test)) for n in BATCH_SIZES}
    found: dict[str, dict[str, Any]] = {}
    for name, network in networks.items():
        graph = trace(network, test.inputs(slice(1)))
        cost = graph.cost(graph.full())
        found[name] = {
            "val_accuracy": accuracy(network, val),
            "test_accuracy": accuracy(network, test),
            "macs": cost.macs,
            "params": cost.params,
            "peak_memory_bytes": {n: peak_memory(network, images) for n, images in batches.items()},
            "latency_ms": {},
            "channels": {filters.layer: len(filters.units) * filters.filters_per_index for filters in graph.prunable_layers},
        }
    for n, images in batches.items():
        for name, milliseconds in latencies(networks, images).items():
            found[name]["latency_ms"][n] = milliseconds
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": where, "torch": torch.__version__, "networks": found}
