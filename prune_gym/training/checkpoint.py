"""What a training that was stopped needs to go on as if nothing had happened: its state after an epoch, in a safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from prune_gym.files import as_path, check_writable, parse_json, to_json
from prune_gym.training.tensor_file import read_tensors, tensors_of, write_tensors

HEADER = "prune_gym_training"


class Checkpoint:
    """A file for the state of one training, see :func:`prune_gym.training.train.train`. It stays when the training has ended, as
    whoever trained may not have kept the result yet; :meth:`remove` it then.

    Args:
        path: of the file, which need not exist.
        about: what the training depends on and :func:`train` is not told, such as a teacher.

    Attributes:
        kept: tensors by name that are stored with the state: what the caller remembers from epoch to epoch. They are there again
            when the training goes on.
    """

    def __init__(self, path: str | Path, about: str = ""):
        self.path = as_path("checkpoint", path)
        self.about = about
        self.kept: dict[str, Tensor] = {}

    def begin(self, training: str, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, order: Generator) -> int:
        """Take note of all that changes in a training, PyTorch's global generators among it, and put it in the state that the
        file holds. Gives the epochs that are done, 0 if there is no file.

        Args:
            training: a fingerprint of what the training depends on.
            order: the generator of the order of the images and of their augmentation.

        Raises ValueError for a damaged file and for one of another training, OSError if none can be written; nothing has changed
        then.
        """
        self._training, self._model, self._optimizer, self._schedule, self._order = training, model, optimizer, schedule, order
        check_writable(self.path)
        if not self.path.exists():
            return 0
        about, tensors = _read(self.path)
        if about["training"] != training:
            raise ValueError(
                f"{self.path}: expected the state of this training, but it is of one with another recipe, other images or "
                "another network; delete it, or choose another file."
            )
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in ("model", "optimizer", "random", "kept")}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        with torch.no_grad():
            for name, tensor in tensors_of(model).items():
                tensor.copy_(parts["model"][name])
        of_parameters: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            parameter, _, entry = name.partition(".")
            of_parameters.setdefault(int(parameter), {})[entry] = tensor
        optimizer.load_state_dict({"state": of_parameters, "param_groups": about["param_groups"]})
        schedule.load_state_dict(about["schedule"])
        order.set_state(parts["random"]["order"])
        torch.random.set_rng_state(parts["random"]["cpu"])
        for gpu in self._gpus:
            torch.cuda.set_rng_state(parts["random"]["gpu"], gpu)
        self.kept.clear()
        self.kept.update({name: tensor.to(self._device) for name, tensor in parts["kept"].items()})
        return int(about["epochs"])

    def write(self, epochs: int) -> None:
        """Store the state after so many epochs, atomically. Raises OSError if the file cannot be written."""
        optimizer = self._optimizer.state_dict()
        random = {"order": self._order.get_state(), "cpu": torch.random.get_rng_state()}
        for gpu in self._gpus:
            random["gpu"] = torch.cuda.get_rng_state(gpu)
        parts = {"model": tensors_of(self._model), "random": random, "kept": self.kept}
        parts |= {f"optimizer.{parameter}": entries for parameter, entries in optimizer["state"].items()}
        tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
        about = {
            "training": self._training,
            "epochs": epochs,
            "param_groups": optimizer["param_groups"],
            "schedule": self._schedule.state_dict(),
        }
        write_tensors(self.path, HEADER, to_json("checkpoint", about), tensors)

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    @property
    def _gpus(self) -> list[torch.device]:
        """The GPU that it trains on, if it does on one."""
        return [self._device] if self._device.type == "cuda" else []


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What :meth:`Checkpoint.write` wrote. Raises ValueError for anything else."""
    try:
        text, tensors, intact = read_tensors(path, HEADER)
        if text is None or not intact:
            raise ValueError("its content is not what was saved")
        return parse_json(text), tensors
    except ValueError as error:
        raise ValueError(f"{path}: damaged, or not the state of a training ({error}); delete it to train anew.") from error
