"""Networks in formats that others read."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import zoo
from torch import nn

import prune_gym
from prune_gym import load_pruned, models
from prune_gym.surgery.export import EXPORTERS, Exported, ExportError, compare, export

ROOT = Path(__file__).parents[2]
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
    return prune_gym.compact(model, graph, zoo.random_architecture(graph, 0), form="program"), shape


@pytest.fixture(scope="module")
def residual():
    return pruned("residual")


# ---------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("format", EXPORTERS)
@pytest.mark.parametrize("name", [*NETWORKS[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS[1:])])
def test_every_format_computes_the_network(name, format):
    network, shape = pruned(name)
    exported = export(network, torch.zeros(1, *shape), format)
    for n in (1, 3, 64):
        with torch.no_grad():
            expected, found = network(zoo.images(shape, n)), exported.run(zoo.images(shape, n))
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert expected.std() > 1e-3  # there is something to compare


NOT_IN_ONNX = {
    "feature_pyramid": "a number among the outputs", "three_dimensional": "adaptive average pooling in 3D",
    "paddings_and_poolings": "adaptive max pooling", "activations": "rrelu", "dynamic_convolution": "a group per image",
    "correlation": "a group per image", "correlation_of_bound_channels": "a group per image",
    "channels_that_stay": "a product over a dimension",
}  # fmt: skip
NOT_IN_EVERY_ONNX = {"cosine_head": "distances, with some versions of PyTorch"}


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_the_whole_zoo(name):
    model, entry = zoo.built(name), zoo.NETWORKS[name]
    graph = prune_gym.trace(model, zoo.inputs(entry.shapes))
    network = prune_gym.compact(model, graph, zoo.random_architecture(graph, 0), form="program")
    exported = export(network, zoo.inputs(entry.shapes), "torch-export")
    for n in (1, 3):
        x = zoo.inputs(entry.shapes, n)
        assert zoo.relative_error(exported.run(*x), network(*x)) < 1e-12
    if name == "unregistered_tensors":  # which are in double precision, as the model's own float() does not see them
        return
    x = [image.float() for image in zoo.inputs(entry.shapes, 3)]
    model = zoo.prepare(entry.build()).float()
    graph = prune_gym.trace(model, x)
    single = prune_gym.compact(model, graph, zoo.random_architecture(graph, 0), form="program")
    if name in NOT_IN_EVERY_ONNX:
        return
    if name in NOT_IN_ONNX:
        with pytest.raises(ExportError, match="format: PyTorch cannot write this network as ONNX"):
            export(single, x, "onnx")
    else:
        assert zoo.relative_error(export(single, x, "onnx").run(*x), single(*x)) < 1e-4


@pytest.mark.parametrize("format", EXPORTERS)
def test_the_same_as_a_module_written_small(tiny_task, tiny_architectures, shrink, format):
    architecture = tiny_architectures[3]
    network = prune_gym.compact(
        tiny_task.model, tiny_task.graph, architecture, form="program"
    ).train()  # evaluation mode is what counts
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
    compare(exported, network, zoo.images(shape, 3))
    assert network.training


def test_compare_counts_images_and_classes(residual):
    network, shape = residual
    exact = Exported(b"", network)
    assert vars(compare(exact, network, zoo.images(shape, 70))) == {"images": 70, "max_difference": 0.0, "changed_predictions": 0}
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
    agreement = compare(Exported(b"", tied), reference, zoo.images(shape, 70))
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
        compare(Exported(b"", lambda x: spoil(network.eval()(x))), network, zoo.images(shape, 70))


def test_bad_arguments(residual, monkeypatch):
    network, shape = residual
    with pytest.raises(ValueError, match=r"format: expected one of .*; got 'onx'. Did you mean 'onnx'\?"):
        export(network, torch.zeros(1, *shape), "onx")
    with pytest.raises(TypeError, match=r"network: expected a network from prune_gym.compact, got Linear"):
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


@pytest.mark.parametrize("example", [None, 3, "images", [], [None], torch.tensor(1.0)])
def test_examples_of_other_types(example):
    with pytest.raises(TypeError, match=r"example: expected a tensor \(N, C, H, W\) or a non-empty sequence of tensors, got "):
        export(zoo.chain(4), example, "safetensors")


def test_images_of_other_types():
    network, images = zoo.chain(4), zoo.images((3, 8, 8), 2)
    exported = export(network, images, "safetensors")
    with pytest.raises(TypeError, match=r"images: expected a tensor \(N, C, H, W\) or batches of them, got NoneType"):
        compare(exported, network, None)


def test_a_network_beyond_the_limits_of_loading(monkeypatch):
    monkeypatch.setattr(load_pruned, "__defaults__", (4, 4))
    network, images = zoo.chain(4), zoo.images((3, 8, 8), 2)
    assert torch.equal(export(network, images, "safetensors").run(images), network(images))
