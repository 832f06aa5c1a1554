"""The accuracies of every architecture on a grid of widths, known beforehand, so that no network needs to run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from prune_gym.files import DAMAGES, npz_bytes, write_atomically
from prune_gym.simulation.space import by_level

FIELDS = (
    "task",
    "base",
    "base_network",
    "levels",
    "groups",
    "filters_per_unit",
    "layer_filters",
    "group_features",
    "val_hits",
    "test_hits",
    "images",
    "recalibration_images",
    "ranking_images",
    "macs_form",
    "params_form",
)
SCALARS = ("task", "base", "base_network", "levels", "recalibration_images", "ranking_images")


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a task. An architecture is a level for every group, from 0 for its least width on; accuracies are those of
    networks whose groups keep the units that are most important in the original network.

    Attributes:
        task: the name of the task.
        base: the seed of the training of its network; ``base_network`` is a fingerprint of this.
        levels: blocks that every group is cut into; groups of fewer units have as many as units.
        groups: the names of the groups.
        allowed: the widths of each group by level, rising; its own is the last. int64 arrays.
        filters_per_unit: int64 (groups,); layer_filters: int64 (layers, groups), see :class:`prune_gym.ChannelGraph`.
        group_features: int64 (groups, 6), see :func:`prune_gym.graph.features.group_features`.
        val_hits, test_hits: how many validation and test images each architecture classifies correctly, uint16 with an axis for
            every group.
        images: how many validation and test images there are.
        recalibration_images, ranking_images: on how many images networks are recalibrated, and importance is computed.
        macs_form, params_form: what an architecture costs: with its widths and a 1 behind them as w, the quadratic form of w;
            float64 (groups + 1, groups + 1).

    Raises ValueError for arrays that do not fit together.
    """

    task: str
    base: int
    base_network: str
    levels: int
    groups: tuple[str, ...]
    allowed: tuple[np.ndarray, ...]
    filters_per_unit: np.ndarray
    layer_filters: np.ndarray
    group_features: np.ndarray
    val_hits: np.ndarray
    test_hits: np.ndarray
    images: tuple[int, int]
    recalibration_images: int
    ranking_images: int
    macs_form: np.ndarray
    params_form: np.ndarray

    def __post_init__(self) -> None:
        shape, size = tuple(len(widths) for widths in self.allowed), len(self.groups)
        fits = self.val_hits.shape == self.test_hits.shape == shape and len(shape) == size == len(self.filters_per_unit) == len(
            self.group_features
        )
        fits &= self.layer_filters.shape[1:] == (size,)
        fits &= self.macs_form.shape == self.params_form.shape == (size + 1, size + 1)
        if not fits or any(hits.max() > n for hits, n in zip((self.val_hits, self.test_hits), self.images, strict=True)):
            raise ValueError(f"table: the parts of the table of {self.task!r} do not fit together.")
        for array in self._arrays().values():
            array.flags.writeable = False  # tables are shared

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """The same for the same content."""
        arrays = self._arrays()
        return digest(
            b"".join([repr([(k, a.dtype, a.shape) for k, a in arrays.items()]).encode(), *(a.tobytes() for a in arrays.values())])
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        """Everything, as it is written to files."""
        arrays = {name: np.asarray(getattr(self, name)) for name in FIELDS}
        return arrays | {f"allowed_{i}": widths for i, widths in enumerate(self.allowed)}

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of levels of each group."""
        return self.val_hits.shape

    def widths(self, levels: np.ndarray) -> np.ndarray:
        """The widths at levels int (..., groups); int64."""
        return self._by_level[np.arange(len(self.groups)), levels]

    def val_accuracy(self, levels: np.ndarray) -> np.ndarray:
        """Validation accuracy in [0, 1] at levels int (..., groups); float64 (...,)."""
        return self.val_hits[tuple(np.moveaxis(levels, -1, 0))] / self.images[0]

    def test_accuracy(self, levels: np.ndarray) -> np.ndarray:
        """Test accuracy in [0, 1] at levels int (..., groups), for reports alone; float64 (...,)."""
        return self.test_hits[tuple(np.moveaxis(levels, -1, 0))] / self.images[1]

    def macs(self, levels: np.ndarray) -> np.ndarray:
        """MACs for one image at levels int (..., groups); int64 (...,)."""
        return _cost(self.macs_form, self.widths(levels))

    def params(self, levels: np.ndarray) -> np.ndarray:
        """Parameters at levels int (..., groups); int64 (...,)."""
        return _cost(self.params_form, self.widths(levels))

    @cached_property
    def _by_level(self) -> np.ndarray:
        return by_level(self.allowed)

    # ---------------------------------------------------------------------------------------------------- files

    def save(self, path: Path) -> str:
        """Write it as npz; gives its digest. The same table gives the same bytes."""
        content = npz_bytes(self._arrays())
        write_atomically(path, content)
        return digest(content)

    @classmethod
    def load(cls, path: Path, expected: str | None = None) -> Table:
        """A table that :meth:`save` wrote. Raises FileNotFoundError, and ValueError for a file that is damaged or has another
        digest than the expected one."""
        content = path.read_bytes()
        if expected is not None and digest(content) != expected:
            raise ValueError(f"{path}: damaged, or of another version: its digest is {digest(content)}, expected {expected}.")
        try:
            with np.load(BytesIO(content), allow_pickle=False) as file:
                fields: dict[str, Any] = {name: file[name] for name in FIELDS}
                allowed = tuple(file[f"allowed_{i}"] for i in range(len(fields["groups"])))
            fields |= {name: fields[name].item() for name in SCALARS} | {"groups": tuple(map(str, fields["groups"]))}
            fields |= {"images": tuple(fields["images"].tolist()), "allowed": allowed}
            return cls(**fields)
        except DAMAGES as error:
            raise ValueError(f"{path}: damaged, it is no table of architectures ({error}).") from error


def _cost(form: np.ndarray, widths: np.ndarray) -> np.ndarray:
    w = np.concatenate([widths, np.ones_like(widths[..., :1])], -1).astype(np.float64)
    return ((w @ form) * w).sum(-1).astype(np.int64)


def digest(content: bytes) -> str:
    """A fingerprint of the bytes of a file."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()
