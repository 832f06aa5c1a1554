"""Run one of the paper's experiments: a CSV with the paper's numbers beside ours, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from prune_gym.arguments import check_choice, check_integer
from prune_gym.benchmark.paper.experiment import SPLITS, Experiment
from prune_gym.benchmark.paper.plots import picture
from prune_gym.benchmark.paper.scales import SCALES, Scale
from prune_gym.benchmark.paper.tables_and_figures import EXPERIMENTS
from prune_gym.benchmark.rows import Rows
from prune_gym.files import write_atomically
from prune_gym.simulation.simulator import PROTOCOLS


@dataclass(frozen=True)
class ReproductionConfig:
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
        check_choice("experiment", self.experiment, EXPERIMENTS)
        check_choice("scale", self.scale, SCALES[self.experiment])
        check_choice("protocol", self.protocol, SPLITS)
        paper = self.scale == "paper"
        for name in ("network", "data", "weights"):
            if paper and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: expected none with --scale paper, which takes the paper's networks from --weights-folder."
                )
        if not paper and self.weights_folder is not None:
            raise ValueError("weights_folder: expected none with --scale small, which takes --weights.")
        check_integer("seed", self.seed, 0, 2**32)

    @property
    def work(self) -> Scale:
        """How much work the experiment is."""
        return SCALES[self.experiment][self.scale]

    @property
    def protocol_name(self) -> str:
        return PROTOCOLS[SPLITS[self.protocol]]

    @property
    def folder(self) -> Path:
        return (self.out or Path("results") / "reproduce" / self.scale).expanduser()

    def make_experiment(self) -> Experiment:
        return Experiment(
            self.work,
            self.folder,
            (self.network or "resnet20_a") if self.scale == "small" else None,
            self.data or "cifar10",
            self.weights,
            self.weights_folder,
            self.protocol,
            self.seed,
            self.device,
        )


def reproduce(config: ReproductionConfig) -> tuple[Rows, Path]:
    """Compute the rows that the CSV lacks and draw the picture; gives the rows and the file of the picture.

    Raises ValueError or FileNotFoundError if weights are missing, ValueError if the CSV holds results of other settings.
    """
    name = config.experiment
    rows = EXPERIMENTS[name](config.make_experiment())
    file = config.folder / f"{name}.png"
    write_atomically(file, picture(name, rows.rows, f"{describe(name).rstrip('.')} ({config.protocol_name})"))
    return rows, file


def describe(experiment: str) -> str:
    """What an experiment is, in a sentence."""
    return str(EXPERIMENTS[experiment].__doc__)
