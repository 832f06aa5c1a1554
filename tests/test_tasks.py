"""Named tasks: base networks that are good, the same everywhere, and trained once; and the training itself."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prune_gym import data, tasks, training
from prune_gym.evaluation import Split
from prune_gym.tasks import TASKS, BaseTask, Task
from prune_gym.training import Recipe

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


@pytest.mark.parametrize("name", TASKS)
def test_base_networks_are_good(name: str) -> None:
    task = tasks.load(name)
    assert task.name == name
    assert not task.model.training
    assert training.accuracy(task.model, task.val) >= 0.97
    assert training.accuracy(task.model, task.test) >= 0.96
    assert {len(task.train), len(task.val), len(task.test)} == {997, 400}
    assert task.graph.max_sparsity > 0.9
    assert len(list(Path(os.environ["PRUNE_GYM_CACHE"]).glob(f"{name}-{'?' * 16}.safetensors"))) == 1


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
    monkeypatch.setitem(TASKS, QUICK, BaseTask("digits_mobilenet", data.digits, Recipe(epochs=1, seed=1)))
    reload()
    first, second = cache.iterdir()
    assert first.read_bytes() != second.read_bytes()


def test_a_damaged_cache_is_an_error_that_names_the_file(cache: Path) -> None:
    reload()
    (path,) = cache.iterdir()
    good = path.read_bytes()
    for damaged in (b"", b"\0" * 100, good[:-1], good[: len(good) // 2], b"x" + good[1:]):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"the cached base network of task 'digits-mobilenet' is damaged .*delete the file"
        ) as e:
            reload()
        assert str(e.value).startswith(f"{path}: ")
    path.write_bytes(good.replace(b"stem.conv.weight", b"item.conv.weight"))  # whole, but not of this network
    with pytest.raises(ValueError, match=r"(?s)is damaged .*stem\.conv\.weight.*delete the file"):
        reload()
    path.unlink()
    reload()
    assert path.read_bytes() == good


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


def test_calibration_is_the_first_hundred_training_images(tiny_task: Task) -> None:
    assert len(tiny_task.calibration) == 100
    assert torch.equal(tiny_task.calibration.images, tiny_task.train.images[:100])
    assert torch.equal(tiny_task.calibration.labels, tiny_task.train.labels[:100])
    assert tiny_task.graph is tiny_task.graph
    assert tiny_task.graph.groups[0].name == "stem"


# ------------------------------------------------------------------------------------------------ training


class Recorder(nn.Module):
    """A linear classifier that notes the images it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(36, 3), []
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(x.clone())
        return self.linear(x.flatten(1))


def squares() -> Split:
    """Nine images of one bright pixel each; its row is the label."""
    images = torch.zeros(9, 1, 6, 6)
    for i in range(9):
        images[i, 0, i // 3, i % 3] = 1
    return Split(images, torch.arange(9) // 3)


def test_training_sees_every_image_once_an_epoch() -> None:
    model, split = Recorder().eval(), squares()
    training.train(model, split, Recipe(epochs=40, batch_size=4, learning_rate=0.1, weight_decay=0.0))
    assert not model.training
    assert [len(x) for x in model.seen] == [4, 4, 1] * 40
    epochs = [torch.cat(model.seen[i : i + 3]).flatten(1).argmax(1).tolist() for i in range(0, 120, 3)]
    assert all(sorted(epoch) == [0, 1, 2, 6, 7, 8, 12, 13, 14] for epoch in epochs)
    assert epochs[0] != epochs[1]  # shuffled anew
    assert torch.equal(split.images, squares().images)
    assert training.accuracy(model, split) == 1


def test_training_depends_on_its_seed_alone() -> None:
    def trained(seed: int, globally: int) -> torch.Tensor:
        torch.manual_seed(globally)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3))
        nn.init.zeros_(model[2].weight)
        nn.init.zeros_(model[2].bias)
        state = torch.random.get_rng_state()
        training.train(model, squares(), Recipe(epochs=2, seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
        return model[2].weight.detach()

    assert torch.equal(trained(0, 5), trained(0, 6))
    assert not torch.equal(trained(0, 5), trained(1, 5))


def test_accuracy_counts_in_evaluation_mode_and_restores_the_mode(own_tiny_task: Task) -> None:
    model, split = own_tiny_task.model, own_tiny_task.val
    with torch.no_grad():
        correct = sum(int(model(x[None]).argmax()) == y for x, y in zip(split.images, split.labels.tolist(), strict=True))
    for mode in (False, True):
        model.train(mode)
        assert training.accuracy(model, split, batch_size=7) == training.accuracy(model, split) == correct / 120
        assert model.training is mode
    assert int(model.norm_stem.num_batches_tracked) == 1  # as it was made


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    training.train(Recorder(), squares(), Recipe(epochs=2), progress=False)
    assert capsys.readouterr().err == ""
    training.train(Recorder(), squares(), Recipe(epochs=2), progress=True, description="training squares")
    shown = capsys.readouterr().err
    assert "training squares" in shown
    assert "2/2" in shown
