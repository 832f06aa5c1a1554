"""Architectures scored at the original shapes: removed units are zeroed, so that on a GPU one CUDA graph scores them all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.scoring.aliasing import renew, writes_through_views
from prune_gym.scoring.folding import Inference

WARM_UPS = 3  # the first chooses algorithms and makes the libraries' work spaces, which cannot be done within a capture


class Adjustment(Protocol):
    """How the tensors of a masked network depend on the mask, besides the zeros; all at the shapes of the graph."""

    def sources(self, masks: np.ndarray) -> Iterable[Mapping[str, Tensor]]:
        """For each mask of (M, units) the tensors that differ from the original ones, before anything is zeroed. Called outside
        the capture."""
        ...

    def finished(self, zeroed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the program reads, from the zeroed tensors. Called within the capture."""
        ...


class MaskedNetwork:
    """Accuracies of architectures of one network on one set of images, from a mask over its units.

    For every mask all slices of the removed units are set to zero, in buffers that are written anew from the original
    tensors, and the network runs over all images. Neither shapes nor calls depend on the mask. So on a GPU the whole of it,
    from the mask to the number of correct images, is captured as one CUDA graph, and a mask costs one replay; elsewhere the
    same calls are made one by one.

    Args:
        network: in evaluation mode, see :func:`prune_gym.scoring.folding.fold`.
        graph: the channel graph of the network.
        images: (N, C, H, W), of the network's floating-point type and on its device.
        labels: (N,), int64, on the same device.
        batch_size: images per pass; the activations of one pass have to fit into memory.
        adjustment: how tensors change with the mask besides the zeros; by default they do not. Then ``network`` holds the
            tensors that are zeroed, and a program that reads what :meth:`Adjustment.finished` makes of them.
        channels_last: the layout of four-dimensional tensors; by default channels last on a GPU, whose tensor cores want it,
            unless the network writes through views that this layout does not allow.

    Raises RuntimeError if an operator of the network cannot be captured, one whose shapes depend on values for example.
    """

    @torch.inference_mode()
    def __init__(
        self,
        network: Inference,
        graph: ChannelGraph,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        channels_last: bool | None = None,
        adjustment: Adjustment | None = None,
    ):
        self._arguments = (network, graph, images, labels, batch_size, channels_last, adjustment)
        device = images.device
        if channels_last is None:
            channels_last = device.type == "cuda" and not writes_through_views(network.program)

        def lay_out(tensor: Tensor) -> Tensor:
            return tensor.contiguous(memory_format=torch.channels_last) if channels_last and tensor.ndim == 4 else tensor

        self.graph = graph
        self._images = len(images)
        self._batches = list(zip(lay_out(images).split(batch_size), labels.split(batch_size), strict=True))
        self._program = network.program.at(graph.full().mask)
        self._written = network.written
        self._mixed = np.repeat(np.array([group.mixed for group in graph.groups], bool), graph.widths)
        tensors = {name: lay_out(tensor.detach()) for name, tensor in network.tensors.items()}
        self._places = [
            (name, [-1 if i == dim else 1 for i in range(len(per_dim))], units)
            for name, per_dim in network.units.items()
            for dim, units in enumerate(per_dim)
            if units is not None
        ]
        self._adjustment = adjustment
        self._originals = {name: tensors[name] for name, *_ in self._places}
        if adjustment is not None:  # which may give any of them another value
            self._originals = {name: tensor.clone() for name, tensor in tensors.items()}
        self._tensors = tensors | {name: torch.empty_like(tensor) for name, tensor in self._originals.items()}
        numbers = np.concatenate([np.zeros(0, np.int64), *(units for *_, units in self._places)])
        self._owners = torch.from_numpy(np.where(numbers < 0, graph.n_units, numbers).astype(np.int64)).to(device)
        self._removed = torch.zeros(graph.n_units + 1, dtype=torch.bool, device=device)  # the last one: what always stays
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._score = captured(self._count, device) if device.type == "cuda" else self._count

    def __reduce__(self) -> tuple:
        return MaskedNetwork, self._arguments  # a captured graph cannot be copied, but made again

    def exact_for(self, masks: np.ndarray) -> np.ndarray:
        """Whether zeroing is the same as removing, for boolean masks (..., units): those that keep all units of the graph's
        mixed groups. Boolean, (...)."""
        return ~(self._mixed & ~masks).any(-1)

    def accuracy(self, mask: np.ndarray) -> float:
        """Fraction of the images that the network classifies correctly with the units of ``mask`` (units,), bool, alone.

        Raises like :meth:`accuracies`.
        """
        return self.accuracies(np.asarray(mask)[None])[0]

    @torch.inference_mode()
    def accuracies(self, masks: np.ndarray) -> list[float]:
        """Accuracies in [0, 1] for boolean masks (M, units). A GPU is waited for once, at the end.

        Raises ValueError for an array of another shape or type, and for a mask that :meth:`exact_for` refuses.
        """
        removed = self._to_device(masks)
        correct = torch.zeros(len(removed), dtype=torch.int64, device=removed.device)
        for i, (row, sources) in enumerate(zip(removed, self._sources(masks), strict=True)):
            self._removed.copy_(row)
            self._put(sources)
            self._score()
            correct[i].copy_(self._correct)
        return [count / self._images for count in correct.tolist()]

    @torch.inference_mode()
    def logits(self, mask: np.ndarray) -> Tensor:
        """What the network says about every image, (N, classes), without a captured graph. Raises like :meth:`accuracies`."""
        masks = np.asarray(mask)[None]
        self._removed.copy_(self._to_device(masks)[0])
        self._put(next(iter(self._sources(masks))))
        tensors = self._zero()
        return torch.cat([self._run(tensors, images) for images, _ in self._batches])

    def _sources(self, masks: np.ndarray) -> Iterable[Mapping[str, Tensor]]:
        return ({} for _ in masks) if self._adjustment is None else self._adjustment.sources(masks)

    def _put(self, sources: Mapping[str, Tensor]) -> None:
        """Put the values that the tensors have for a mask where the originals are."""
        for name, tensor in sources.items():
            self._originals[name].copy_(tensor)

    def _to_device(self, masks: np.ndarray) -> Tensor:
        """Which units the masks remove, (M, units + 1), with False for what belongs to no unit."""
        units = self.graph.n_units
        if not isinstance(masks, np.ndarray) or masks.dtype != bool or masks.ndim != 2 or masks.shape[1] != units:
            got = f"{masks.dtype} of shape {masks.shape}" if isinstance(masks, np.ndarray) else type(masks).__name__
            raise ValueError(f"masks: expected a boolean array (M, {units}), one column per unit of the graph; got {got}.")
        refused = np.flatnonzero((self._mixed & ~masks).any(0))
        if len(refused):
            group = self.graph.groups[int(np.searchsorted(self.graph.starts, refused[0], side="right")) - 1]
            raise ValueError(
                f"masks: group {group.name!r} is normalised or reduced across its channels, where zeros are not the same as "
                "removed channels; ask exact_for, and score these architectures on the compact form."
            )
        return torch.from_numpy(np.pad(~masks, ((0, 0), (0, 1)))).to(self._removed.device)

    # Everything below runs within the capture: no copy from or to the host, and nothing that waits for the device.

    def _zero(self) -> dict[str, Tensor]:
        """Write the original tensors into buffers, with zeros where a unit is removed; gives what the network reads."""
        flags = self._removed.index_select(0, self._owners).split([len(units) for *_, units in self._places])
        removed: dict[str, Tensor] = {}
        for (name, shape, _), flag in zip(self._places, flags, strict=True):
            along = flag.view(shape)
            removed[name] = removed[name] | along if name in removed else along
        for name, original in self._originals.items():
            self._tensors[name].copy_(original)
            if name in removed:
                self._tensors[name].masked_fill_(removed[name], 0)
        return self._tensors if self._adjustment is None else self._adjustment.finished(self._tensors)

    def _count(self) -> None:
        tensors = self._zero()
        self._correct.zero_()
        for images, labels in self._batches:
            self._correct += (self._run(tensors, images).argmax(1) == labels).sum()

    def _run(self, tensors: dict[str, Tensor], images: Tensor) -> Tensor:
        return self._program.run(renew(tensors, self._written), [images])


def captured(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """``function`` as one CUDA graph with a memory pool of its own: the call replays it on the present stream.

    cuDNN tries its algorithms out and takes the fastest, unless ``torch.backends.cudnn.deterministic`` asks for the same ones
    in every process.
    """
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, not cudnn.deterministic
    try:
        with torch.cuda.device(device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    function()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                function()
    finally:
        cudnn.benchmark = before
    return graph.replay
