"""Write the pruned network of a run in a format to ship, and say what it is worth: ``python scripts/export.py --help``."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from command import run_command
from rich.console import Console
from rich.table import Table

from prune_gym.agents.config import read_config
from prune_gym.agents.run import read_summary
from prune_gym.arguments import check_choice, check_integer, choose_device
from prune_gym.files import check_writable, write_atomically
from prune_gym.graph.trace import trace
from prune_gym.scoring.latency import latencies, peak_memory
from prune_gym.surgery.compact import compact
from prune_gym.surgery.export import EXPORTERS, compare, export
from prune_gym.surgery.pruned_file import load_pruned
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.surgery.widths import round_widths
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
    out: Path | None = None
    """File to write; must not exist. By default export.<suffix of the format> in the run folder."""
    device: str = "auto"
    """Where to train, and to measure accuracy, latency and memory: auto, cpu, cuda, ..."""
    posttraining: PostTraining = field(default_factory=PostTraining)
    """Train what is written once more, after rounding; by default it is not."""

    def __post_init__(self) -> None:
        check_choice("format", self.format, EXPORTERS)
        check_integer("round_to", self.round_to, 1)
        choose_device(self.device)

    @property
    def file(self) -> Path:
        return (self.out or self.run / f"export{SUFFIXES[self.format]}").expanduser()

    @property
    def report(self) -> Path:
        return self.file.with_name(self.file.name + ".json")


def main(config: ExportConfig) -> None:
    show(export_run(config))
    Console().print(f"Written: {config.file} and {config.report.name}", highlight=False, soft_wrap=True)


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
    task = read_config(config.run.expanduser(), device="auto").load_task(progress=True)
    networks = {"original": compact(task.model, task.graph, task.graph.full(), form="program").eval(), "pruned": pruned}
    check_writable(config.file)
    if config.round_to > 1:
        images, labels = task.calibration.images, task.calibration.labels
        networks[f"rounded to {config.round_to}"] = round_widths(pruned, images, labels, config.round_to)
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


def show(report: dict[str, Any]) -> None:
    """Print a report."""
    networks = report["networks"]
    original, shipped = networks["original"], networks[report["network"]]
    table = Table(title=f"{report['task']} pruned by {report['agent']}, as {report['format']} ({report['protocol']})")
    for heading in ("", *networks, "change"):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, key in (("validation accuracy", "val_accuracy"), ("test accuracy", "test_accuracy")):
        change = f"{100 * (shipped[key] - original[key]):+.2f} points"
        table.add_row(label, *(f"{network[key]:.2%}" for network in networks.values()), change)
    rows: list[tuple[str, tuple[str, ...], str]] = [
        ("MACs", ("macs",), ",d"),
        ("parameters", ("params",), ",d"),
        ("file, bytes", ("file_bytes",), ",d"),
    ]
    rows += [(f"latency, ms, batch {n}", ("latency_ms", str(n)), ".3f") for n in BATCH_SIZES]
    rows += [(f"peak bytes, batch {n}", ("peak_memory_bytes", str(n)), ",d") for n in BATCH_SIZES]
    for label, keys, form in rows:
        numbers: list[Any] = [reduce(getitem, keys, network) for network in networks.values()]
        table.add_row(label, *(f"{number:{form}}" for number in numbers), f"{numbers[-1] / numbers[0] - 1:+.1%}")
    agreement = report["agreement"]
    console = Console()
    console.print(table)
    console.print(f"Latency and peak memory: PyTorch {report['torch']}, {report['device']}", highlight=False, soft_wrap=True)
    console.print(
        f"What was exported, against PyTorch on {agreement['test_images']} test images: logits differ by at most "
        f"{agreement['max_difference']:.2g}, {agreement['changed_predictions']} predictions change",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_command(main, ExportConfig, __doc__)
