"""Which operators a program from a file may call, and with which arguments.

The list is closed: an operator that is not on it is refused, whatever PyTorch offers and whatever the tracer learns to record.
On it is what a trace can record of a network, without anything that writes to a given tensor's shape, leaves memory
uninitialised, draws its result's shape from values, or whose kernel reads outside its tensors for some arguments. Where such
a kernel cannot be done without, a guard in :data:`GUARDS` checks what the kernel does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from prune_gym.graph.operators import REPLACEMENTS
from prune_gym.graph.program import BatchSize, FloatType, Named, Node, Training, Value, operator


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ELEMENTWISE = _words("""
    abs acos acosh add addcdiv addcmul alias asin asinh atan atan2 atanh bitwise_and bitwise_not bitwise_or bitwise_xor ceil
    celu clamp clamp_max clamp_min clone copy copysign cos cosh deg2rad detach digamma div elu eq erf erfc erfinv exp exp2 expm1
    fill floor fmax fmin fmod frac ge gelu gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot isinf isnan isneginf
    isposinf le leaky_relu lerp lgamma lift lift_fresh log log10 log1p log2 log_sigmoid_forward logaddexp logaddexp2 logical_and
    logical_not logical_or logical_xor logit lt masked_fill maximum minimum mish mul nan_to_num ne neg pow _prelu_kernel rad2deg
    reciprocal relu remainder round rrelu_with_noise rsqrt rsub sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink
    sqrt sub tan tanh threshold _to_copy trunc where xlogy zero
""")
NEW = _words("""
    arange eye full full_like linspace new_full new_ones new_zeros ones ones_like scalar_tensor zeros zeros_like
""")
MIXING = _words("""
    all amax amin any argmax argmin count_nonzero cumsum linalg_vector_norm _log_softmax logsumexp max mean median min nansum
    norm prod _safe_softmax _softmax std std_mean sum var var_mean _weight_norm_interface
""")
PRODUCTS = _words("""
    addmm baddbmm bmm _cdist_forward convolution dot embedding _euclidean_dist mm mv vdot
""")
SELECTION = _words("""
    affine_grid_generator bucketize cat cummax cummin cumprod diag_embed diagonal _fft_c2c _fft_c2r _fft_r2c gather glu index
    index_add index_copy index_fill index_put index_select kthvalue linalg_inv_ex logcumsumexp mode roll rot90 scatter
    scatter_add scatter_reduce searchsorted select slice sort split_with_sizes stack topk tril triu unbind unfold
""")
SHAPES = _words("""
    expand flip permute repeat squeeze t transpose unsqueeze view_as_complex view_as_real
""")
SPACE = _words("""
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d avg_pool2d avg_pool3d channel_shuffle
    col2im constant_pad_nd grid_sampler_2d grid_sampler_3d im2col max_pool2d_with_indices max_pool3d_with_indices max_unpool2d
    max_unpool3d pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
    replication_pad2d replication_pad3d upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_trilinear3d
""")
# What is recorded in one piece, before it falls apart into operators that a trace sees.
COMPOSITES = REPLACEMENTS | {"aten.reshape.default"} | {f"aten.{name}.vec" for name in SPACE if name.startswith("upsample_")}
NAMES = ELEMENTWISE | NEW | MIXING | PRODUCTS | SELECTION | SHAPES | SPACE


@cache
def is_admitted(op: str) -> bool:
    """Whether a program from a file may call the operator ``op``, such as ``"aten.relu.default"``."""
    if op in COMPOSITES:
        return True
    parts = op.split(".")
    if len(parts) != 3 or parts[0] != "aten" or parts[1].removesuffix("_") not in NAMES:
        return False
    try:
        call = operator(op)
    except AttributeError:
        return False
    if not isinstance(call, torch._ops.OpOverload) or torch.Tag.inplace_view in call.tags:
        return False
    schema = call._schema
    # a composite falls apart before a trace sees it; what Python registers as one for some operators does not matter
    composite = torch._C._dispatch_has_kernel_for_dispatch_key(call.name(), "CompositeImplicitAutograd")
    mutated = [i for i, a in enumerate(schema.arguments) if a.is_write and a.name != "noise"]  # rrelu writes it when it trains
    only_tensors = all(str(r.real_type) in ("Tensor", "List[Tensor]") for r in schema.returns)
    return not composite and only_tensors and mutated == ([0] if parts[1].endswith("_") else [])


DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
    )
}
FIXED = {  # arguments that have only one harmless value
    ("embedding", "sparse"): False,
    ("gather", "sparse_grad"): False,
    ("rrelu_with_noise", "training"): False,
    ("_to_copy", "non_blocking"): False,
}
NEVER_GIVEN = ("device", "layout", "pin_memory", "memory_format", "generator", "sorter")


def check_call(node: Node) -> None:
    """Raise ValueError unless ``node`` calls an admitted operator with arguments of the types that its schema asks for."""
    if not isinstance(node.op, str) or not is_admitted(node.op):
        raise ValueError(f"it calls {node.op!r}, which is not an operator that pruned networks use")
    name = node.op.split(".")[1].removesuffix("_")
    schema = operator(node.op)._schema.arguments
    positional = [argument for argument in schema if not argument.kwarg_only]
    if len(node.args) > len(positional):
        raise ValueError(f"it gives {node.op!r} {len(node.args)} arguments, more than the {len(positional)} that it takes")
    given = dict(zip((argument.name for argument in positional), node.args, strict=False))
    keywords = {argument.name for argument in schema if argument.kwarg_only}
    if strangers := node.kwargs.keys() - keywords:
        raise ValueError(f"it gives {node.op!r} the keyword {min(map(str, strangers))!r}, which it does not take")
    given |= node.kwargs
    for argument in schema:
        if argument.name not in given:
            if not argument.has_default_value():
                raise ValueError(f"it calls {node.op!r} without {argument.name!r}")
            continue
        value, kind = given[argument.name], str(argument.real_type)
        if kind == "Tensor" and name in ELEMENTWISE:  # where PyTorch takes a number, too
            kind = "Tensor or number"
        allowed = value is None if argument.name in NEVER_GIVEN else _fits(value, kind)
        if name == "_weight_norm_interface" and kind == "Tensor":  # whose sizes do not depend on the batch
            allowed = isinstance(value, Named)
        if not allowed or FIXED.get((name, argument.name), value) is not value:
            raise ValueError(f"it gives {node.op!r} {str(value)[:100]} for {argument.name!r}, where it takes {kind}")


def _fits(value: Any, kind: str) -> bool:
    """Whether a value of a node is of a type of PyTorch's schemas, such as ``Optional[List[int]]``."""
    if kind.startswith("Optional["):
        return value is None or _fits(value, kind[9:-1])
    if kind.startswith("List["):
        return isinstance(value, list) and all(_fits(item, kind[5:-1]) for item in value)
    match kind:
        case "Tensor":
            return isinstance(value, Value | Named)
        case "Tensor or number":
            return _fits(value, "Tensor") or _fits(value, "number")
        case "int":
            return isinstance(value, BatchSize) or (type(value) is int and -(2**63) <= value < 2**63)
        case "number":
            return type(value) in (bool, float) or _fits(value, "int")
        case "float":
            return type(value) is float or _fits(value, "int")
        case "bool":
            return type(value) is bool or isinstance(value, Training)
        case "str":
            return isinstance(value, str)
        case "ScalarType":
            return value in DTYPES.values() or isinstance(value, FloatType)
    return False


# ------------------------------------------------------------------------------------------------------------- guards
# What kernels assume of their arguments and do not check, or not on the meta device. Sizes that depend on the batch are no
# business of a guard, as it sees one batch of many: kernels that need one for them are not admitted.


def check_tensors(op: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError if a call with these tensors, which may lie on the meta device, breaks what its kernel assumes."""
    guard = GUARDS.get(op.split(".")[1].removesuffix("_"))
    if guard is not None:
        names = (argument.name for argument in operator(op)._schema.arguments)
        guard(op, dict(zip(names, args, strict=False)) | dict(kwargs))


def _guard_weight_norm(op: str, given: Mapping[str, Any]) -> None:
    v, g, dim = given["v"], given["g"], given.get("dim", 0)
    if v.ndim < 1 or dim not in (0, v.ndim - 1) or v.dtype != g.dtype:
        raise ValueError(f"{op!r} takes one norm per index of the first or the last dimension, of the type of the weight")
    if tuple(g.shape) != tuple(n if d == dim else 1 for d, n in enumerate(v.shape)):
        raise ValueError(f"{op!r} takes one norm per filter, got {tuple(g.shape)} for weights of shape {tuple(v.shape)}")


def _guard_fourier(op: str, given: Mapping[str, Any]) -> None:
    dims, ndim = given["dim"], given["self"].ndim
    if not dims or len(set(dims)) < len(dims) or not all(0 <= dim < ndim for dim in dims):
        raise ValueError(f"{op!r} takes different dimensions from 0 to {ndim - 1}, got {dims}")


def _guard_products(op: str, given: Mapping[str, Any]) -> None:
    """The meta device multiplies whatever has the right shape."""
    dtypes = {str(value.dtype) for value in given.values() if isinstance(value, torch.Tensor)}
    if len(dtypes) > 1:
        raise ValueError(f"{op!r} takes tensors of one type, got {' and '.join(sorted(dtypes))}")
    dilation = given.get("dilation", 1)
    if any(step < 1 for step in (dilation if isinstance(dilation, list) else [dilation])):
        raise ValueError(f"{op!r} takes a dilation of at least 1, got {dilation}")


def _guard_indices(op: str, given: Mapping[str, Any]) -> None:
    """A mask in place of indices would make the shape of the result depend on values."""
    for table in given["indices"]:
        if table is not None and table.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{op!r} takes tables of int32 or int64, got {table.dtype}")


def _guard_scales(op: str, given: Mapping[str, Any]) -> None:
    """The kernel of an antialiased interpolation is as wide as the scale says."""
    sizes, factors = given["output_size"], given.get("scale_factors")
    if op.endswith(".vec"):
        if (sizes is None) == (factors is None):
            raise ValueError(f"{op!r} takes either output sizes or scales")
        scales, shape = factors or [], given["input"].shape[2:]
    else:
        scales, shape = [given.get(name) for name in ("scales", "scales_d", "scales_h", "scales_w")], given["self"].shape[2:]
    for scale in scales:
        if scale is not None and not 1 / MAX_SCALE <= scale <= MAX_SCALE:
            raise ValueError(f"{op!r} takes scales from {1 / MAX_SCALE} to {MAX_SCALE}, got {scale}")
    wanted = scales if sizes is None else sizes
    if len(wanted) != len(shape) or any(n < 1 for n in (*shape, *(sizes or ()))):
        raise ValueError(f"{op!r} takes images and output sizes of at least one pixel, and one size or scale for each dimension")


def _guard_division(op: str, given: Mapping[str, Any]) -> None:
    """A processor cannot divide the smallest integer by -1."""
    if given.get("rounding_mode") == "trunc" and not any(_is_floating(given[name]) for name in ("self", "other")):
        raise ValueError(f"{op!r} takes floating-point numbers where it truncates")


def _is_floating(value: Any) -> bool:
    return value.is_floating_point() if isinstance(value, torch.Tensor) else isinstance(value, float)


MAX_SCALE = 1024
GUARDS: dict[str, Callable[[str, Mapping[str, Any]], None]] = {
    "_weight_norm_interface": _guard_weight_norm,
    "div": _guard_division,
    **dict.fromkeys(["_fft_r2c", "_fft_c2r", "_fft_c2c"], _guard_fourier),
    **dict.fromkeys(["mm", "addmm", "bmm", "baddbmm", "mv", "dot", "vdot"], _guard_products),
    **dict.fromkeys(["convolution", *(op.split(".")[1] for op in COMPOSITES if "conv" in op)], _guard_products),
    **dict.fromkeys(["index", "index_put"], _guard_indices),
    **dict.fromkeys((name for name in SPACE if "upsample" in name), _guard_scales),
}
