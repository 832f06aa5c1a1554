"""A pruned file cannot harm: crafted programs are refused before they run, and thousands of random ones crash nothing."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import prune_gym
from prune_gym import PrunedFileError, load_pruned, save_pruned
from prune_gym.graph.program import operator
from prune_gym.surgery.admission import NAMES, is_admitted
from prune_gym.surgery.pruned_file import _digest


def write(
    path: Path, nodes: list[list[Any]], tensors: dict[str, Tensor] | None = None, shape: tuple = (None, 3, 8, 8), output: int = -1
) -> Path:
    """A file as somebody would write it who knows the format."""
    tensors = tensors or {}
    made = [index for node in nodes for index in (node[3] if isinstance(node[3], list) else [node[3]])]
    header = {
        "format": "prune_gym network 2", "inputs": 1, "shapes": [list(shape)], "dtype": None, "nodes": nodes,
        "output": {"value": made[output]}, "parameters": [], "frozen": [], "buffers": list(tensors), "transient": [], "info": {},
    }  # fmt: skip
    header["digest"] = _digest(header, tensors)
    save_file(tensors, path, {"prune_gym": json.dumps(header)})
    return path


def call(op: str, *args: Any, out: int | list[int] = 1, **kwargs: Any) -> list[Any]:
    return [f"aten.{op}", list(args), {"dict": kwargs}, out]


X: dict[str, Any] = {"value": 0}


def tensor(name: str) -> dict[str, str]:
    return {"tensor": name}


def conv(stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> list[Any]:
    return call("conv2d.default", X, tensor("w"), None, [stride] * 2, [padding] * 2, [dilation] * 2, groups)


WEIGHT = {"w": torch.zeros(4, 3, 3, 3)}
CRAFTED: dict[str, tuple[list[list[Any]], dict[str, Tensor]]] = {
    "statistics shorter than the channels": (
        [call("batch_norm.default", X, None, None, tensor("m"), tensor("m"), False, 0.1, 1e-5, False)],
        {"m": torch.ones(1)},
    ),
    "a norm per filter, and too few": (
        [call("_weight_norm_interface.default", tensor("v"), tensor("g"), 0, out=[1, 2])],
        {"v": torch.ones(4, 3), "g": torch.ones(1, 1)},
    ),
    "a norm of other dimensions": (
        [call("_weight_norm_interface.default", tensor("v"), tensor("g"), 1, out=[1, 2])],
        {"v": torch.ones(4, 3, 2), "g": torch.ones(1, 3, 1)},
    ),
    "a norm of another type": (
        [call("_weight_norm_interface.default", tensor("v"), tensor("g"), 0, out=[1, 2])],
        {"v": torch.ones(4, 3), "g": torch.ones(4, 1, dtype=torch.float64)},
    ),
    "a norm of the images": (
        [call("_weight_norm_interface.default", X, tensor("g"), 0, out=[1, 2])],
        {"g": torch.ones(1, 1, 1, 1)},
    ),
    "a transform of dimension 2**40": ([call("_fft_r2c.default", X, [2**40], 0, True)], {}),
    "a transform of no dimension": ([call("_fft_r2c.default", X, [], 0, True)], {}),
    "a transform of one dimension twice": ([call("_fft_r2c.default", X, [2, 2], 0, True)], {}),
    "a transform behind a squeeze": (
        [call("squeeze.dims", X, [0]), call("_fft_r2c.default", {"value": 1}, [2], 0, True, out=2)],
        {},
    ),
    "a type as a number": ([call("view.dtype", X, 47)], {}),
    "a cast to a number": ([call("_to_copy.default", X, dtype=47)], {}),
    "a device": ([call("zeros.default", [2], device="cuda")], {}),
    "a layout": ([call("zeros.default", [2], layout=1)], {}),
    "zeros without end": ([call("zeros.default", [2**40])], {}),
    "more elements than can be counted": ([call("zeros.default", [2**40, 2**40])], {}),
    "a table without end": ([call("arange.default", 1e18)], {}),
    "a table of no number": ([call("arange.default", {"float": "nan"})], {}),
    "a product of empty matrices": (
        [call("mm.default", tensor("a"), tensor("b"))],
        {"a": torch.zeros(2**20, 0), "b": torch.zeros(0, 2**20)},
    ),
    "a mask as a table": ([call("index.Tensor", X, [tensor("i")])], {"i": torch.ones(1, dtype=torch.bool)}),
    "no groups": ([conv(groups=0)], WEIGHT),
    "negative groups": ([conv(groups=-1)], WEIGHT),
    "no stride": ([conv(stride=0)], WEIGHT),
    "no dilation": ([conv(dilation=0)], WEIGHT),
    "a padding without end": ([conv(padding=2**40)], WEIGHT),
    "windows that take more than their results": ([conv(padding=3000)], {"w": torch.zeros(1, 3, 3, 3)}),
    "a pooling of nothing": ([call("avg_pool2d.default", X, [0, 0])], {}),
    "a pooling divided by zero": ([call("avg_pool2d.default", X, [2, 2], [2, 2], [0, 0], False, True, 0)], {}),
    "a maximum of nothing": ([call("max_pool2d_with_indices.default", X, [0, 0], out=[1, 2])], {}),
    "a negative size": ([call("reshape.default", X, [-2, 3])], {}),
    "a slice without steps": ([call("slice.Tensor", X, 1, 0, 2, 0)], {}),
    "negative parts": ([call("split_with_sizes.default", X, [-1, 4], 1, out=[1, 2])], {}),
    "a shuffle of no pixels": ([call("pixel_shuffle.default", X, 0)], {}),
    "a dimension out of range": ([call("select.int", X, 7, 0)], {}),
    "types that do not fit": (
        [call("mm.default", tensor("a"), tensor("b"))],
        {"a": torch.ones(2, 2), "b": torch.ones(2, 2).long()},
    ),
    "a scale without end": ([call("_upsample_bilinear2d_aa.default", X, [8, 8], False, 1e-9, 1e9)], {}),
    "a reflection wider than the image": ([call("reflection_pad2d.default", X, [8, 8, 8, 8])], {}),
    "text for a number": ([call("pixel_shuffle.default", X, "2")], {}),
    "a number for a flag": ([call("any.dim", X, 1, 1)], {}),
    "a number beyond 64 bits": ([call("mul.Scalar", X, 2**64)], {}),
    "a generator": ([call("rrelu_with_noise.default", X, X, 0.1, 0.3, False, {"value": 0})], {}),
    "noise shorter than the images": ([call("rrelu_with_noise.default", X, tensor("n"), 0.1, 0.3, True)], {"n": torch.ones(1)}),
    "a sparse gradient": ([call("embedding.default", tensor("w"), tensor("i"), -1, False, True)],
                          {"w": torch.ones(3, 2), "i": torch.ones(1).long()}),
    "results that are not there": ([call("relu.default", X, out=[1, 2])], {}),
    "more results than it takes": ([call("split_with_sizes.default", X, [1, 2], 1)], {}),
    "an integer that has no quotient": (
        [call("div.Tensor_mode", tensor("a"), tensor("b"), rounding_mode="trunc")],
        {"a": torch.full((64,), -(2**63)), "b": torch.full((64,), -1)},
    ),
    "an integer that has no quotient by a number": (
        [call("div_.Scalar_mode", tensor("a"), -1, rounding_mode="trunc")], {"a": torch.full((64,), -(2**31), dtype=torch.int32)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_programs_are_refused_before_they_run(case: str, tmp_path: Path) -> None:
    nodes, tensors = CRAFTED[case]
    with pytest.raises(PrunedFileError):
        load_pruned(write(tmp_path / "file", nodes, tensors))


def test_what_is_crafted_well_runs(tmp_path: Path) -> None:
    """So it was for their faults that the others were refused."""
    nodes = [conv(padding=1), call("relu.default", {"value": 1}, out=2), call("zeros.default", [4, 1, 1], out=3),
             call("add.Tensor", {"value": 2}, {"value": 3}, out=4)]  # fmt: skip
    network = load_pruned(write(tmp_path / "file", nodes, WEIGHT))
    assert network(torch.ones(5, 3, 8, 8)).shape == (5, 4, 8, 8)
    assert network(torch.ones(1, 3, 8, 8)).shape == (1, 4, 8, 8)


def test_other_inputs_than_were_rehearsed_are_refused(tmp_path: Path) -> None:
    network = load_pruned(write(tmp_path / "file", [conv()], WEIGHT))
    for shape in ((2, 3, 9, 8), (2, 3, 8), (2, 4, 8, 8)):
        with pytest.raises(ValueError, match="input 0: expected a tensor of shape"):
            network(torch.ones(shape))


@pytest.mark.parametrize("index", [3, -1, 2**40, -(2**63)])
@pytest.mark.parametrize("op", ["gather", "index_select", "embedding", "index", "index_put"])
def test_indices_out_of_range_are_refused_by_the_kernel(op: str, index: int, tmp_path: Path) -> None:
    tensors = {"w": torch.ones(3, 2), "i": torch.tensor([index])}
    node = {
        "gather": call("gather.default", tensor("w"), 0, tensor("j")),
        "index_select": call("index_select.default", tensor("w"), 0, tensor("i")),
        "embedding": call("embedding.default", tensor("w"), tensor("i")),
        "index": call("index.Tensor", tensor("w"), [tensor("i")]),
        "index_put": call("index_put.default", tensor("w"), [tensor("i")], tensor("v")),
    }[op]
    network = load_pruned(write(tmp_path / "file", [node], tensors | {"j": tensors["i"][None].clone(), "v": torch.ones(1, 2)}))
    if op in ("index", "index_put") and index == -1:  # where Python's way of counting is allowed
        assert network(torch.ones(1, 3, 8, 8)).ndim == 2
    else:
        with pytest.raises((RuntimeError, IndexError)):
            network(torch.ones(1, 3, 8, 8))


def doubled(times: int) -> list[list[Any]]:
    return [call("cat.default", [{"value": i}, {"value": i}], 1, out=i + 1) for i in range(times)]


def test_the_limit_of_elements(tmp_path: Path) -> None:
    with pytest.raises(
        PrunedFileError, match=r"at 'aten.cat.default' it holds .* more than max_elements=268435456 per image; raise"
    ):
        load_pruned(write(tmp_path / "file", doubled(40)))
    path = write(
        tmp_path / "file", doubled(5)
    )  # the input is given; what counts is what is alive at once: 16 and 32 times as much
    most = (16 + 32) * 3 * 8 * 8
    assert load_pruned(path, max_elements=most)(torch.ones(2, 3, 8, 8)).shape == (2, 96, 8, 8)
    with pytest.raises(
        PrunedFileError, match=f"it holds {most} elements at once for a batch of 1, more than max_elements={most - 1}"
    ):
        load_pruned(path, max_elements=most - 1)


def test_the_limit_counts_the_windows_of_a_convolution(tmp_path: Path) -> None:
    path = write(tmp_path / "file", [conv(padding=1)], WEIGHT)
    most = 4 * 64 + 3 * 9 * 64  # results, and a window of 27 for every one of 64 places
    load_pruned(path, max_elements=most)
    with pytest.raises(PrunedFileError, match=r"aten\.conv2d\.default"):
        load_pruned(path, max_elements=most - 1)
    transposed = call("conv_transpose2d.input", X, tensor("w"), None, [1, 1], [0, 0], [0, 0], 1, [1, 1])
    path = write(tmp_path / "file", [transposed], {"w": torch.zeros(3, 4, 3, 3)})
    most = 4 * 100 + 4 * 9 * 64
    load_pruned(path, max_elements=most)
    with pytest.raises(PrunedFileError, match=r"aten\.conv_transpose2d\.input"):
        load_pruned(path, max_elements=most - 1)


def test_many_inputs_that_do_not_fit_are_refused_in_time(tmp_path: Path) -> None:
    path = write(tmp_path / "file", [call("pixel_shuffle.default", X, 0, out=1000)])
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["prune_gym"])
    header |= {"inputs": 1000, "shapes": [[None, 3, 8, 8]] * 1000}
    header["digest"] = _digest(header, {})
    save_file({}, path, {"prune_gym": json.dumps(header)})
    with pytest.raises(PrunedFileError, match="it does not run on inputs of its shapes"):
        load_pruned(path)


def test_integer_inputs(tmp_path: Path) -> None:
    network = load_pruned(write(tmp_path / "file", [call("embedding.default", tensor("w"), X)], {"w": torch.eye(3)}, (None, 2)))
    assert torch.equal(network(torch.tensor([[2, 0]])), torch.eye(3)[[2, 0]][None])
    with pytest.raises(IndexError):
        network(torch.tensor([[3, 0]]))


def test_a_program_that_squares_the_batch_is_seen(tmp_path: Path) -> None:
    flat = call("reshape.default", X, [-1, 192])
    square = call("mm.default", {"value": 1}, {"value": 2}, out=3)
    nodes = [flat, call("t.default", {"value": 1}, out=2), square, call("reshape.default", {"value": 3}, [-1, 1], out=4),
             call("t.default", {"value": 4}, out=5), call("mm.default", {"value": 4}, {"value": 5}, out=6)]  # fmt: skip
    path = write(tmp_path / "file", nodes)
    load_pruned(path, max_elements=2**19)  # 64 images make 2**24 elements, which is 2**18 per image, and some more
    with pytest.raises(PrunedFileError, match="for a batch of 64, more than max_elements=65536 per image"):
        load_pruned(path, max_elements=2**16)


def test_the_limit_of_nodes(tmp_path: Path) -> None:
    nodes = [call("relu.default", {"value": i}, out=i + 1) for i in range(30)]
    path = write(tmp_path / "file", nodes)
    load_pruned(path, max_nodes=30)
    with pytest.raises(PrunedFileError, match="it makes 30 calls, more than max_nodes=29; raise the limit if you trust the file"):
        load_pruned(path, max_nodes=29)
    many = {".".join(f"m{i}x{j}" for j in range(60)): torch.zeros(0) for i in range(6)}
    with pytest.raises(
        PrunedFileError, match="its tensors lie in more than 300 modules, too many for max_nodes=30; raise the limit"
    ):
        load_pruned(write(tmp_path / "file", nodes, many), max_nodes=30)


@pytest.mark.parametrize("limit", ["max_elements", "max_nodes"])
def test_limits_are_integers(limit: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{limit}: expected an integer >= 1, got 0"):
        load_pruned(tmp_path / "file", **{limit: 0})


def test_only_what_a_trace_records_is_admitted() -> None:
    """Every name on the list stands for an operator, and of all that PyTorch has only harmless overloads are admitted."""
    admitted = []
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if namespace == "aten" and is_admitted(f"aten.{packet}.{overload or 'default'}"):
            admitted.append(f"aten.{packet}.{overload or 'default'}")
    assert {op.split(".")[1] for op in admitted} >= NAMES
    for op in admitted:
        schema = operator(op)._schema
        assert not any(argument.is_out for argument in schema.arguments), op
        assert not op.startswith(
            ("aten.native_batch", "aten.native_layer", "aten.native_group", "aten.empty", "aten.new_empty")
        ), op
        assert all(str(result.real_type) in ("Tensor", "List[Tensor]") for result in schema.returns), op
    assert len(admitted) < 500  # of some 3,000


@pytest.mark.parametrize(
    "name", ["plain", "paddings_and_poolings", "places", "parametrized", "segnet", "activations", "in_place"]
)
def test_what_a_trace_records_is_admitted(name: str, tmp_path: Path) -> None:
    check_round_trip(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_everything_that_a_trace_records_is_admitted(name: str, tmp_path: Path) -> None:
    check_round_trip(name, tmp_path)


def check_round_trip(name: str, tmp_path: Path) -> None:
    entry = zoo.NETWORKS[name]
    model, images = entry.build().double().eval(), [torch.rand(3, *shape).double() for shape in entry.shapes]
    graph = prune_gym.trace(model, images)
    network = prune_gym.compact(model, graph, graph.full(), form="program")
    save_pruned(tmp_path / "file", network)
    torch.testing.assert_close(load_pruned(tmp_path / "file")(*images), network(*images), rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as on Linux")
@pytest.mark.parametrize(("files", "seed"), [(60, 0), pytest.param(10_000, 1, marks=pytest.mark.slow)])
def test_thousands_of_hostile_files(files: int, seed: int, tmp_path: Path) -> None:
    """In a process of their own, as a crash would end this one."""
    script = Path(__file__).with_name("hostile.py")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path), str(files), str(seed)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60 + files // 10, env=environment, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    outcomes = json.loads(process.stdout)
    assert outcomes["refused"] + outcomes["raised"] + outcomes["ran"] == files
    assert outcomes["refused"] > files // 2
    assert outcomes["ran"] > 0
    assert outcomes["peak"] < 2 * 1024**3
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before.ru_utime < 20 + files / 20
