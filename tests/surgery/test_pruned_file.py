"""Pruned networks as files: exact copies, and files that are damaged or written to do harm."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import prune_gym
from prune_gym import PrunedFileError, PrunedNetwork, load_pruned, models, save_pruned
from prune_gym.graph.program import Node, Program, Value
from prune_gym.surgery import program_json, pruned_file
from prune_gym.surgery.admission import is_admitted
from prune_gym.surgery.pruned_file import check_savable, pruned_info
from prune_gym.tasks import Task


@pytest.fixture(scope="module")
def network(tiny_task: Task) -> PrunedNetwork:
    """A pruned TinyNet in evaluation mode, one of its parameters frozen."""
    kept = [np.arange(group.width) % 3 != 1 for group in tiny_task.graph.groups]
    network = prune_gym.compact(tiny_task.model, tiny_task.graph, tiny_task.graph.architecture(kept), form="program")
    network.get_parameter("inner.weight").requires_grad_(False)
    return network


@pytest.fixture(scope="module")
def images(tiny_task: Task) -> Tensor:
    return tiny_task.val.images[:9]


@pytest.fixture
def path(tmp_path: Path, network: PrunedNetwork) -> Path:
    """A good file."""
    save_pruned(tmp_path / "network.safetensors", network, {"accuracy": 0.5})
    return tmp_path / "network.safetensors"


class Odd(nn.Module):
    """Two outputs in a nest, a change of dtype, a table, padding, a concatenation and a split."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Linear(12, 3)
        self.register_buffer("shift", torch.tensor([[[0.5]], [[-0.5]]]), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Any]]:
        x = self.one((x.double() + self.shift).float()).clamp(-float("inf"), 2.0)
        y = torch.cat([x, F.relu6(self.two(x))], 1)
        a, b = (torch.zeros(len(x), 12, device=x.device) + y.mean((2, 3))).split(6, 1)
        features = torch.cat([b, a], 1)
        return self.last(F.dropout(features, 0.5, self.training)), {"features": [features], "none": None}


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return dict([*network.named_parameters(), *network.named_buffers()])


def assert_same(a: nn.Module, b: nn.Module) -> None:
    assert list(a.state_dict()) == list(b.state_dict())
    assert list(dict(a.named_parameters())) == list(dict(b.named_parameters()))
    ours, theirs = tensors_of(a), tensors_of(b)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert tensor.requires_grad == theirs[name].requires_grad, name
        assert torch.equal(tensor, theirs[name]), name


# ------------------------------------------------------------------------------------------------ there and back


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_outputs_are_equal_to_the_bit(dtype: torch.dtype, network: PrunedNetwork, images: Tensor, tmp_path: Path) -> None:
    original = copy.deepcopy(network).to(dtype)
    save_pruned(tmp_path / "file", original)
    loaded = load_pruned(tmp_path / "file")
    assert isinstance(loaded, PrunedNetwork)
    assert not loaded.training
    assert_same(original, loaded)
    assert [name for name, p in loaded.named_parameters() if not p.requires_grad] == ["inner.weight"]
    with torch.no_grad():
        expected = original(images.to(dtype))
        assert expected.dtype == dtype
        assert torch.equal(loaded(images.to(dtype)), expected)
        assert torch.equal(loaded(images[:1].to(dtype)), original(images[:1].to(dtype)))


def test_training_goes_on_in_the_same_way(network: PrunedNetwork, images: Tensor, path: Path) -> None:
    results = []
    for copied in (copy.deepcopy(network), load_pruned(path)):
        copied.train()
        optimizer = torch.optim.SGD([p for p in copied.parameters() if p.requires_grad], 0.1)
        torch.manual_seed(0)  # for dropout
        outputs = []
        for _ in range(3):
            outputs.append(copied(images))
            optimizer.zero_grad()
            outputs[-1].square().sum().backward()
            optimizer.step()
        results.append((copied, torch.stack(outputs)))
    (a, outputs_a), (b, outputs_b) = results
    assert torch.equal(outputs_a, outputs_b)
    assert_same(a, b)
    assert not torch.equal(b.get_buffer("norm_stem.running_mean"), network.get_buffer("norm_stem.running_mean"))
    assert torch.equal(b.get_parameter("inner.weight"), network.get_parameter("inner.weight"))
    torch.manual_seed(1)
    first, second = b(images), b(images)
    assert not torch.equal(first, second)  # dropout is on
    assert torch.equal(b.eval()(images), b(images))


def test_odd_networks_come_back_as_they_were(tmp_path: Path) -> None:
    model, x = Odd().eval(), torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    graph = prune_gym.trace(model, x)
    kept = [np.arange(group.width) != 1 for group in graph.groups]
    original = prune_gym.compact(model, graph, graph.architecture(kept), form="program")
    save_pruned(tmp_path / "file", original)
    loaded = load_pruned(tmp_path / "file")
    assert_same(original, loaded)
    assert "shift" not in loaded.state_dict()
    expected, found = original(x), loaded(x)
    assert isinstance(found, tuple)
    assert torch.equal(found[0], expected[0])
    assert found[1]["none"] is None
    assert isinstance(found[1]["features"], list)
    assert torch.equal(found[1]["features"][0], expected[1]["features"][0])


@torch.no_grad()
def test_inputs_keep_their_names(tmp_path: Path) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.b(self.a(x + y))

    model, x, y = Shifted().eval(), torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8)
    graph = prune_gym.trace(model, {"y": y, "x": x})
    save_pruned(tmp_path / "file", prune_gym.compact(model, graph, graph.full(), form="program"))
    small = load_pruned(tmp_path / "file")
    assert torch.equal(small(x=x, y=y), model(x, y))
    assert torch.equal(small(y, x), model(x, y))


def test_a_file_from_before_inputs_had_names(network: PrunedNetwork, images: Tensor, path: Path) -> None:
    forge(path, lambda header, _: header.pop("names"))
    assert torch.equal(load_pruned(path)(images), network.eval()(images))


@pytest.mark.parametrize("name", ["digits_vgg", "digits_resnet", "digits_mobilenet"])
def test_networks_for_digits(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = models.create(name).eval(), torch.rand(3, 1, 8, 8)
    graph = prune_gym.trace(model, x)
    kept = [np.arange(group.width) % 2 == 0 for group in graph.groups]
    original = prune_gym.compact(model, graph, graph.architecture(kept), form="program")
    save_pruned(tmp_path / "file", original)
    loaded = load_pruned(tmp_path / "file")
    assert torch.equal(loaded(x), original(x))
    again = prune_gym.trace(loaded, x)  # it can be pruned further
    assert [group.width for group in again.groups] == [(group.width + 1) // 2 for group in graph.groups]


@pytest.mark.slow
def test_a_process_that_knows_nothing_of_the_model(network: PrunedNetwork, images: Tensor, path: Path, tmp_path: Path) -> None:
    save_file({"images": images}, tmp_path / "images")
    program = f"""
import sys
from safetensors.torch import load_file, save_file
import prune_gym, torch
torch.set_num_threads({torch.get_num_threads()})
output = prune_gym.load_pruned(sys.argv[1])(load_file(sys.argv[2])["images"])
save_file({{"output": output.detach()}}, sys.argv[3])
assert not {{"conftest", "prune_gym.models", "prune_gym.tasks"}} & set(sys.modules)
"""
    names = [str(path), str(tmp_path / "images"), str(tmp_path / "output")]
    subprocess.run([sys.executable, "-c", program, *names], check=True, cwd=tmp_path, timeout=120)
    with safe_open(tmp_path / "output", framework="pt") as file:
        assert torch.equal(file.get_tensor("output"), network(images))


def test_the_file_may_change_after_it_was_loaded(network: PrunedNetwork, images: Tensor, path: Path) -> None:
    loaded = load_pruned(path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(loaded(images), network(images))


def test_info(network: PrunedNetwork, path: Path, tmp_path: Path) -> None:
    assert pruned_info(path) == {"accuracy": 0.5}
    info = {"widths": [1, 2], "nested": {"text": "ü", "none": None, "big": 2**60, "small": 1e-300}, 3: True}
    save_pruned(tmp_path / "other", network, info)
    assert pruned_info(tmp_path / "other") == {**{k: v for k, v in info.items() if k != 3}, "3": True}
    save_pruned(tmp_path / "other", network)
    assert pruned_info(tmp_path / "other") == {}


def test_the_same_network_is_the_same_bytes(network: PrunedNetwork, path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    save_pruned(path, network, {"accuracy": 0.5})
    assert path.read_bytes() == content
    save_pruned(tmp_path / "again", load_pruned(path), pruned_info(path))
    assert (tmp_path / "again").read_bytes() == content
    save_pruned(tmp_path / "again", load_pruned(path), {"accuracy": 0.25})
    assert (tmp_path / "again").read_bytes() != content


# ------------------------------------------------------------------------------------------------ saving that fails


def test_only_pruned_networks_are_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"network: expected a network from prune_gym\.compact, got Linear;"):
        save_pruned(tmp_path / "file", nn.Linear(2, 2))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_good_file_survives_a_save_that_fails(network: PrunedNetwork, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = path.read_bytes()
    with pytest.raises(TypeError, match=r"info: expected what JSON can hold, but .*not JSON serializable"):
        save_pruned(path, network, {"bad": object()})
    with pytest.raises(ValueError, match=r"info: expected what JSON can hold, but .*not JSON compliant"):
        save_pruned(path, network, {"accuracy": float("nan")})
    for bad in ([1], "text", 0):
        with pytest.raises(TypeError, match=f"info: expected a JSON object \\(a dict\\) or None, got {type(bad).__name__}"):
            save_pruned(path, network, bad)  # type: ignore[arg-type]
    unknown = PrunedNetwork(Program(1, (Node("aten.add.Scalar", [Value(0), 1j], {}, 1),), Value(1)), {}, {})
    with pytest.raises(TypeError, match="network: cannot save the argument 1j of type complex"):
        save_pruned(path, unknown)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        save_pruned(path, network, {"accuracy": 1.0})
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


class Divided(nn.Module):
    """Divides whole numbers, for which a processor has no result if they are the smallest one and -1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("rows", torch.arange(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.div(self.rows, 2, rounding_mode="trunc")


def test_what_loading_refuses_is_not_saved(tmp_path: Path) -> None:
    model = Divided().eval()
    graph = prune_gym.trace(model, torch.zeros(1, 3, 8, 8))
    reason = r"cannot be saved, as it does not run .*'aten\.div\.\w+' takes floating-point numbers where it truncates"
    with pytest.raises(ValueError, match=f"network: it {reason}"):
        save_pruned(tmp_path / "file", prune_gym.compact(model, graph, graph.full()))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match=f"model: what is pruned from it {reason}"):
        check_savable(model, graph)


@pytest.mark.parametrize("limit", ["max_nodes", "max_elements"])
def test_a_network_beyond_a_limit_of_loading_is_saved_with_a_warning(
    limit: str, network: PrunedNetwork, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PrunedFileError, match=f"{limit}=4.*raise the limit"):
        load_pruned(path, **{limit: 4})
    monkeypatch.setattr(pruned_file, limit.upper(), 4)
    with pytest.warns(UserWarning, match=rf"a limit of load_pruned, {limit}=4; load it with {limit}=\d+\.") as warned:
        save_pruned(path, network)
    assert warned[0].filename == __file__
    needed = int(str(warned[0].message).rpartition("=")[2][:-1])
    load_pruned(path, **{limit: needed})
    with pytest.raises(PrunedFileError, match=f"{limit}={needed - 1}"):
        load_pruned(path, **{limit: needed - 1})


# ------------------------------------------------------------------------------------------------ damaged files


def load_error(path: Path) -> str:
    """The message of the error of loading a file; also that it names the file."""
    with pytest.raises(PrunedFileError) as error:
        load_pruned(path)
    assert str(error.value).startswith(f"{path}: ")
    assert isinstance(error.value, ValueError)
    return str(error.value).removeprefix(f"{path}: ")


def test_truncated_files(path: Path) -> None:
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(content) // 3, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        assert load_error(path).startswith("damaged, or not a safetensors file (")


def test_a_flipped_bit_anywhere_is_noticed(path: Path) -> None:
    content = path.read_bytes()
    data = len(content) - sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(load_pruned(path)).values())
    for position in [*range(0, data, data // 150), *range(data, len(content), (len(content) - data) // 100), len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 5
        path.write_bytes(damaged)
        message = load_error(path)
        assert "damaged" in message or "not written by save_pruned" in message or "expected format" in message
        if position >= data:
            assert message == "damaged (its content is not what was saved)."
            with pytest.raises(PrunedFileError, match="damaged"):
                pruned_info(path)


def test_files_of_others(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 something else entirely" * 100)
    assert load_error(path).startswith("damaged, or not a safetensors file (")
    save_file({"weight": torch.zeros(3)}, path)
    assert load_error(path) == "this safetensors file was not written by save_pruned."
    save_file({"weight": torch.zeros(3)}, path, {"format": "pt"})
    assert load_error(path) == "this safetensors file was not written by save_pruned."
    for text in ("{", "", "1" * 5000):
        save_file({"weight": torch.zeros(3)}, path, {"prune_gym": text})
        assert load_error(path).startswith("damaged, its header is no JSON object (")
    for text, found in (("[1]", "list"), ("7", "int"), ("null", "NoneType"), ("NaN", None), ('{"a": Infinity}', None)):
        save_file({"weight": torch.zeros(3)}, path, {"prune_gym": text})
        reason = f"it holds no object, but {found}" if found else f"{text.strip('{}')[-8:].removeprefix(': ')} is no JSON"
        assert load_error(path) == f"damaged, its header is no JSON object ({reason})."
    for text, found in (('{"format": "prune_gym network 1"}', "'prune_gym network 1'"), ("{}", "None")):
        save_file({"weight": torch.zeros(3)}, path, {"prune_gym": text})
        assert load_error(path) == f"expected format 'prune_gym network 2', got {found}."


def test_no_file(tmp_path: Path) -> None:
    for function in (load_pruned, pruned_info):
        for missing in (tmp_path / "nowhere", tmp_path):
            with pytest.raises(FileNotFoundError, match=f"{missing}: no such file"):
                function(missing)


# ------------------------------------------------------------------------------------------------ hostile files


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], None]) -> None:
    """Rewrite a good file as somebody would who knows the format: with a digest that fits."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["prune_gym"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a dict
    change(header, tensors)
    header["digest"] = pruned_file._digest(header, tensors)
    save_file(tensors, path, {"prune_gym": json.dumps(header)})


DANGEROUS = [
    "aten.from_file.default",
    "aten.set_.source_Storage",
    "aten.resize_.default",
    "aten.as_strided.default",
    "aten.add.__class__",
    "aten.__init__.__globals__",
    "aten.relu.default.__call__",
    "aten.relu",
    "prim.Print.default",
    "profiler._record_function_enter.default",
    "os.system.default",
    "builtins.eval.default",
    "aten.relu.out",
    "aten.native_batch_norm.default",
    "aten.native_layer_norm.default",
    "aten.native_group_norm.default",
    "aten.view.default",
    "aten.view.dtype",
    "aten.empty.memory_format",
    "aten.empty_like.default",
    "aten.t_.default",
    "aten.squeeze_.dims",
    "aten.nonzero.default",
    "aten.masked_select.default",
    "aten.equal.default",
    "aten.gelu_backward.default",
    "aten.special_hermite_polynomial_h.n_scalar",
    "",
]


@pytest.mark.parametrize("op", DANGEROUS)
def test_operators_that_no_network_uses_are_refused(op: str, path: Path) -> None:
    forge(path, lambda header, _: header["nodes"][0].__setitem__(0, op))
    assert f"{op!r}" in load_error(path) or "malformed" in load_error(path)


@pytest.mark.parametrize("op", [op for op in DANGEROUS if "__globals__" not in op])
def test_is_admitted_refuses(op: str) -> None:
    assert not is_admitted(op)


@pytest.mark.parametrize("op", ["aten.relu.default", "aten.relu_.default", "aten.add.Tensor", "aten.batch_norm.default"])
def test_is_admitted_accepts(op: str) -> None:
    assert is_admitted(op)


def set_argument(argument: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda header, _: header["nodes"][3].__setitem__(1, [argument])


def set_entry(key: str, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda header, _: header.__setitem__(key, value)


def set_node(place: int, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    return lambda header, _: header["nodes"][3].__setitem__(place, value)


def rename(name: str) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors.pop("hidden.bias")
        header["parameters"] = [name if old == "hidden.bias" else old for old in header["parameters"]]
        header["nodes"] = json.loads(json.dumps(header["nodes"]).replace("hidden.bias", name))

    return change


HOSTILE = {
    "an operator that is no string": (set_node(0, 3), "it calls 3, which is not an operator"),
    "a value of the future": (set_argument({"value": 50}), "a value (50) is used before it is computed"),
    "a value of its own": (set_argument({"value": 4}), "a value (4) is used before it is computed"),
    "a value before the first": (set_argument({"value": -1}), "a value (-1) is used before it is computed"),
    "a nested value": (set_argument([[{"dict": {"a": {"value": 0}}}]]), "for 'self', where it takes Tensor"),
    "a value in a tuple": (set_argument({"tuple": [{"value": 0}]}), "for 'self', where it takes Tensor"),
    "a value in keywords": (set_node(2, {"dict": {"a": {"value": 0}}}), "the keyword 'a', which it does not take"),
    "a value that is true": (set_argument({"value": True}), "is not one that save_pruned writes"),
    "too many arguments": (set_node(1, [{"value": 0}] * 9), "9 arguments, more than the"),
    "too few arguments": (set_node(1, []), "without 'self'"),
    "a frozen buffer": (set_entry("frozen", ["norm_stem.running_var"]), "it freezes what is no parameter"),
    "a transient parameter": (set_entry("transient", ["stem.weight"]), "leaves out of its state what is no buffer"),
    "a tensor in two roles": (lambda header, _: header["buffers"].append("stem.weight"), "is both a parameter and a buffer"),
    "a tensor twice": (lambda header, _: header["parameters"].append("stem.weight"), "it names a tensor twice"),
    "a tensor too many": (
        lambda _, tensors: tensors.update(more=torch.zeros(1)),
        "the tensor 'more' is neither a parameter nor a buffer",
    ),
    "a shape that does not fit": (set_entry("shapes", [[None, 2, 12, 12]]), "it does not run on inputs of its shapes"),
    "a shape that is no list": (set_entry("shapes", [7]), "its input shapes are [7]"),
    "a negative size": (set_entry("shapes", [[None, -1, 12, 12]]), "its input shapes are"),
    "a size that is true": (set_entry("shapes", [[None, True, 12, 12]]), "its input shapes are"),
    "two shapes": (set_entry("shapes", [[None, 1, 12, 12]] * 2), "it gives no shape for each of its 1 inputs"),
    "no shapes": (lambda header, _: header.pop("shapes"), "its header is malformed (KeyError: 'shapes')"),
    "a number type that is none": (set_entry("dtype", "float32"), "its number type is 'float32'"),
    "another weight": (
        lambda _, tensors: tensors.update({"stem.weight": torch.zeros(3, 1, 3, 3)}),
        "it does not run on inputs of its shapes",
    ),
    "an integer weight": (
        lambda _, tensors: tensors.update({"hidden.weight": tensors["hidden.weight"].long()}),
        "its header is malformed (RuntimeError: Only Tensors of floating point",
    ),
    "an output of the future": (set_entry("output", {"value": 10**9}), "a value (1000000000) is used before it is computed"),
    "a result twice": (set_node(3, 2), "are numbered wrongly"),
    "a result left out": (set_node(3, 99), "are numbered wrongly"),
    "a result that is no number": (set_node(3, "4"), "are numbered wrongly"),
    "results that are no numbers": (set_node(3, [4, None]), "are numbered wrongly"),
    "a missing weight": (lambda _, tensors: tensors.pop("stem.weight"), "the tensor 'stem.weight' is missing"),
    "a missing buffer": (
        lambda _, tensors: tensors.pop("norm_stem.running_var"),
        "the tensor 'norm_stem.running_var' is missing",
    ),
    "a tensor from nowhere": (set_argument({"tensor": "nowhere"}), "the tensor 'nowhere' is missing"),
    "an output from nowhere": (set_entry("output", {"tensor": "nowhere"}), "the tensor 'nowhere' is missing"),
    "a buffer from nowhere": (set_entry("buffers", ["nowhere"]), "is missing"),
    "a weight that is neither": (set_entry("parameters", []), "the tensor 'classifier.bias' is missing"),
    "a parameter from nowhere": (lambda header, _: header["parameters"].append("nowhere"), "the tensor 'nowhere' is missing"),
    "an integer parameter": (
        lambda header, _: header["parameters"].append(header["buffers"].pop()),
        "its header is malformed (RuntimeError",
    ),
    "parameters of no name": (set_entry("parameters", [["a"], 3]), "its names of tensors are not a list of text"),
    "nodes that are text": (set_entry("nodes", "nodes"), "its nodes are of type str"),
    "nodes that are a number": (set_entry("nodes", 5), "its nodes are of type int"),
    "nodes that are nothing": (set_entry("nodes", None), "its nodes are of type NoneType"),
    "nodes that are a dict": (set_entry("nodes", {"a": 1}), "its nodes are of type dict"),
    "a node that is short": (lambda header, _: header["nodes"][3].pop(), "its header is malformed (ValueError"),
    "no nodes": (lambda header, _: header.pop("nodes"), "its header is malformed (KeyError: 'nodes')"),
    "no inputs": (lambda header, _: header.pop("inputs"), "its header is malformed (KeyError: 'inputs')"),
    "zero inputs": (set_entry("inputs", 0), "it has 0 inputs"),
    "a name of an input that is none": (set_entry("names", [3]), "it calls its 1 inputs [3]"),
    "names of inputs that are text": (set_entry("names", "x"), "it calls its 1 inputs x"),
    "more names than inputs": (set_entry("names", ["x", "y"]), "it calls its 1 inputs ['x', 'y']"),
    "a name of two inputs": (
        lambda header, _: header.update(inputs=2, shapes=header["shapes"] * 2, nodes=[], output=None, names=["x", "x"]),
        "it calls its 2 inputs ['x', 'x']",
    ),
    "half an input": (set_entry("inputs", 1.5), "it has 1.5 inputs"),
    "a million million inputs": (set_entry("inputs", 10**12), "it has 1000000000000 inputs"),
    "arguments that are a dict": (set_node(1, {"dict": {}}), "are not a list and a dict"),
    "keywords that are a list": (set_node(2, []), "are not a list and a dict"),
    "a pickle": (set_argument({"pickle": "gASVAAA="}), "is not one that save_pruned writes"),
    "two kinds at once": (set_argument({"value": 1, "tensor": "a"}), "is not one that save_pruned writes"),
    "a function of PyTorch": (
        set_argument({"dtype": "load"}),
        "the argument {'dtype': 'load'} is not one that save_pruned writes",
    ),
    "a module of PyTorch": (set_argument({"dtype": "_inductor"}), "is not one that save_pruned writes"),
    "a training flag that is not": (set_argument({"training": False}), "is not one that save_pruned writes"),
    "a name of a method": (rename("forward"), "its header is malformed (KeyError"),
    "a name of an attribute": (rename("forward"), "its header is malformed"),
    "a name with an empty part": (rename("a..b"), "'a..b' is no name of a tensor"),
    "a name that is empty": (rename(""), "'' is no name of a tensor"),
    "a name with no end": (rename(".".join(["a"] * 5000)), "is no name of a tensor"),
    "frozen that is a number": (set_entry("frozen", 5), "its names of tensors are not a list of text"),
    "no digest that fits": (None, "damaged (its content is not what was saved)."),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_headers(case: str, path: Path) -> None:
    change, reason = HOSTILE[case]
    if change is None:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["prune_gym"])
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # not a dict
        header["info"] = {"accuracy": 1.0}
        save_file(tensors, path, {"prune_gym": json.dumps(header)})
    else:
        forge(path, change)
    message = load_error(path)
    assert reason in message
    if change is not None:
        assert message.startswith("expected a pruned network, but ")
        assert message.endswith("; save it again with save_pruned.")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_a_header_nested_beyond_measure(opening: str, path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, {"prune_gym": opening * 200_000})
    assert load_error(path) == "damaged, its header is no JSON object (it is nested too deeply)."


def test_arguments_nested_beyond_measure(path: Path) -> None:
    nest: list = []
    for _ in range(40):
        nest = [nest]
    forge(path, set_argument(nest))
    assert "an argument is nested more than 32 times" in load_error(path)


def test_a_header_of_great_length(path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, path, {"prune_gym": " " * 2**24 + "{}"})
    assert load_error(path) == "expected a header of at most 16777216 characters, got 16777218."


def test_types_that_no_network_holds(path: Path) -> None:
    forge(path, lambda _, tensors: tensors.update({"stem.weight": torch.zeros(6, 1, 3, 3).to(torch.float8_e4m3fn)}))
    assert load_error(path).startswith("the tensor 'stem.weight' is of the type torch.float8_e4m3fn, which no pruned network")


def test_nothing_of_pytorch_is_imported_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch imports some of its modules when they are first asked for."""
    monkeypatch.setattr(torch, "__getattr__", lambda name: pytest.fail(f"asked PyTorch for {name}"), raising=False)
    with pytest.raises(PrunedFileError, match="'_inductor_of_old'"):
        program_json._decode({"dtype": "_inductor_of_old"})
    assert program_json._decode({"dtype": "float64"}) is torch.float64


def test_numbers_that_json_has_no_word_for() -> None:
    for number in (float("inf"), -float("inf")):
        assert program_json._decode(json.loads(json.dumps(program_json._encode(number), allow_nan=False))) == number
    assert np.isnan(program_json._decode(program_json._encode(float("nan"))))


@pytest.mark.parametrize("path", [None, 3, b"file"])
def test_paths_that_are_none(path: Any, network: PrunedNetwork) -> None:
    for act in (load_pruned, pruned_info, lambda path: save_pruned(path, network)):
        with pytest.raises(TypeError, match=f"path: expected a path, got {type(path).__name__}"):
            act(path)


def test_splits_of_what_cannot_be_pruned(tmp_path: Path) -> None:
    class Splits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            red, green, blue = x.split(1, 1)
            left, right = self.layer(torch.cat([blue, green, red], 1)).chunk(2, 3)
            return torch.cat([right, *left.split(2, -1)], 3).mean((2, 3))

    model, images = Splits().eval(), torch.randn(3, 3, 8, 8)
    graph = prune_gym.trace(model, images)
    save_pruned(tmp_path / "file", prune_gym.compact(model, graph, graph.full()))
    assert torch.allclose(load_pruned(tmp_path / "file")(images), model(images), atol=1e-6)
