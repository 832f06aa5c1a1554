"""Norms, reductions and softmax: values that are computed across a dimension."""

from __future__ import annotations

from collections.abc import Sequence

from prune_gym.graph.labels import LabelBook, Labels
from prune_gym.graph.operators.call import RULES, Call, elements, normal_dim, rule, size, sized
from prune_gym.graph.operators.elementwise import broadcast
from prune_gym.graph.program import Training


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
      "_batch_norm_with_update", "_batch_norm_no_update", "batch_norm")  # fmt: skip
def batch_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """A channel goes with its parameters and statistics."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    mean, var = call["running_mean"], call["running_var"]
    book.unify_all(x.labels[1], [p.labels[0] for p in (weight, bias, mean, var) if p is not None])
    along = [labels for labels in (*x.labels[:1], *x.labels[2:]) if labels is not None]
    training = mean is None or call["training"] is True or Training()  # True: it is not the network's mode that decides
    centred = x.zeroed and (mean is None or mean.zeroed)
    call.zeroed = (centred if weight is None else weight.zeroed) and (bias is None or bias.zeroed) and not along
    call.paper_flops = elements(x.shape, [sized(x, 1), *along], 4, book)
    call.becomes("aten.batch_norm.default", x, weight, bias, mean, var, training, call["momentum"], call["eps"], True)
    call.n_outputs = 1
    return [x.labels]


@rule("instance_norm")
def instance_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["input"]
    parameters = (call[name] for name in ("weight", "bias", "running_mean", "running_var"))
    book.unify_all(x.labels[1], [p.labels[0] for p in parameters if p is not None])
    if call["use_input_stats"] is False:  # it keeps statistics, and updates them in training mode
        call["use_input_stats"] = Training()
    call.zeroed = x.zeroed and (call["bias"] is None or call["bias"].zeroed)
    return [x.labels]


@rule("native_layer_norm", "layer_norm")
def layer_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Mixes the normalised dimensions."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    normalized = len(call["normalized_shape"])
    result = list(x.labels)
    for back in range(-normalized, 0):
        for parameter in (weight, bias):
            if parameter is not None:
                book.unify(x.labels[back], parameter.labels[back])
        book.mix(x.labels[back])
    sizes = [size(labels, count) for labels, count in zip(x.labels[-normalized:], x.shape[-normalized:], strict=True)]
    call.zeroed = False
    call.becomes("aten.layer_norm.default", x, sizes, weight, bias, call["eps"])
    call.n_outputs = 1
    return [result]


@rule("native_group_norm", "group_norm")
def group_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Mixes the channels of a group and ties positions across groups; one channel per group is an instance norm."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    groups = call["group"] if "group" in call.names else call["num_groups"]
    channels = x.labels[1]
    for parameter in (weight, bias):
        if parameter is not None:
            book.unify(channels, parameter.labels[0])
    call.n_outputs = 1
    if groups == x.shape[1] and groups > 1 and call.op.startswith("aten.native") and len(x.shape) > 2:
        call.becomes("aten.instance_norm.default", x, weight, bias, None, None, True, 0.0, call["eps"], False)
        call.zeroed = x.zeroed and (bias is None or bias.zeroed)
        return [x.labels]
    if channels is not None:
        book.tie_rows(channels.reshape(groups, -1))
        book.mix(channels)
    call.becomes("aten.group_norm.default", x, groups, weight, bias, call["eps"])
    return [x.labels]


@rule("_weight_norm_interface")
def weight_norm(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Divides every filter by its norm; it cannot be zeroed, as zero by zero is not a number."""
    v, g = call["v"], call["g"]
    labels = broadcast([v, g], v.shape, book)
    book.mix(labels[call["dim"]])
    call.zeroed = v.zeroed
    return [labels, g.labels]


def reduction(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    """Removes dimensions. A value computed across channels is *mixed*: a zeroed channel still counts in it."""
    x = call.tensors[0]
    dims = call["dim"]
    everything = range(len(x.shape))
    chosen = everything if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    reduced = {normal_dim(d, len(x.shape)) for d in chosen}
    for dim in reduced:
        book.release(x.labels[dim])
        if call.op.startswith(("aten.argmax.", "aten.argmin.")):  # a number that names a channel
            book.bind(x.labels[dim])
        elif call.op in ("aten.max.dim", "aten.min.dim", "aten.median.dim"):
            call.bind_if_used[1] = x.labels[dim]
        if not (x.zeroed and call.op.startswith(("aten.sum.", "aten.norm.", "aten.linalg_vector_norm."))):
            book.mix(x.labels[dim])
    if len(call.shapes[0]) == len(x.shape):
        result = [None if d in reduced else x.labels[d] for d in everything]
    else:
        result = [x.labels[d] for d in everything if d not in reduced]
    return [result] * len(call.shapes)


RULES |= dict.fromkeys(
    ["mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "argmax", "argmin", "prod",
     "linalg_vector_norm", "norm", "logsumexp", "median", "nansum", "count_nonzero", "any", "all"],
    reduction,
)  # fmt: skip


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax", "cumsum")
def along(call: Call, book: LabelBook) -> Sequence[list[Labels]]:
    x = call["self"]
    book.mix(x.labels[normal_dim(call["dim"], len(x.shape))])
    return [x.labels]
