"""Networks to ship: a pruned network as safetensors, ONNX or a ``torch.export`` archive, with a way to run what was written.

``export`` gives the bytes of the file, and ``compare`` holds what is in them against the network on real images, before
anybody else runs it.
"""

from __future__ import annotations

import copy
import io
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from prune_gym.arguments import check_choice
from prune_gym.surgery.compact import program_form
from prune_gym.surgery.pruned_file import load_pruned, pruned_bytes
from prune_gym.surgery.pruned_network import PrunedNetwork

TOLERANCE = 1e-3  # of the largest logit, or of 1 where all are smaller


class ExportError(ValueError):
    """The network cannot be written in this format, or what was written does not compute what the network computes."""


@dataclass(frozen=True)
class Exported:
    """The content of a file, and a function from a batch of images (N, C, H, W) on the CPU, N >= 1, to logits (N, classes)."""

    content: bytes
    run: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Agreement:
    """What a file computes beside what the network computes, over ``images`` images: the largest absolute difference of any
    logit, and how many images get another class (those that lie on the border of two)."""

    images: int
    max_difference: float
    changed_predictions: int


def export(network: nn.Module, example: Tensor | Sequence[Tensor], format: str) -> Exported:
    """``network`` in evaluation mode, on the CPU, for any batch size, in a format that others read.

    ``example`` is one tensor or a sequence of tensors, images first in every one: (N, C, H, W). Only its shape and dtype
    matter, and N does not. ``network`` is left as it is. The same network gives the same bytes, and nothing of the machine
    is in them.

    ``"safetensors"``: what :func:`prune_gym.save_pruned` writes, and ``run`` reads these bytes back.
    ``"onnx"``: one file with the weights inside, from PyTorch's exporter; the input is called ``images``, the output
    ``logits``, and ``run`` is ONNX Runtime on these bytes.
    ``"torch-export"``: for ``torch.export.load``. That function unpickles parts of an archive, so this project never calls it:
    ``run`` is the exported program in memory, from which the bytes were written. Load only archives you trust.

    Raises:
        ValueError: an unknown format, or an example that the network does not run on.
        TypeError: ``network`` is not from :func:`prune_gym.compact`, or ``example`` is neither a tensor nor a sequence of
            tensors.
        ImportError: ONNX needs a package that is not installed.
        ExportError: PyTorch's ONNX exporter has no translation for an operator of the network, or ONNX Runtime no
            implementation (it has none for convolutions in double precision).
    """
    network = program_form(network)
    check_choice("format", format, EXPORTERS)
    inputs = [example] if isinstance(example, Tensor) else list(example) if isinstance(example, Sequence) else []
    if not inputs or not all(isinstance(x, Tensor) and x.ndim > 0 for x in inputs):
        raise TypeError(
            f"example: expected a tensor (N, C, H, W) or a non-empty sequence of tensors, got {type(example).__name__}."
        )
    zeros = tuple(torch.zeros(2, *x.shape[1:], dtype=x.dtype) for x in inputs)  # a batch of one would be taken for a constant
    own = copy.deepcopy(network).cpu().eval()
    try:
        with torch.no_grad():
            own(*zeros)
    except (RuntimeError, TypeError, ValueError) as error:
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(f"example: the network does not run on the shape {shapes}: {error}") from error
    return EXPORTERS[format](own, zeros)


@torch.inference_mode()
def compare(exported: Exported, network: PrunedNetwork, images: Tensor | Iterable[Tensor]) -> Agreement:
    """Run both on ``images`` (N, C, H, W), first one image and then the others in batches of 64, or on given batches of them.

    Raises :class:`ExportError` if any logit differs by more than 1e-3 of the largest one (of 1, if all are smaller), or is not
    a number. Within that, an image whose two best classes are as near to each other may change its class; these are counted.
    """
    if not isinstance(images, Iterable):
        raise TypeError(f"images: expected a tensor (N, C, H, W) or batches of them, got {type(images).__name__}.")
    own = copy.deepcopy(network).cpu().eval()
    count, changed, difference, scale = 0, 0, 0.0, 1.0
    batches = (images[:1], *images[1:].split(64)) if isinstance(images, Tensor) else images
    for batch in batches:
        if not len(batch):
            continue
        expected, found = own(batch.cpu()), exported.run(batch.cpu())
        if found.shape != expected.shape:
            raise ExportError(f"export: expected logits of shape {tuple(expected.shape)}, got {tuple(found.shape)}.")
        worst = (found - expected).abs().max().item()
        if not worst <= difference:  # a NaN stays, too
            difference = worst
        scale = max(scale, expected.abs().max().item())
        count += len(batch)
        changed += int((found.argmax(1) != expected.argmax(1)).sum())
    if not difference <= TOLERANCE * scale:
        raise ExportError(
            f"export: the exported file differs from the network by {difference:.3g}, with logits up to {scale:.3g}; "
            "use another format."
        )
    return Agreement(count, difference, changed)


# ----------------------------------------------------------------------------------------------------------- formats


def _safetensors(network: PrunedNetwork, _zeros: tuple[Tensor, ...]) -> Exported:
    content = pruned_bytes(network)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        path.write_bytes(content)
        return Exported(content, load_pruned(path, sys.maxsize, sys.maxsize))  # no stranger wrote it


def _torch_export(network: PrunedNetwork, zeros: tuple[Tensor, ...]) -> Exported:
    program = _exported_program(network, zeros)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return Exported(buffer.getvalue(), program.module())


def _onnx(network: PrunedNetwork, zeros: tuple[Tensor, ...]) -> Exported:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"format: 'onnx' needs {error.name}; pip install onnx onnxscript onnxruntime.") from error
    program = _exported_program(network, zeros)
    names = _names("images", len(zeros)), _names("logits", len(program.graph_signature.user_outputs))
    try:
        converted = torch.onnx.export(program, input_names=names[0], output_names=names[1], dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"format: PyTorch cannot write this network as ONNX ({_cause(error)}); use another format.") from error
    assert converted is not None  # that is what dynamo=True gives
    content = _plain(converted.model_proto).SerializeToString(deterministic=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common class
        raise ExportError(f"format: ONNX Runtime cannot run this network ({error}); is it in single precision?") from error

    def run(*images: Tensor) -> Any:
        found = session.run(None, {name: x.numpy() for name, x in zip(names[0], images, strict=True)})
        outputs = [torch.from_numpy(array) for array in found]
        return outputs[0] if len(outputs) == 1 else outputs

    return Exported(content, run)


def _exported_program(network: PrunedNetwork, zeros: tuple[Tensor, ...]) -> ExportedProgram:
    batch = tuple({0: Dim.DYNAMIC} for _ in zeros)
    with torch.no_grad():
        program = torch.export.export(network, zeros, dynamic_shapes=(batch,), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the files of this machine
    return program


def _plain(model: Any) -> Any:
    """An ONNX model without the exporter's notes, which would outweigh a small network, and with a name for the batch."""
    graph = model.graph
    del graph.metadata_props[:], graph.value_info[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_param = dim.dim_param.replace(symbol, "batch")
    return model


def _names(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{i}" for i in range(count)]


def _cause(error: BaseException) -> str:
    """The first line of what began it all."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).partition("\n")[0]


EXPORTERS = {"safetensors": _safetensors, "onnx": _onnx, "torch-export": _torch_export}
