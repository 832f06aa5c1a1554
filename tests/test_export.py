"""Networks in formats that others read, their widths, and what they cost where they run."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import sys
import time
from functools import partial
from pathlib import Path

import export as export_script
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import zoo
from command import run_command
from torch import nn

import prune_gym
from prune_gym import models, tasks
from prune_gym.agents import RunConfig, run
from prune_gym.export import EXPORTERS, Exported, ExportError, compare, export
from prune_gym.latency import latencies, peak_memory
from prune_gym.widths import round_widths

ROOT = Path(__file__).parents[1]
NETWORKS = (
    "lenet_with_hard_coded_view", "residual", "squeeze_and_excitation", "grouped", "shuffle_with_groups", "digits_mobilenet",
)  # fmt: skip


def pruned(name: str) -> tuple[prune_gym.PrunedNetwork, tuple[int, ...]]:
    """A network in single precision without a third of its channels, and the shape of its input."""
    if name not in zoo.NETWORKS:
        model, shape = zoo.prepare(models.create(name, num_classes=10, in_channels=1)).float(), (1, 8, 8)
    else:
        model, shape = zoo.prepare(zoo.NETWORKS[name].build()).float(), zoo.NETWORKS[name].shapes[0]
    graph = prune_gym.trace(model, torch.zeros(1, *shape))
    return prune_gym.compact(model, graph, zoo.random_architecture(graph, 0)), shape


def images(shape: tuple[int, ...], n: int) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(n))


@pytest.fixture(scope="module")
def residual():
    return pruned("residual")


# ---------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("format", EXPORTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_format_computes_the_network(name, format):
    network, shape = pruned(name)
    exported = export(network, torch.zeros(1, *shape), format)
    for n in (1, 3, 64):
        with torch.no_grad():
            expected, found = network(images(shape, n)), exported.run(images(shape, n))
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert expected.std() > 1e-3  # there is something to compare


NOT_IN_ONNX = {
    "feature_pyramid": "a number among the outputs", "three_dimensional": "adaptive average pooling in 3D",
    "paddings_and_poolings": "adaptive max pooling", "activations": "rrelu", "dynamic_convolution": "a group per image",
    "correlation": "a group per image", "correlation_of_bound_channels": "a group per image",
    "channels_that_stay": "a product over a dimension",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_the_whole_zoo(name):
    model, entry = zoo.built(name), zoo.NETWORKS[name]
    graph = prune_gym.trace(model, zoo.inputs(entry.shapes))
    network = prune_gym.compact(model, graph, zoo.random_architecture(graph, 0))
    exported = export(network, zoo.inputs(entry.shapes), "torch-export")
    for n in (1, 3):
        x = zoo.inputs(entry.shapes, n)
        assert zoo.relative_error(exported.run(*x), network(*x)) < 1e-12
    if name == "unregistered_tensors":  # which are in double precision, as the model's own float() does not see them
        return
    x = [image.float() for image in zoo.inputs(entry.shapes, 3)]
    model = zoo.prepare(entry.build()).float()
    graph = prune_gym.trace(model, x)
    single = prune_gym.compact(model, graph, zoo.random_architecture(graph, 0))
    if name in NOT_IN_ONNX:
        with pytest.raises(ExportError, match="format: PyTorch cannot write this network as ONNX"):
            export(single, x, "onnx")
    else:
        assert zoo.relative_error(export(single, x, "onnx").run(*x), single(*x)) < 1e-4


@pytest.mark.parametrize("format", EXPORTERS)
def test_the_same_as_a_module_written_small(tiny_task, tiny_architectures, shrink, format):
    architecture = tiny_architectures[3]
    network = prune_gym.compact(tiny_task.model, tiny_task.graph, architecture).train()  # evaluation mode is what counts
    exported = export(network, tiny_task.test.images[:1], format)
    with torch.no_grad():
        expected = shrink(tiny_task, architecture)(tiny_task.test.images)
        torch.testing.assert_close(exported.run(tiny_task.test.images), expected, rtol=1e-4, atol=1e-4)


def test_an_onnx_file_is_complete_and_named(residual, tmp_path):
    network, shape = residual
    path = tmp_path / "alone" / "network.onnx"
    path.parent.mkdir()
    path.write_bytes(export(network, torch.zeros(1, *shape), "onnx").content)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("images", ["batch", *shape])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("logits", ["batch", 4])]
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    kernels = {name: parameter for name, parameter in network.named_parameters() if parameter.ndim == 4}
    assert len(kernels) > 3
    for name, kernel in kernels.items():
        np.testing.assert_array_equal(weights[name], kernel.detach().numpy())


def test_a_torch_export_archive_holds_the_weights(residual):
    network, shape = residual
    content = export(network, torch.zeros(1, *shape), "torch-export").content
    for parameter in network.parameters():  # the archive is not compressed
        assert parameter.detach().numpy().tobytes() in content


@pytest.mark.parametrize("format", EXPORTERS)
def test_same_bytes_and_nothing_of_the_machine(residual, format):
    network, shape = residual
    content = export(network, torch.zeros(1, *shape), format).content
    assert export(network, torch.ones(5, *shape), format).content == content
    for path in (ROOT, Path.home(), Path(sys.prefix), Path(torch.__file__).parent):
        assert str(path).encode() not in content


def test_the_network_is_left_as_it_is(residual):
    network, shape = copy.deepcopy(residual[0]).train(), residual[1]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    exported = export(network, torch.zeros(1, *shape), "torch-export")
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    compare(exported, network, images(shape, 3))
    assert network.training


def test_compare_counts_images_and_classes(residual):
    network, shape = residual
    exact = Exported(b"", network)
    assert vars(compare(exact, network, images(shape, 70))) == {"images": 70, "max_difference": 0.0, "changed_predictions": 0}
    seen = []

    def tied(x):
        """The best two logits swapped by half of a thousandth, for an image in which they are equal up to that."""
        seen.append(len(x))
        return torch.tensor([[1.0, 1.0005]]).repeat(len(x), 1)

    class Reference(prune_gym.PrunedNetwork):
        def forward(self, x):
            return torch.tensor([[1.0005, 1.0]]).repeat(len(x), 1)

    reference = copy.deepcopy(network)
    reference.__class__ = Reference
    agreement = compare(Exported(b"", tied), reference, images(shape, 70))
    assert seen == [1, 64, 5]
    assert agreement.changed_predictions == 70
    assert agreement.max_difference == pytest.approx(5e-4, rel=1e-3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y: y + 0.1, "differs from the network by 0.1, with logits up to"),
        (lambda y: y * torch.where(torch.arange(len(y)) == len(y) - 1, 1.02, 1.0)[:, None], "differs"),
        (lambda y: y * float("nan"), "differs from the network by nan"),
        (lambda y: y[:, :-1], "expected logits of shape"),
    ],
)
def test_compare_rejects_another_function(residual, spoil, message):
    network, shape = residual
    with torch.no_grad(), pytest.raises(ExportError, match=message):
        compare(Exported(b"", lambda x: spoil(network.eval()(x))), network, images(shape, 70))


def test_bad_arguments(residual, monkeypatch):
    network, shape = residual
    with pytest.raises(ValueError, match=r"format: expected one of .*; got 'onx'. Did you mean 'onnx'\?"):
        export(network, torch.zeros(1, *shape), "onx")
    with pytest.raises(TypeError, match=r"network: expected a PrunedNetwork from prune_gym.compact, got Linear"):
        export(nn.Linear(2, 2), torch.zeros(1, 2), "onnx")
    with pytest.raises(ValueError, match=r"example: the network does not run on the shape \(1, 7, 8, 8\)"):
        export(network, torch.zeros(1, 7, 8, 8), "onnx")
    odd, shape = pruned("channels_that_stay")
    with pytest.raises(ExportError, match=r"format: PyTorch cannot write this network as ONNX \(.*prod.*\); use another format"):
        export(odd, torch.zeros(1, *shape), "onnx")
    with pytest.raises(ExportError, match=r"format: ONNX Runtime cannot run this network \(.*\); is it in single precision\?"):
        export(copy.deepcopy(network).double(), torch.zeros(1, *residual[1], dtype=torch.float64), "onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="format: 'onnx' needs onnxruntime; pip install onnx onnxscript onnxruntime"):
        export(network, torch.zeros(1, *shape), "onnx")


# ----------------------------------------------------------------------------------------------------------- widths


def chain(*widths: int) -> prune_gym.PrunedNetwork:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 4)).eval()
    graph = prune_gym.trace(model, torch.zeros(1, 3, 8, 8))
    return prune_gym.compact(model, graph, graph.full())


def widths(network: prune_gym.PrunedNetwork) -> list[int]:
    return [p.shape[0] for p in network.parameters() if p.ndim == 4]


def test_round_widths_keeps_the_most_important_units():
    network, x, y = chain(20, 16, 13, 6), images((3, 8, 8), 10), torch.arange(10) % 4
    small = round_widths(network, x, y, 8)
    assert widths(small) == [16, 16, 8, 6]
    assert widths(network) == [20, 16, 13, 6]
    F.cross_entropy(network(x), y).backward()
    weights = dict(network.named_parameters())
    rows = {}
    for name in ("0.weight", "4.weight"):
        weight = weights[name]
        scores = (weight * weight.grad).abs().sum((1, 2, 3))
        rows[name] = scores.argsort(descending=True)[: len(small.get_parameter(name))].sort().values
    first, third = rows["0.weight"], rows["4.weight"]
    assert torch.equal(small.get_parameter("0.weight"), weights["0.weight"][first])
    assert torch.equal(small.get_parameter("2.weight"), weights["2.weight"][:, first])
    assert torch.equal(small.get_parameter("4.weight"), weights["4.weight"][third])
    assert torch.equal(small.get_parameter("6.weight"), weights["6.weight"][:, third])


def test_round_widths_to_one_changes_nothing():
    network, x = chain(5, 7), images((3, 8, 8), 4)
    same = round_widths(network, x, torch.zeros(4, dtype=torch.int64), 1)
    assert same is not network
    assert widths(same) == [5, 7]
    assert torch.equal(same(x), network(x))


def test_round_widths_counts_channels_where_a_unit_holds_several():
    layers = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 28, 3, groups=2), nn.ReLU(), nn.Conv2d(28, 4, 1)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    graph = prune_gym.trace(model, torch.zeros(1, 3, 8, 8))
    assert [group.width for group in graph.groups] == [3, 14]  # a channel of each half
    network = prune_gym.compact(model, graph, graph.full())
    assert widths(round_widths(network, images((3, 8, 8), 4), torch.arange(4), 8)) == [6, 24, 4]
    assert widths(round_widths(network, images((3, 8, 8), 4), torch.arange(4), 5)) == [6, 20, 4]


@pytest.mark.parametrize("multiple", [0, -8, 2.0])
def test_bad_multiples(multiple):
    with pytest.raises(ValueError, match=f"multiple: expected an integer >= 1, got {multiple}"):
        round_widths(chain(4), images((3, 8, 8), 2), torch.zeros(2, dtype=torch.int64), multiple)


# ------------------------------------------------------------------------------------------------ latency and memory


def test_latencies_are_medians_of_turns():
    calls = []

    class Sleeper(nn.Module):
        def __init__(self, name, milliseconds):
            super().__init__()
            self.name, self.milliseconds = name, milliseconds

        def forward(self, x):
            calls.append(self.name)
            time.sleep(0.2 if calls.count(self.name) in (1, 8) else self.milliseconds / 1000)  # two outliers

    found = latencies({"a": Sleeper("a", 2), "b": Sleeper("b", 40)}, torch.zeros(1), seconds=0.1)
    assert 2 <= found["a"] < 40 <= found["b"] < 200
    assert calls == ["a", "b"] * (len(calls) // 2)
    assert len(calls) >= 20
    with pytest.raises(ValueError, match=r"seconds: expected a number in \(0, inf\), got 0"):
        latencies({"a": nn.Identity()}, torch.zeros(1), seconds=0)


def test_peak_memory_of_a_chain():
    network = chain(6, 5)
    places = 4 * 7 * 8 * 8  # bytes of a channel of seven images
    own = 4 * sum(p.numel() for p in network.parameters())
    expected = own + 3 * places + 2 * 6 * places  # the first activation, while its input is still there
    assert peak_memory(network, images((3, 8, 8), 7)) == expected
    assert peak_memory(network, images((3, 8, 8), 70)[:7]) == expected  # of a larger tensor


def test_peak_memory_grows_with_what_is_in_use_and_not_with_depth():
    x = images((3, 8, 8), 7)

    def activations(network):
        return peak_memory(network, x) - 4 * sum(p.numel() for p in network.parameters())

    assert activations(chain(6)) == activations(chain(*[6] * 9))
    held = zoo.Net(lambda net, y: sum([net.conv(y) for _ in range(5)]), conv=nn.Conv2d(3, 3, 1))
    assert activations(held.eval()) == 4 * 7 * 64 * 3 * (1 + 5 + 2)  # the images, five results, a sum and the one before it


# -------------------------------------------------------------------------------------------------------- the script


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_script, "latencies", partial(latencies, seconds=0.02))
        yield export_script


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(
        RunConfig(agent="uniform", sparsity=0.3, step_ratio=0.1, evaluations=10, device="cpu", out=tmp_path_factory.mktemp("run"))
    )


def test_report_of_a_run(script, finished, capsys):
    config = script.ExportConfig(finished.folder, round_to=8, device="cpu")
    report = script.export_run(config)
    assert json.loads((finished.folder / "export.onnx.json").read_text()) == report
    task = tasks.load("digits")
    content = (finished.folder / "export.onnx").read_bytes()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    classes = session.run(None, {"images": task.test.images.numpy()})[0].argmax(1)
    original, small, rounded = (report["networks"][name] for name in ("original", "pruned", "rounded to 8"))
    assert rounded["test_accuracy"] == pytest.approx((classes == task.test.labels.numpy()).mean())
    assert rounded["file_bytes"] == len(content)
    for network, key in ((original, "before"), (small, "after")):
        for measure in ("val_accuracy", "test_accuracy", "macs", "params"):
            assert network[measure] == pytest.approx(finished.summary[key][measure])
    assert list(small["channels"].values()) == [kept for _, kept in finished.summary["widths"].values()]
    assert list(rounded["channels"].values()) == [kept - kept % 8 for kept in small["channels"].values()]
    for key in ("macs", "params", "file_bytes"):
        assert original[key] > small[key] > rounded[key]
    for n in ("1", "64"):
        assert original["peak_memory_bytes"][n] > small["peak_memory_bytes"][n] > rounded["peak_memory_bytes"][n]
        assert all(network["latency_ms"][n] > 0 for network in (original, small, rounded))
    assert report["agreement"]["test_images"] == len(task.test)
    assert report["agreement"]["max_difference"] < 1e-4
    script.show(report)
    shown = capsys.readouterr().out
    for text in ("rounded to 8", f"{rounded['macs']:,}", f"{rounded['params']:,}", "latency", "400 test images"):
        assert text in shown


def test_command_line(script, finished, tmp_path, capsys):
    def command(*arguments):
        run_command(script.main, script.ExportConfig, script.__doc__, arguments=[str(argument) for argument in arguments])

    out = tmp_path / "small.safetensors"
    command(finished.folder, "--format", "safetensors", "--out", out, "--device", "cpu")
    assert f"Written: {out} and small.safetensors.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "small.safetensors.json").read_text())["format"] == "safetensors"
    network, original = prune_gym.load_pruned(out), prune_gym.load_pruned(finished.folder / "pruned.safetensors")
    x = tasks.load("digits").test.images[:5]
    assert torch.equal(network(x), original(x))
    with pytest.raises(SystemExit, match=r"error: run: expected the folder of a run, made by train_agent.py; .* is not a folder"):
        command(tmp_path / "none")
    with pytest.raises(SystemExit, match="2"):  # reported by tyro
        command(tmp_path, "--round-to", 0)
    assert "round_to: expected an integer >= 1, got 0" in capsys.readouterr().err


def test_what_is_no_run_is_refused(script, finished, tmp_path):
    def export_run(folder, **settings):
        return script.export_run(script.ExportConfig(folder, device="cpu", **settings))

    with pytest.raises(FileNotFoundError, match=r"run: .* holds no finished run, as it has no summary.json"):
        export_run(tmp_path)
    for content in ("{", "[]", '{"task": 3}'):
        (tmp_path / "summary.json").write_text(content)
        with pytest.raises(ValueError, match=r"run: .*summary.json is damaged \(.*\); run train_agent.py again"):
            export_run(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps(finished.summary))
    with pytest.raises(FileNotFoundError, match=r"pruned.safetensors: no such file"):
        export_run(tmp_path)
    damaged = bytearray((finished.folder / "pruned.safetensors").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "pruned.safetensors").write_bytes(damaged)
    with pytest.raises(prune_gym.PrunedFileError, match="damaged"):
        export_run(tmp_path)
    (tmp_path / "pruned.safetensors").write_bytes((finished.folder / "pruned.safetensors").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file; expected the folder of a run"):
        export_run(tmp_path)
    (tmp_path / "config.json").write_text((finished.folder / "config.json").read_text().replace('"digits"', '"digit"'))
    with pytest.raises(ValueError, match=r"Did you mean 'digits'\?"):
        export_run(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "pruned.safetensors", "config.json"}
    with pytest.raises(FileExistsError, match=r"out: .*steps.csv exists; choose another name or delete it"):
        export_run(finished.folder, out=finished.folder / "steps.csv")
    with pytest.raises(ValueError, match=r"Did you mean 'onnx'\?"):
        export_run(finished.folder, format="onxx")
    with pytest.raises(ValueError, match="round_to: expected an integer >= 1, got 0"):
        export_run(finished.folder, round_to=0)


# ---------------------------------------------------------------------------------------- nothing goes through pickle


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture(params=["pickle", "torch.save"])
def bomb(request, tmp_path):
    """A file that makes another one when it is unpickled, and the place of that one."""
    path, mark = tmp_path / "bomb", tmp_path / "exploded"
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save({"weight": Bomb(mark)}, path)
    return path, mark


def test_the_bomb_explodes_where_it_is_unpickled(bomb):
    path, mark = bomb
    if path.read_bytes().startswith(b"PK"):
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert mark.exists()


def test_a_bomb_is_no_pruned_network(bomb):
    path, mark = bomb
    with pytest.raises(prune_gym.PrunedFileError, match=r"damaged, or not a safetensors file"):
        prune_gym.load_pruned(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pruned.safetensors", "summary.json"])
def test_a_bomb_in_a_run_folder(script, finished, bomb, tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(finished.summary))
    (folder / name).write_bytes(bomb[0].read_bytes())
    with pytest.raises(ValueError, match=rf"{name}.*damaged"):
        script.export_run(script.ExportConfig(folder, device="cpu"))
    assert not bomb[1].exists()


def test_a_bomb_among_the_base_networks(bomb, tmp_path, monkeypatch):
    tasks.load("digits")
    (cached,) = tasks.cache_folder().glob("digits-????????????????.safetensors")
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / cached.name).write_bytes(bomb[0].read_bytes())
    with pytest.raises(ValueError, match=r"damaged.* It is the cached base network of task 'digits'"):
        tasks.load("digits")
    assert not bomb[1].exists()


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.export.load", "torch.jit.load", "torch.hub.load", "np.load", "numpy.load", "th.load", "eval", "exec",
    "onnx.hub.load",
}  # fmt: skip


def unsafe(source: str) -> list[str]:
    """What in a program could execute a file that it loads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module), names=names):
                found += [module] if module.split(".")[0] in FORBIDDEN_MODULES else []
                found += [f"{module}.{a.name}" for a in names if f"{module}.{a.name}" in FORBIDDEN_CALLS]
            case ast.Call(func=func, keywords=keywords):
                if any(ast.unparse(keyword) == "allow_pickle=False" for keyword in keywords):
                    continue  # NumPy then refuses whatever could execute
                found += [ast.unparse(func)] if ast.unparse(func) in FORBIDDEN_CALLS else []
    return found


def test_no_source_loads_what_could_execute():
    assert unsafe("import pickle\nfrom torch import load\nx = torch.load(f)\neval('1')\nmodel.eval()") == [
        "pickle", "torch.load", "torch.load", "eval",
    ]  # fmt: skip
    assert unsafe("np.load(f)\nnp.load(f, allow_pickle=True)\nnp.load(f, allow_pickle=False)") == ["np.load", "np.load"]
    files = [path for folder in ("prune_gym", "envs", "agents", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 40
    found = {str(path.relative_to(ROOT)): unsafe(path.read_text()) for path in files}
    assert {path: names for path, names in found.items() if names} == {}
