"""Tasks: base networks that are good, the same everywhere, and trained once; and tasks of given weights."""

from __future__ import annotations

import copy
import errno
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prune_gym import models, tasks, trace
from prune_gym.data import datasets as data
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import Split
from prune_gym.graph.channel_graph import ChannelGraph
from prune_gym.graph.verify import VerificationError
from prune_gym.tasks import TASKS, BaseTask, Task
from prune_gym.training import train as training
from prune_gym.training.train import Recipe
from prune_gym.training.weights import save_weights

QUICK = "digits-mobilenet"  # it has dropout, so that its training draws random numbers


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder that does not exist yet, and recipes of a single epoch."""
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setitem(TASKS, QUICK, BaseTask("digits_mobilenet", data.digits, Recipe(epochs=1)))
    tasks._loaded.clear()
    yield tmp_path / "not" / "yet"
    tasks._loaded.clear()


def reload() -> Task:
    """The task as another process would get it."""
    tasks._loaded.clear()
    return tasks.load(QUICK)


# ------------------------------------------------------------------------------------------------ base networks


@pytest.mark.parametrize(("name", "seed"), [*product(TASKS, (0, 1)), pytest.param(QUICK, 2, marks=pytest.mark.slow)])
def test_base_networks_are_good(name: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come with the package, and others, which are trained."""
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    task = tasks.load(name, seed=seed)
    assert task.name == (f"{name}-{seed}" if seed else name)
    assert not task.model.training
    assert training.accuracy(task.model, task.val) >= 0.97
    assert training.accuracy(task.model, task.test) >= 0.96
    assert {len(task.train), len(task.val), len(task.test)} == {997, 400}
    assert task.graph.max_sparsity > 0.9
    assert len(list(tmp_path.glob("cache/*"))) == (seed == 2)


@pytest.mark.slow
def test_processes_that_train_the_same_network_at_once_agree(tmp_path: Path) -> None:
    code = (
        "from prune_gym import tasks; from prune_gym.data.datasets import digits; from prune_gym.training.train import Recipe\n"
        f"tasks.TASKS[{QUICK!r}] = tasks.BaseTask('digits_mobilenet', digits, Recipe(epochs=1))\n"
        f"print(tasks.load({QUICK!r}).fingerprints['base network'])"
    )
    environment = os.environ | {"PRUNE_GYM_CACHE": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    first, second = (process.communicate()[0] for process in both)
    assert first == second != b""
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_base_training_is_reproducible_and_leaves_the_generators_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = []
    for seed in (1, 2):
        monkeypatch.setenv("PRUNE_GYM_CACHE", str(cache / str(seed)))
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # the global generator must not matter
        before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        reload()
        assert torch.equal(torch.random.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert np.random.get_state()[1].tolist() == before[2]  # noqa: NPY002
        (file,) = (cache / str(seed)).iterdir()
        contents.append((file.name, file.read_bytes()))
    assert contents[0] == contents[1]


def test_the_second_load_reads_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cache.exists()
    first = reload()
    monkeypatch.setattr(tasks, "train", lambda *_: pytest.fail("trained again"))
    second = reload()
    assert second.model is not first.model
    assert not second.model.training
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert len(list(cache.iterdir())) == 1


def test_another_recipe_is_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reload()
    monkeypatch.setitem(TASKS, QUICK, BaseTask("digits_mobilenet", data.digits, Recipe(epochs=1, weight_decay=0.2)))
    reload()
    first, second = cache.iterdir()
    assert first.read_bytes() != second.read_bytes()


def test_another_seed_is_another_network_on_the_same_splits(cache: Path) -> None:
    first, second = tasks.load(QUICK), tasks.load(QUICK, seed=1)
    assert (first.name, second.name) == (QUICK, f"{QUICK}-1")
    assert first.fingerprints["data"] == second.fingerprints["data"]
    assert first.fingerprints["base network"] != second.fingerprints["base network"]
    assert tasks.load(QUICK, seed=1) is second
    assert len(list(cache.iterdir())) == 2
    with pytest.raises(ValueError, match=r"seed: expected an integer in .*, got -1"):
        tasks.load(QUICK, seed=-1)


def test_a_damaged_cache_is_an_error_that_names_the_file(cache: Path) -> None:
    reload()
    (path,) = cache.iterdir()
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-1000] ^= 1
    renamed = good.replace(b"stem.conv.weight", b"item.conv.weight")
    for damaged in (b"", b"\0" * 100, good[:-1], good[: len(good) // 2], b"x" + good[1:], bytes(flipped), renamed):
        path.write_bytes(damaged)
        message = r"damaged.* It is the cached base network of task 'digits-mobilenet': delete it to make it anew\."
        with pytest.raises(ValueError, match=message) as e:
            reload()
        assert str(e.value).startswith(f"{path}: ")
    save_weights(path, models.create("digits_vgg"), {})  # whole, but not of this network
    with pytest.raises(ValueError, match=r"missing: stem\.conv\.weight.* delete it to make it anew"):
        reload()
    path.unlink()
    reload()
    assert path.read_bytes() == good


def test_fingerprints_tell_apart_what_is_told_apart(
    tiny_task: Task, own_tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert own_tiny_task.fingerprints == tiny_task.fingerprints
    images = tiny_task.val.images.clone()
    images[3, 0, 4, 5] += 1e-3
    other = replace(tiny_task, val=Split(images, tiny_task.val.labels))
    assert other.fingerprints["data"] != tiny_task.fingerprints["data"]
    assert other.fingerprints["base network"] == tiny_task.fingerprints["base network"]
    for part in ("train", "val", "test"):
        labels = getattr(tiny_task, part).labels.clone()
        labels[-1] = (labels[-1] + 1) % 5
        other = replace(tiny_task, **{part: Split(getattr(tiny_task, part).images, labels)})
        assert other.fingerprints["data"] != tiny_task.fingerprints["data"]
    with torch.no_grad():
        own_tiny_task.model.classifier.bias[0] += 1e-3
    assert replace(own_tiny_task).fingerprints["base network"] != tiny_task.fingerprints["base network"]
    assert set(tiny_task.fingerprints) == {"base network", "data", "augmentation"}
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "CALIBRATION_IMAGES", 99)
        fewer = replace(tiny_task)
        assert {name for name, value in fewer.fingerprints.items() if value != tiny_task.fingerprints[name]} == {"data"}
    flipped = replace(tiny_task, augmentation=Augmentation())
    assert flipped.fingerprints["augmentation"] != tiny_task.fingerprints["augmentation"]


def test_tasks_are_told_apart_by_identity(tiny_task: Task) -> None:
    assert hash(tiny_task) != hash(replace(tiny_task))
    assert replace(tiny_task) != tiny_task
    assert len({tiny_task, tiny_task, replace(tiny_task)}) == 2
    with pytest.raises(FrozenInstanceError):
        tiny_task.name = "other"  # type: ignore[misc]


def test_progress_and_downloads_are_asked_for(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks.load(QUICK)
    assert capsys.readouterr().err == ""
    (path,) = cache.iterdir()
    path.unlink()
    tasks._loaded.clear()
    tasks.load(QUICK, progress=True)
    assert "training digits_mobilenet once" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(tasks, "load_data", lambda name, download: asked.append((name, download)) or data.digits())
    save_weights(tmp_path / "w.safetensors", models.create("digits_vgg"), {})
    tasks.make("digits_vgg", "digits", tmp_path / "w.safetensors")
    tasks.make("digits_vgg", "digits", tmp_path / "w.safetensors", download=True)
    assert asked == [("digits", False), ("digits", True)]


def test_bad_tasks(tiny_task: Task) -> None:
    for name in ("name", "model", "train", "val", "test", "augmentation"):
        with pytest.raises(TypeError, match=rf"^{name}: expected an? .*, got list\.$"):
            replace(tiny_task, **{name: []})
    smaller = Split(tiny_task.val.images[..., 1:], tiny_task.val.labels)
    with pytest.raises(ValueError, match=r"test: expected images like those of train, .*\(1, 12, 12\), .*, got .*\(1, 12, 11\)"):
        replace(tiny_task, test=smaller)


def test_unknown_task() -> None:
    with pytest.raises(
        ValueError, match=r"task: expected one of digits, .*; got 'digits-resent'\. Did you mean 'digits-resnet'\?"
    ):
        tasks.load("digits-resent")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PRUNE_GYM_CACHE", "~/chosen")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tasks.cache_folder() == tmp_path / "home" / "chosen"
    monkeypatch.delenv("PRUNE_GYM_CACHE")
    assert tasks.cache_folder() == tmp_path / "xdg" / "prune_gym"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tasks.cache_folder() == tmp_path / "home" / ".cache" / "prune_gym"


def test_calibration_images_are_stratified(tiny_task: Task) -> None:
    calibration = tiny_task.calibration
    assert len(calibration) == 100
    available, drawn = (torch.bincount(split.labels, minlength=5) for split in (tiny_task.train, calibration))
    assert (drawn <= available).all()
    most = int(drawn.max())
    assert all(count >= most - 1 or count == every for count, every in zip(drawn.tolist(), available.tolist(), strict=True))
    sample = tiny_task.train.sample(100, seed=0)
    assert torch.equal(calibration.images, sample.images)
    assert torch.equal(calibration.labels, sample.labels)
    assert torch.equal(tiny_task.calibration.images, calibration.images)


def test_sorted_images_are_calibrated_on_all_classes(tiny_task: Task) -> None:
    order = tiny_task.train.labels.sort(stable=True).indices
    by_class = replace(tiny_task, train=tiny_task.train.subset(order))
    assert by_class.train.labels[:20].tolist() == [0] * 20
    drawn = torch.bincount(by_class.calibration.labels)
    assert torch.equal(drawn.sort()[0], torch.bincount(tiny_task.calibration.labels).sort()[0])
    assert drawn.min() > 10


def test_the_graph_is_traced_once(tiny_task: Task) -> None:
    assert tiny_task.graph is tiny_task.graph
    assert tiny_task.graph.groups[0].name == "stem"


# ------------------------------------------------------------------------------------------------ what a task checks


def test_a_task_is_verified_once_on_a_few_training_images(own_tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr(tasks, "verify", lambda *arguments: calls.append(arguments))
    task = replace(own_tiny_task)
    ((model, graph, images),) = calls
    assert model is own_tiny_task.model
    assert graph is task.graph
    assert torch.equal(images, task.train.images[:2])
    assert task.fingerprints
    assert task.calibration
    pickle.loads(pickle.dumps(task))
    assert len(calls) == 1


def test_a_network_that_differs_from_its_trace_is_no_task(own_tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    def traced(model: nn.Module, images: torch.Tensor) -> ChannelGraph:
        changed = copy.deepcopy(model)
        changed.forward = lambda x: type(model).forward(changed, x) + x.mean()  # type: ignore[method-assign]
        return trace(changed, images)

    monkeypatch.setattr(tasks, "trace", traced)
    with pytest.raises(VerificationError):
        replace(own_tiny_task)


def test_making_a_task_changes_nothing(own_tiny_task: Task) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = own_tiny_task.model.eval()
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("again", torch.zeros(1), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.again += 1
            return self.inner(x)

    model = Counting().train()
    model.inner.norm_stem.eval()
    before, images = copy.deepcopy(dict([*model.named_parameters(), *model.named_buffers()])), own_tiny_task.train.images.clone()
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.random.get_rng_state()
    task = replace(own_tiny_task, model=model)
    assert task.model is model
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert torch.equal(tensor, before[name]), name
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(task.train.images, images)


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_images_and_labels_that_are_no_data(tiny_task: Task, part: str) -> None:
    split = getattr(tiny_task, part)
    for bad in (math.nan, math.inf, -math.inf):
        images = split.images.clone()
        images[-1, 0, 3, 4] = bad
        with pytest.raises(ValueError, match=rf"^{part}: expected finite numbers as pixels, .* in image {len(images) - 1}\.$"):
            replace(tiny_task, **{part: Split(images, split.labels)})
    for label in (5, -1, -100):
        labels = split.labels.clone()
        labels[-1] = label
        low, high = (min(label, 0), max(label, 4))
        message = rf"^labels: expected classes 0 \.\. 4, .*, got {low} \.\. {high} in the {part} images\.$"
        with pytest.raises(ValueError, match=message):
            replace(tiny_task, **{part: Split(split.images, labels)})


def test_models_that_are_no_classifiers_of_the_images(tiny_task: Task) -> None:
    class Wrapped(nn.Module):
        def __init__(self, change: Callable[[torch.Tensor], object]):
            super().__init__()
            self.inner, self.change = tiny_task.model, change

        def forward(self, x: torch.Tensor) -> object:
            return self.change(self.inner(x))

    for change, got in ((lambda y: (y, y), "tuple"), (lambda y: y[:, :, None], r"a tensor of shape \(1, 5, 1\)")):
        with pytest.raises(TypeError, match=rf"model: expected one tensor of logits \(N, classes\) .*, got {got}"):
            replace(tiny_task, model=Wrapped(change))

    def doubled(split: Split) -> Split:
        return Split(split.images.double(), split.labels)

    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.Flatten(), nn.Linear(400, 5))
    parts = {part: doubled(getattr(tiny_task, part)) for part in ("train", "val", "test")}
    with pytest.raises(ValueError, match=r"images?\b.*(torch\.float64|\(1, 1, 12, 12\))"):
        replace(tiny_task, model=model, **parts)


def test_the_space_on_the_disk_is_checked_before_the_training(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, int]] = []

    def full(path: Path, bytes_needed: int) -> None:
        asked.append((path, bytes_needed))
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "check_writable", full)
        patch.setattr(tasks, "train", lambda *_: pytest.fail("trained for nothing"))
        with pytest.raises(OSError, match="No space left on device"):
            reload()
    reload()
    ((path, size),) = asked
    assert list(cache.iterdir()) == [path]
    assert path.stat().st_size <= size <= path.stat().st_size + 2**17


def test_base_training_leaves_gpus_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("manual_seed", "manual_seed_all"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("a GPU was seeded"))
    assert reload().name == QUICK


# ------------------------------------------------------------------------------------------------ given weights


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """A data set of 40 random colour images in two classes."""
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for part, n in (("train", 30), ("test", 10))}
    arrays |= {f"y_{part}": np.arange(n) % 2 for part, n in (("train", 30), ("test", 10))}
    np.savez(tmp_path / "photos.npz", **arrays)
    return f"npz:{tmp_path / 'photos.npz'}"


def test_a_task_of_given_weights(photos: str, tmp_path: Path) -> None:
    model = models.create("resnet20", num_classes=2)
    save_weights(tmp_path / "w.safetensors", model, {})
    task = tasks.make("resnet20", photos, tmp_path / "w.safetensors")
    assert task.name == "resnet20-photos"
    assert not task.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(task.model.state_dict()[name], tensor), name
    splits = data.load(photos)
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(task, part).images, getattr(splits, part).images)
    assert task.augmentation == Augmentation()
    assert task.calibration.images.dtype == torch.float32
    assert torch.equal(task.calibration.images, task.train.inputs())
    assert task.graph.groups[0].name == "conv1"


def test_a_task_of_the_digits_is_not_augmented(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", models.create("digits_vgg"), {})
    assert tasks.make("digits_vgg", "digits", tmp_path / "w.safetensors").augmentation is None
    assert tasks.load("digits").augmentation is None


def test_a_task_needs_weights_that_fit(photos: str, tmp_path: Path) -> None:
    command = rf"python scripts/train_base.py --network resnet20 --data {photos} --out weights.safetensors"
    with pytest.raises(ValueError, match=rf"weights: expected a safetensors file .*'resnet20' for '{photos}'; .*{command}"):
        tasks.make("resnet20", photos)
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors: no such file"):
        tasks.make("resnet20", photos, tmp_path / "none.safetensors")
    save_weights(tmp_path / "w.safetensors", models.create("resnet20", num_classes=10), {})
    with pytest.raises(ValueError, match=r"linear\.weight \(floating-point \(10, 64\) instead of floating-point \(2, 64\)\)"):
        tasks.make("resnet20", photos, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"name: expected one of vgg11, .* got 'resnet2'"):
        tasks.make("resnet2", photos, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"data: expected one of digits, .* Did you mean 'digits'"):
        tasks.make("resnet20", "digit", tmp_path / "w.safetensors")


def test_a_network_has_to_take_the_images() -> None:
    with pytest.raises(ValueError, match=r"network: 'resnet20' cannot take images of shape \(1, 8, 8\) "):
        tasks.build("resnet20", data.digits())
    with pytest.raises(ValueError, match=r"in_channels: expected 3 for 'torchvision/resnet18'"):
        tasks.build("torchvision/resnet18", data.digits())


def test_building_wants_a_data_set() -> None:
    with pytest.raises(TypeError, match=r"^splits: expected Splits, got NoneType\.$"):
        tasks.build("digits_vgg", None)  # type: ignore[arg-type]


def test_building_depends_on_the_seed_alone() -> None:
    first, again, other = (tasks.build("digits_vgg", data.digits(), seed).state_dict() for seed in (1, 1, 2))
    torch.rand(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_number_of_threads_does_not_matter(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for threads in (1, 2):
        monkeypatch.setenv("PRUNE_GYM_CACHE", str(cache / str(threads)))
        torch.set_num_threads(threads)
        try:
            reload()
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
        (file,) = (cache / str(threads)).iterdir()
        files.append((file.name, file.read_bytes()))
    assert files[0] == files[1]
