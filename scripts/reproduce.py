"""The experiments of the RL-Pruner paper: a CSV with the paper's numbers beside ours, and a picture.

``--scale paper`` is the real thing and wants a GPU; ``--scale small`` runs the same code in minutes, on a network of your own.
Rows that the CSV holds are kept, so an interrupted experiment goes on where it stopped.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from command import run_command
from rich.console import Console
from rich.table import Table

from prune_gym.arguments import check_integer
from prune_gym.benchmark.paper.experiments import EXPERIMENTS
from prune_gym.benchmark.paper.lab import SPLITS, Lab
from prune_gym.benchmark.paper.plots import picture
from prune_gym.benchmark.paper.scales import SCALES, Scale
from prune_gym.benchmark.rows import Rows
from prune_gym.files import write_atomically
from prune_gym.simulation.simulator import PROTOCOLS


@dataclass(frozen=True)
class Config:
    """What to reproduce."""

    experiment: Annotated[Literal["table1", "table2", "table3", "table4", "figure1", "figure3"], tyro.conf.Positional]
    """table1: reward strategies; table2: methods; table3: exploration; table4: pruned against trained from scratch; figure1:
    importance of the layers; figure3: kept channels over the steps."""
    scale: Literal["small", "paper"] = "small"
    """How much: minutes on one core, or what the paper did."""
    network: str | None = None
    """With --scale small: what is pruned, by default resnet20_a, ..."""
    data: str | None = None
    """... the data set it classifies, by default cifar10 (cifar100, npz:PATH, ...), ..."""
    weights: Path | None = None
    """... and its weights, a safetensors file, see scripts/train_base.py."""
    weights_folder: Path | None = None
    """With --scale paper: the folder of the networks' weights, NETWORK_DATA.safetensors, such as resnet56_cifar10.safetensors."""
    protocol: Literal["validation", "paper"] = "validation"
    """Images that rewards are computed on: validation, or the test images as in the paper, which tunes on what it reports."""
    seed: int = 0
    """Seed of the agents, and of networks that are trained from scratch."""
    device: str = "auto"
    """Where everything is computed: auto, cpu, cuda, ..."""
    out: Path | None = None
    """Folder of the results, by default results/reproduce/SCALE."""

    def __post_init__(self) -> None:
        paper = self.scale == "paper"
        for name in ("network", "data", "weights"):
            if paper and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: expected none with --scale paper, which takes the paper's networks from --weights-folder."
                )
        if not paper and self.weights_folder is not None:
            raise ValueError("weights_folder: expected none with --scale small, which takes --weights.")
        check_integer("seed", self.seed, 0, 2**32)

    def lab(self, scale: Scale) -> Lab:
        out = self.out or Path("results") / "reproduce" / self.scale
        return Lab(
            scale,
            out.expanduser(),
            (self.network or "resnet20_a") if self.scale == "small" else None,
            self.data or "cifar10",
            self.weights,
            self.weights_folder,
            self.protocol,
            self.seed,
            self.device,
        )


def main(config: Config) -> None:
    """Run the experiment and draw its picture."""
    console = Console()
    name, scale = config.experiment, SCALES[config.experiment][config.scale]
    lab = config.lab(scale)
    protocol = PROTOCOLS[SPLITS[config.protocol]]
    console.print(f"{EXPERIMENTS[name].__doc__} Scale {config.scale}, {protocol}.", highlight=False, soft_wrap=True)
    console.print(describe(scale), highlight=False, soft_wrap=True)
    start = time.perf_counter()
    rows = EXPERIMENTS[name](lab)
    title = f"{str(EXPERIMENTS[name].__doc__).rstrip('.')} ({protocol})"
    write_atomically(lab.out / f"{name}.png", picture(name, rows.rows, title))
    report(console, rows)
    minutes, busy = (time.perf_counter() - start) / 60, time.process_time() / 60
    console.print(
        f"{minutes:.1f} minutes, {busy:.1f} of processor time; written to {rows.path} and {name}.png",
        highlight=False,
        soft_wrap=True,
    )


def describe(scale: Scale) -> str:
    """How much work the scale is, in a sentence."""
    agent, training = scale.rl_pruner, scale.posttraining
    images = [f"{n or 'all'} {kind}" for n, kind in ((scale.train_images, "training"), (scale.val_images, "reward"))]
    return (
        f"Step ratio {scale.step_ratio}, {agent.stages} stages of {agent.samples} samples, post-training of {training.epochs} "
        f"epochs every {training.period} steps (learning rate {training.learning_rate}, batches of {training.batch_size}); "
        f"{' and '.join(images)} images; accuracies are of all test images."
    )


HEADINGS = {
    "reward": "reward",
    "method": "method",
    "epsilon": "epsilon",
    "decay": "decay",
    "sparsity": "sparsity",
    "base_top1": "original",
    "top1_before_posttraining": "before",
    "top1": "top-1",
    "flops_reduction_pct": "FLOPs -%",
    "params_reduction_pct": "params -%",
    "pruned_top1": "pruned",
    "scratch_top1": "from scratch",
    "gain": "gain",
    "paper_top1": "paper",
    "paper_gain": "paper",
}


def report(console: Console, rows: Rows) -> None:
    """Print the numbers of a table; a figure is its picture."""
    shown = [name for name in HEADINGS if name in rows.columns]
    if "step" in rows.columns or "group" in rows.columns:
        return
    table = Table()
    for name in shown:
        table.add_column(HEADINGS[name], justify="right")
    for row in rows.rows:
        table.add_row(*(row[name] for name in shown))
    console.print(table)


if __name__ == "__main__":
    run_command(main, Config, __doc__, "the same command goes on")
