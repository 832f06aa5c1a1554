"""Training: deterministic, with the schedule it promises, and good enough."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import train_base
from safetensors import safe_open
from torch import nn

from prune_gym import tasks
from prune_gym.benchmark.command import run_command
from prune_gym.data import datasets as data
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import Normalization, Split
from prune_gym.tasks import Task
from prune_gym.training import train as training
from prune_gym.training.train import RECIPES, Recipe, seeded, sgd, warmup_cosine

ROOT = Path(__file__).parents[2]


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
    assert [len(x) for x in model.seen] == [4, 5] * 40
    epochs = [torch.cat(model.seen[i : i + 2]).flatten(1).argmax(1).tolist() for i in range(0, 80, 2)]
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


def test_accuracy_restores_the_mode_of_every_module_even_after_an_error(own_tiny_task: Task) -> None:
    model, split = own_tiny_task.model.train(), own_tiny_task.val
    model.norm_stem.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    assert set(modes.values()) == {True, False}
    training.accuracy(model, split)
    assert {name: module.training for name, module in model.named_modules()} == modes
    with pytest.raises(RuntimeError):
        training.accuracy(model, Split(split.images.repeat(1, 2, 1, 1), split.labels))
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_bad_arguments_of_accuracy(tiny_task: Task) -> None:
    model, split = tiny_task.model, tiny_task.val
    with pytest.raises(TypeError, match=r"^model: expected a Module, got NoneType\.$"):
        training.accuracy(None, split)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^data: expected a Split, got Tensor\.$"):
        training.accuracy(model, split.images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"size: expected an integer >= 1, got 0"):
        training.accuracy(model, split, 0)
    with pytest.raises(ValueError, match=r"labels: expected classes 0 \.\. 4, as many as the network has, got 1 \.\. 5"):
        training.accuracy(model, Split(split.images, split.labels + 1))
    with pytest.raises(TypeError, match=r"model: expected one tensor of logits \(N, classes\) .* shape \(120, 1, 12, 12\)"):
        training.accuracy(nn.Identity(), split)


def test_bad_arguments_of_training() -> None:
    split = squares()
    for arguments, message in (
        ((None, split, Recipe()), r"^model: expected a Module, got NoneType\.$"),
        ((Recorder(), split.images, Recipe()), r"^data: expected a Split, got Tensor\.$"),
        ((Recorder(), [], Recipe()), r"^data: expected a Split, got list\.$"),
        ((Recorder(), split, "paper"), r"^recipe: expected a Recipe, got str\.$"),
        ((nn.Sequential(Recorder(), nn.Unflatten(1, (1, 3))), split, Recipe()), r"^model: expected one tensor of logits "),
    ):
        with pytest.raises(TypeError, match=message):
            training.train(*arguments)
    for labels in (split.labels + 1, split.labels - 1, split.labels - 100):
        model = Recorder()
        with pytest.raises(ValueError, match=r"^labels: expected classes 0 \.\. 2, as many as the network has, got "):
            training.train(model, Split(split.images, labels), Recipe(batch_size=9))
        assert not model.linear.weight.any()  # before the first step


def test_what_follows_an_epoch_may_change_the_mode() -> None:
    modes = []

    class Noting(Recorder):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append(self.training)
            return super().forward(x)

    calls: list[nn.Module] = []
    model = Noting()
    training.train(model, squares(), Recipe(epochs=3), after_epoch=lambda model: calls.append(model.eval()))
    assert modes == [True] * 3
    assert calls == [model] * 3
    assert not model.training


def test_weights_that_are_not_finite_are_an_error() -> None:
    def spoil(model: nn.Module) -> None:
        spoil.epochs += 1  # type: ignore[attr-defined]
        if spoil.epochs == 2:  # type: ignore[attr-defined]
            model.linear.weight.data[1, 2] = torch.inf  # the loss was finite

    spoil.epochs = 0  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"training diverged in epoch 2, .*; try less than 0\.005, or larger batches than 32\."):
        training.train(Recorder(), squares(), Recipe(), after_epoch=spoil)


def test_adamw_is_a_plain_loop_with_smoothed_labels() -> None:
    split, recipe = squares(), Recipe(epochs=3, batch_size=4, learning_rate=0.02, weight_decay=0.1, label_smoothing=0.2, seed=5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    split = Split(split.images.double(), split.labels)
    twin = copy.deepcopy(model)
    training.train(model, split, recipe)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.02, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=6)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        for rows in torch.randperm(9, generator=generator).split([4, 5]):
            logs = twin(split.images[rows]).float().log_softmax(1)
            target = 0.8 * nn.functional.one_hot(split.labels[rows], 3) + 0.2 / 3
            optimizer.zero_grad()
            (-(target * logs).sum(1)).mean().backward()
            optimizer.step()
            schedule.step()
    assert torch.allclose(model[1].weight, twin[1].weight, rtol=1e-5, atol=1e-8)


def test_a_loss_of_ones_own_gets_logits_inputs_and_labels() -> None:
    split, seen = squares(), []
    model = Recorder()

    def loss(logits: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append((logits.shape, inputs.flatten(1).argmax(1) // 6, labels))
        return logits.square().mean()

    training.train(model, split, Recipe(epochs=1, batch_size=9, weight_decay=0.0), loss=loss)
    ((shape, brightest_row, labels),) = seen
    assert shape == (9, 3)
    assert torch.equal(brightest_row, labels)


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    training.train(Recorder(), squares(), Recipe(epochs=2), progress=False)
    assert capsys.readouterr().err == ""
    training.train(Recorder(), squares(), Recipe(epochs=2), progress=True, description="training squares")
    shown = capsys.readouterr().err
    assert "training squares" in shown
    assert "2/2" in shown


def test_divergence_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"learning_rate: training diverged in epoch \d+, .*; try less than 1e\+30"):
        training.train(Recorder(), squares(), Recipe(epochs=5, learning_rate=1e30, optimizer="sgd", warmup=0.0))


# ------------------------------------------------------------------------------------------------ recipes and schedules


def rates(steps: int, warmup: int, peak: float, floor: float, initial: float = 1e-3) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], initial)
    schedule = warmup_cosine(optimizer, steps, warmup, peak, floor)
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("initial", [1e-3, 7.0])
@pytest.mark.parametrize(("steps", "warmup"), [(20, 2), (10, 0), (1, 0), (100, 50)])
def test_the_rate_rises_linearly_and_falls_like_a_cosine(steps: int, warmup: int, initial: float) -> None:
    found = rates(steps, warmup, 0.1, 1e-6, initial)
    assert found[:warmup] == pytest.approx([0.1 * (i + 1) / warmup for i in range(warmup)])
    falling = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)  # PyTorch's own cosine
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(falling, steps - warmup, eta_min=1e-6)
    expected = []
    for _ in range(steps - warmup + 1):
        expected.append(falling.param_groups[0]["lr"])
        falling.step()
        cosine.step()
    assert found[warmup:] == pytest.approx(expected, rel=1e-6)
    assert max(found) == pytest.approx(0.1)
    assert found[-1] == pytest.approx(1e-6)


def test_bad_schedules() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    for warmup in (-1, 10):
        with pytest.raises(ValueError, match=rf"warmup_steps: expected at least 0 and fewer than the 10 steps, got {warmup}"):
            warmup_cosine(optimizer, 10, warmup, 0.1)
    for peak, floor in ((0.1, 0.2), (0.0, 0.0), (0.1, -1e-3)):
        with pytest.raises(ValueError, match=r"floor: expected a learning rate from 0 to the peak"):
            warmup_cosine(optimizer, 10, 1, peak, floor)


def test_the_recipe_of_the_paper() -> None:
    paper = RECIPES["paper"]
    assert (paper.epochs, paper.batch_size, paper.learning_rate, paper.weight_decay) == (250, 256, 0.1, 5e-4)
    assert (paper.optimizer, paper.warmup * paper.epochs, paper.label_smoothing) == ("sgd", 25, 0)
    optimizer = sgd([nn.Parameter(torch.zeros(1))], paper.weight_decay)
    assert (optimizer.defaults["momentum"], optimizer.defaults["weight_decay"]) == (0.9, 5e-4)
    assert training.MIN_LEARNING_RATE == 1e-6


def test_the_other_recipes() -> None:
    """Base networks, and results on them, are only comparable between versions as long as these stay."""
    assert Recipe() == Recipe(15, 32, 5e-3, 0.3, 0.1, 0, "adamw", 0.1)
    assert RECIPES["short"] == Recipe(30, 128, 0.1, 5e-4, 0.1, 0, "sgd", 0.2)
    with pytest.raises(FrozenInstanceError):
        Recipe().epochs = 1  # type: ignore[misc]


def test_only_gpus_mix_precisions_and_turn_tensors() -> None:
    cpu = torch.device("cpu")
    x = torch.rand(2, 3, 4, 4)
    with training.mixed_precision(cpu):
        assert nn.functional.conv2d(x, torch.rand(5, 3, 1, 1)).dtype == torch.float32
    assert training.layout_on(cpu) is torch.preserve_format
    assert training.layout_on(torch.device("cuda")) is torch.channels_last
    modes = []
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    model[0].register_forward_hook(lambda module, inputs, y: modes.append(module.weight.stride()))
    training.train(model, squares(), Recipe(epochs=1))
    assert modes == [(9, 9, 3, 1)]


def test_sgd_is_that_of_a_loop_written_out() -> None:
    """Four epochs of one batch, with the update rule of momentum and weight decay by hand."""
    split = squares()
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False)).double()
    split = Split(split.images.double(), split.labels)
    weight = model[1].weight.detach().clone()
    recipe = Recipe(
        epochs=4, batch_size=9, learning_rate=0.5, weight_decay=0.01, label_smoothing=0.0, optimizer="sgd", warmup=0.5
    )
    training.train(model, split, recipe)
    images, velocity = split.images.flatten(1), torch.zeros_like(weight)
    for rate in (0.25, 0.5, 0.5, 1e-6 + (0.5 - 1e-6) * (1 + math.cos(math.pi / 2)) / 2):
        wrong = (images @ weight.T).softmax(1) - nn.functional.one_hot(split.labels, 3)
        velocity = 0.9 * velocity + wrong.T @ images / 9 + 0.01 * weight
        weight = weight - rate * velocity
    assert torch.allclose(model[1].weight.detach(), weight, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, r"epochs: expected an integer >= 1, got 0"),
        ({"batch_size": 2.5}, r"batch_size: expected an integer >= 1, got 2.5"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a number in \(0, inf\), got 0.0"),
        ({"learning_rate": math.inf}, r"learning_rate: .* got inf"),
        ({"weight_decay": -1.0}, r"weight_decay: expected a number in \[0, inf\), got -1.0"),
        ({"label_smoothing": 1.0}, r"label_smoothing: expected a number in \[0, 1\), got 1.0"),
        ({"warmup": math.nan}, r"warmup: .* got nan"),
        ({"seed": -1}, r"seed: .* got -1"),
        ({"optimizer": "sdg"}, r"optimizer: expected one of adamw, sgd; got 'sdg'\. Did you mean 'sgd'\?"),
    ],
)
def test_bad_recipes(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**arguments)


def test_training_images_are_augmented_from_the_seed_and_normalised() -> None:
    pixels = torch.randint(0, 256, (9, 1, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(pixels, torch.arange(9) // 3, Normalization((0.5,), (0.25,)))
    augmentation, seen = Augmentation(2, True, 20.0), []
    for seed in (0, 0, 1):
        model = Recorder()
        training.train(model, split, Recipe(epochs=2, batch_size=4, seed=seed), augmentation=augmentation)
        seen.append(torch.cat(model.seen))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    generator = torch.Generator().manual_seed(0)
    expected = []
    for _ in range(2):
        for rows in torch.randperm(9, generator=generator).split([4, 5]):
            expected.append(split.inputs(rows, partial(augmentation, generator=generator)))
    assert torch.equal(seen[0], torch.cat(expected))
    assert torch.equal(split.images, pixels)


def test_seeded_draws_leave_the_generator_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    drawn = [torch.rand(1)]
    with seeded(7, torch.device("cpu")):
        inside = torch.rand(3)
    drawn.append(torch.rand(1))
    assert torch.equal(torch.cat(drawn), expected)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(3), inside)


def test_one_thread_and_deterministic_algorithms_only_within() -> None:
    torch.set_num_threads(2)
    try:
        with training.one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert not torch.backends.cudnn.deterministic
    with training.deterministic():
        assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.deterministic


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_is_good_repeats_itself_and_leaves_the_generators_alone() -> None:
    splits, weights = data.digits(), []
    for _ in range(2):
        model = tasks.build("digits_vgg", splits).cuda()
        before = torch.cuda.get_rng_state()
        training.train(model, splits.train.to(torch.device("cuda")), RECIPES["short"])
        assert torch.equal(torch.cuda.get_rng_state(), before)
        assert not torch.backends.cudnn.deterministic
        weights.append(model.state_dict())
    assert all(tensor.is_contiguous() for tensor in weights[0].values())
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights[0].values())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert training.accuracy(model, splits.test.to(torch.device("cuda"))) > 0.95


# ------------------------------------------------------------------------------------------------ the script


@pytest.mark.slow
def test_a_base_network_is_trained_written_and_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "base.safetensors"
    arguments = ["--network", "digits_resnet", "--data", "digits", "--epochs", "6", "--seed", "3", "--device", "cpu"]
    command = [sys.executable, str(ROOT / "scripts" / "train_base.py"), *arguments]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "training digits_resnet" in done.stderr
    task = tasks.make("digits_resnet", "digits", out)
    val, test = training.accuracy(task.model, task.val), training.accuracy(task.model, task.test)
    assert f"validation accuracy {val:.2%}, test accuracy {test:.2%}; written to {out}" in done.stdout
    assert test > 0.9
    with safe_open(out, "pt") as file:
        made = json.loads(json.loads(file.metadata()["prune_gym_weights"])["recipe"])
    assert (made["network"], made["data"], made["test_accuracy"]) == ("digits_resnet", "digits", test)
    assert (made["recipe"]["epochs"], made["recipe"]["seed"], made["recipe"]["optimizer"]) == (6, 3, "sgd")
    content = out.read_bytes()
    with pytest.raises(SystemExit, match=rf"^error: out: {out} exists; choose another name or delete it\.$"):
        run_command(train_base.main, train_base.Config, None, arguments=[*arguments, "--out", str(out)])
    assert out.read_bytes() == content
    twin = [*arguments, "--out", str(tmp_path / "twin.safetensors")]
    with monkeypatch.context() as patch:  # stopped when all epochs are done and nothing is written yet
        patch.setattr(train_base, "save_weights", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(SystemExit, match=r"^interrupted; "):
            run_command(train_base.main, train_base.Config, None, arguments=twin)
    assert not (tmp_path / "twin.safetensors").exists()
    with monkeypatch.context() as patch:
        patch.setattr(training.F, "cross_entropy", Mock(side_effect=AssertionError))  # nothing is trained again
        run_command(train_base.main, train_base.Config, None, arguments=twin)
    assert (tmp_path / "twin.safetensors").read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"base.safetensors", "twin.safetensors"}


def test_mistakes_on_the_command_line_are_one_line(tmp_path: Path) -> None:
    out = tmp_path / "base.safetensors"
    for arguments, message in (
        (["--data", "digit"], "data: expected one of digits, "),
        (["--data", "digits", "--network", "resnet57"], "name: expected one of "),
        (["--epochs", "0"], "epochs: expected an integer >= 1, got 0."),
        (["--device", "tpu"], "device: "),
    ):
        with pytest.raises(SystemExit, match=rf"^error: {message}.*$"):
            run_command(train_base.main, train_base.Config, None, arguments=[*arguments, "--out", str(out)])
    assert not out.exists()


def test_no_batch_is_a_single_image() -> None:
    order = torch.randperm(65)
    batches = training._batches(order, 32)
    assert [len(batch) for batch in batches] == [32, 33]
    assert torch.equal(torch.cat(batches), order)
    assert [len(batch) for batch in training._batches(order[:1], 32)] == [1]
    assert [len(batch) for batch in training._batches(order, 31)] == [31, 31, 3]
    assert [len(batch) for batch in training._batches(order[:5], 1)] == [1, 1, 1, 2]
