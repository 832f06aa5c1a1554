"""Weights from files: of this project, of others, damaged, and not meant for the network."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from prune_gym import models, tasks
from prune_gym.training import train as training
from prune_gym.training.weights import HEADER, load_weights, save_weights


def network(seed: int = 0, classes: int = 3) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_was_saved_is_loaded_and_says_how_it_was_made(tmp_path: Path) -> None:
    path, model, other = tmp_path / "w.safetensors", network(0), network(1).train()
    save_weights(path, model, {"epochs": 3, "why": "naïve"})
    load_weights(other, path)
    assert same(tensors(other), tensors(model))
    assert other.training
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[HEADER])
    assert json.loads(header["recipe"]) == {"epochs": 3, "why": "naïve"}
    content = path.read_bytes()
    save_weights(path, model, {"why": "naïve", "epochs": 3})
    assert path.read_bytes() == content


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path, model = tmp_path / "w.safetensors", network(0)
    save_weights(path, model, {"epochs": 3})
    good, expected = path.read_bytes(), tensors(model)
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        victim = network(1)
        message = ""
        try:
            load_weights(victim, path)
        except ValueError as error:
            message = str(error)
        # without a message it is the name under which the digest is found: the weights are right, but nobody could check them
        assert same(tensors(victim), tensors(network(1)) if message else expected)
        assert message.startswith(f"{path}: ") or not message


def test_files_of_others(tmp_path: Path) -> None:
    path, model = tmp_path / "w.safetensors", network(0)
    save_file(tensors(model), path)
    victim = network(1)
    load_weights(victim, path)
    assert same(tensors(victim), tensors(model))
    counted = network(1)
    counted[1].num_batches_tracked += 7
    save_file({name: tensor for name, tensor in tensors(model).items() if "num_batches" not in name}, path)
    load_weights(counted, path)
    assert counted[1].num_batches_tracked == 7
    del counted[1].num_batches_tracked
    assert all(torch.equal(tensor, tensors(model)[name]) for name, tensor in counted.state_dict().items())
    save_file({name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors(model).items()}, path)
    load_weights(victim, path)
    assert victim[0].weight.dtype == torch.float32
    assert torch.equal(victim[0].weight, model[0].weight.half().float())


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    path, found = tmp_path / "w.safetensors", tensors(network(0, classes=5))
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        found[f"module.{name}"] = found.pop(name)
    found["1.running_mean"] = torch.zeros(4, dtype=torch.int64)
    save_file(found, path)
    victim = network(1)
    with pytest.raises(ValueError) as e:
        load_weights(victim, path)
    assert str(e.value) == (
        f"{path}: expected the 9 tensors of the network, but of those in the file there are "
        "4 missing: 0.weight, 0.bias, 1.weight and 1 more; "
        "4 unexpected: module.0.bias, module.0.weight, module.1.bias and 1 more; "
        "3 of another shape or kind: 1.running_mean (integer (4,) instead of floating-point (4,)), "
        "3.weight (floating-point (5, 4) instead of floating-point (3, 4)), "
        "3.bias (floating-point (5,) instead of floating-point (3,)). "
        "Are they weights of this network, with as many classes?"
    )
    assert same(tensors(victim), tensors(network(1)))


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for write in (lambda bomb: path.write_bytes(pickle.dumps(bomb)), lambda bomb: torch.save(bomb, path)):
        write(Bomb(tmp_path / "exploded"))
        with pytest.raises(ValueError, match=r"w\.pth: damaged, or not a safetensors file .* becomes one with"):
            load_weights(network(), path)
    assert not (tmp_path / "exploded").exists()


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=r": no such file; expected a safetensors file of weights"):
            load_weights(network(), path)


def test_arguments_of_other_types(tmp_path: Path) -> None:
    path, model = tmp_path / "w.safetensors", network()
    for act in (lambda: save_weights(None, model, {}), lambda: load_weights(model, None)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="path: expected a path, got NoneType"):
            act()
    for act in (lambda: save_weights(path, None, {}), lambda: load_weights(None, path)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got NoneType"):
            act()
    with pytest.raises(TypeError, match=r"recipe: expected a JSON object \(a dict\), got NoneType"):
        save_weights(path, model, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"recipe: expected what JSON can hold, but .* not JSON serializable"):
        save_weights(path, model, {"a": object()})
    with pytest.raises(ValueError, match="recipe: expected what JSON can hold, but "):
        save_weights(path, model, {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_header_that_is_no_object(tmp_path: Path) -> None:
    path, model = tmp_path / "w.safetensors", network()
    for text in ("[1]", "null", "{", "[" * 100_000, '{"digest": NaN}'):
        save_file(tensors(model), path, {HEADER: text})
        with pytest.raises(ValueError, match=r"w\.safetensors: damaged, or not a safetensors file"):
            load_weights(network(), path)


REFERENCE = os.environ.get("PRUNE_GYM_REFERENCE")


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE, reason="PRUNE_GYM_REFERENCE names no folder with cifar10.npz and public weights")
@pytest.mark.parametrize(("depth", "correct"), [(20, 9173), (56, 9339)])
def test_public_weights_have_their_published_accuracy(depth: int, correct: int) -> None:
    """Those of github.com/akamaster/pytorch_resnet_cifar10, as ``resnet20_cifar10.safetensors`` and so on."""
    folder = Path(str(REFERENCE))
    task = tasks.make(f"resnet{depth}_a", f"npz:{folder / 'cifar10.npz'}", folder / f"resnet{depth}_cifar10.safetensors")
    assert isinstance(task.model, type(models.create("resnet20_a")))
    assert round(training.accuracy(task.model, task.test) * 10_000) == correct
