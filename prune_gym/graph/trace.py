"""From a model to its channel graph, without doing any of its arithmetic. See ``docs/tracing.md``."""

from __future__ import annotations

import gc
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.copying import MetaCopies, meta_tensors
from prune_gym.graph.labelling import label
from prune_gym.graph.program import leaves, map_argument
from prune_gym.graph.recorder import Recording, UnknownOperatorError, record
from prune_gym.graph.resolve import resolve
from prune_gym.graph.sizes import MismatchError, batch_for, compare, follow_batch

__all__ = ["Example", "UnknownOperatorError", "arguments", "trace"]

Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
SMALL_BATCH = 2  # 1 is special: squeeze() removes it, and it broadcasts


def trace(model: nn.Module, example_input: Example) -> ChannelGraph:
    """Find which channels of ``model`` can be removed, and what goes with each of them.

    The forward pass is recorded a few times in evaluation mode on the meta device, with different batch and image sizes; the
    model itself is neither modified nor executed. ``example_input`` is one tensor, a list or tuple of them (the positional
    arguments), or a dict (keyword arguments, or the one argument of a forward pass that takes a dict), images first in every
    tensor: (N, C, H, W). Only shapes and dtypes matter, and N does not.

    Raises:
        UnknownOperatorError: the forward pass uses an operator without a rule; names it and the module it sits in.
        TypeError, ValueError: a bad ``model`` or ``example_input``, one that does not fit the other, or a forward pass that
            depends on the batch size in a way that cannot be followed; names the module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}.")
    args, kwargs = arguments(model, example_input)
    # out of any inference mode, under which operators would arrive as composites
    with _no_garbage_collection(), torch.inference_mode(False), torch.no_grad():
        recording, shapes, dtype = _Recordings(model, args, kwargs).run()
        graph = _best_reading(recording)
        example = map_argument(lambda x: torch.empty_like(x, device="meta"), (args, kwargs))
        keys = tuple(example_input) if isinstance(example_input, Mapping) else ()
        names = keys if all(isinstance(key, str) for key in keys) else ()
        program = replace(graph.program, shapes=shapes, dtype=dtype, names=names, known_steps=graph.program.steps)
        return replace(graph, program=program, example=example)


def trace_training(model: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> ChannelGraph:
    """The same in training mode, for the ``example`` of a graph: with the layers that run in training mode only."""
    with _no_garbage_collection(), torch.inference_mode(False), torch.no_grad():
        recording, _, _ = _Recordings(model, args, kwargs, training=True).run()
        return _best_reading(recording)


def arguments(model: nn.Module, example: Example) -> tuple[list[Any], dict[str, Any]]:
    """The arguments with which ``model`` is called on an example; see :func:`trace`. Raises TypeError."""
    kwargs: dict[str, Any]
    tensors: list[Any] = [example]
    if isinstance(example, Mapping):
        tensors = list(example.values())
    elif isinstance(example, list | tuple):
        tensors = list(example)
    if not tensors or not all(isinstance(x, Tensor) and x.ndim > 0 for x in tensors):
        raise TypeError("example_input: expected a tensor (N, C, H, W), or a non-empty sequence or dict of tensors.")
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # a forward of C code, which has none
        signature = None
    args, kwargs = tensors, {}
    if isinstance(example, Mapping):
        in_one = signature is not None and _takes_one_dict(signature, example)
        args, kwargs = ([dict(example)], {}) if in_one else ([], dict(example))
    if signature is not None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            given = f"a dict with the keys {', '.join(map(repr, example))}" if kwargs else f"{len(args)} input(s)"
            raise TypeError(
                f"example_input: got {given}, which {type(model).__name__}.forward{signature} does not accept: {error}."
            ) from None
    return args, kwargs


def _takes_one_dict(signature: inspect.Signature, example: Mapping[str, Tensor]) -> bool:
    """Whether a forward pass takes a dict as its argument, as it has no parameters with the names of its keys."""
    parameters = signature.parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return not any(key in named for key in example) and not any(p.kind is p.VAR_KEYWORD for p in parameters)


def _best_reading(recording: Recording) -> ChannelGraph:
    """Where a view splits channels, either part may be the one to prune: in a channel shuffle it is the last, in a pixel
    shuffle written with views the first. Both are exact, so what leaves more to prune is taken, view by view."""
    last = label(recording, lambda _key: False)
    if not last.book.choices:
        return resolve(last)
    first = label(recording, lambda _key: True)
    parts, other_parts = last.book.parts(), first.book.parts()
    better = {key for key in other_parts if other_parts[key] > parts.get(key, 0)}
    readings = [last, first]
    if 0 < len(better) < len(first.book.choices):
        readings.append(label(recording, better.__contains__))
    return max(map(resolve, readings), key=lambda graph: (graph.n_filters, graph.n_units))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A trace makes many objects that stay, and the collector would walk through all of them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Recordings:
    """Recordings of one forward pass under different conditions, and what their differences say.

    Two batch sizes tell what follows the batch; two number types what follows the network's type; two image sizes whether
    anything depends on the image size.
    """

    def __init__(self, model: nn.Module, args: list[Any], kwargs: dict[str, Any], training: bool = False):
        self.args, self.kwargs, self.training = args, kwargs, training
        self.inputs: list[Tensor] = list(leaves([args, kwargs]))
        self.n_images = self.inputs[0].shape[0]
        self.originals = dict([*model.named_parameters(), *model.named_buffers()])
        self.copies = MetaCopies(model, self.originals)
        self.tensors: dict[torch.dtype | None, dict[str, Tensor]] = {}
        self.dtype = next((x.dtype for x in self.inputs if x.is_floating_point()), None)

    def run(self) -> tuple[Recording, tuple[tuple[int | None, ...], ...], torch.dtype | None]:
        """The recording to label, the sizes of the inputs (None: any), and the only number type that it is right for (None:
        any)."""
        dtype, small = self._in_another_type()
        any_type = dtype is not None or self.dtype is None
        if small is None:
            small = self._record_or_explain(SMALL_BATCH)
        recording = self._record_or_explain(batch_for(small))
        try:
            follow_batch(recording, small)
        except MismatchError as mismatch:
            if dtype is None:
                raise self._depends_on_batch(recording, mismatch) from None
            # the batch or the number type: another recording in the network's own type says which
            dtype, any_type, small = None, False, self._record_or_explain(SMALL_BATCH)
            recording = self._record_or_explain(recording.batch)
            try:
                follow_batch(recording, small)
            except MismatchError as again:
                raise self._depends_on_batch(recording, again) from None
        any_size = self._any_size(small, dtype)
        shapes = tuple(
            tuple(None if (d == 0 and n == self.n_images) or (d > 1 and any_size) else n for d, n in enumerate(x.shape))
            for x in self.inputs
        )
        return recording, shapes, None if any_type else self.dtype

    def _in_another_type(self) -> tuple[torch.dtype | None, Recording | None]:
        """A recording of the network in double precision (or single, if it is in double), where that is possible. Not in half,
        for which PyTorch takes some functions apart in another way."""
        if self.dtype is None:
            return None, None
        dtype = torch.float32 if self.dtype is torch.float64 else torch.float64
        recording = self._try(dtype, lambda n: n)
        return (None, None) if recording is None else (dtype, recording)

    def _any_size(self, recording: Recording, dtype: torch.dtype | None) -> bool:
        """Whether the forward pass does the same at other image sizes: at about twice the size, and if it cannot run at that,
        as it halves the image exactly, at exactly twice."""
        if not any(x.ndim > 2 for x in self.inputs):
            return False
        other = self._try(dtype, lambda n: 2 * n + 1) or self._try(dtype, lambda n: 2 * n)
        if other is None:
            return False
        try:
            compare(recording, other)
        except MismatchError:
            return False
        return True

    def _try(self, dtype: torch.dtype | None, resized: Callable[[int], int]) -> Recording | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return self._record(SMALL_BATCH, dtype, resized, watch=False)
        except Exception:  # whatever it is, it says that the model does not run under this condition
            return None

    def _record(
        self, batch: int, dtype: torch.dtype | None = None, resized: Callable[[int], int] = lambda n: n, watch: bool = True
    ) -> Recording:
        def changed(x: Tensor) -> Tensor:
            first = batch if x.shape[0] == self.n_images else x.shape[0]
            shape = (first, *x.shape[1:2], *map(resized, x.shape[2:]))
            return torch.empty(shape, dtype=dtype if dtype and x.is_floating_point() else x.dtype, device="meta")

        if dtype not in self.tensors:
            self.tensors[dtype] = meta_tensors(self.originals, dtype)
        tensors = self.tensors[dtype]
        # a copy of its own for every recording, as a forward pass may change the model
        copied = self.copies.copy(tensors).train(self.training)
        args, kwargs = map_argument(changed, self.args), map_argument(changed, self.kwargs)
        return record(copied, self.originals, tensors, args, kwargs, batch, watch)

    def _record_or_explain(self, batch: int) -> Recording:
        try:
            return self._record(batch)
        except UnknownOperatorError:
            raise
        except (RuntimeError, TypeError, LookupError) as error:
            if not hasattr(error, "module"):  # it does not come from the forward pass
                raise
            shapes = ", ".join(str(tuple(x.shape)) for x in self.inputs)
            if self.args and isinstance(self.args[0], dict):
                shapes += f", in one dict with the keys {', '.join(map(repr, self.args[0]))}"
            raise ValueError(
                f"example_input: the forward pass fails on the shape {shapes}, in module {error.module}, where the trace "
                f"puts {batch} for the batch size: {error}"
            ) from error

    def _depends_on_batch(self, recording: Recording, mismatch: MismatchError) -> ValueError:
        return ValueError(
            f"trace: the forward pass depends on the batch size in a way that cannot be followed: with {recording.batch} images, "
            f"module {recording.where(mismatch.position)} {mismatch} than with {SMALL_BATCH}. Sizes that are a multiple of the "
            "batch size plus a constant are followed; replace anything else (x.shape[0] // 2, x.chunk(2, 0), 1 / len(x), a "
            "branch on len(x), torch.tensor([...] * len(x))) by operators on the tensor itself."
        )
