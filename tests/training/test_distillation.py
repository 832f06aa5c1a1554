"""Post-training against closed forms and a loop in plain PyTorch, and what environments make of it."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import cos, pi

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from prune_gym import compact
from prune_gym.agents.export_run import ExportConfig
from prune_gym.benchmark.fidelity import FidelityConfig
from prune_gym.benchmark.matched import MatchedConfig
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import Split
from prune_gym.envs import PruningEnv
from prune_gym.simulation.recipes import Network, Weights
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.weight_store import WeightStore
from prune_gym.surgery.slicing import slice_tensors
from prune_gym.training import distillation as posttraining
from prune_gym.training import train as training
from prune_gym.training.distillation import PostTraining, distillation_loss
from prune_gym.training.train import Recipe, accuracy

SETTINGS = PostTraining(epochs=2, period=2, learning_rate=0.01, batch_size=50, start="cut")


def trainer_of(task):
    return WeightStore(task, SETTINGS, ResultCache())


@pytest.fixture
def trainer(own_tiny_task):
    return trainer_of(own_tiny_task)


@pytest.fixture
def env(tiny_task):
    made = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, posttraining=SETTINGS, device="cpu")
    made.reset(seed=0)
    return made


def small_network(trainer, share=0.6):
    rng = np.random.default_rng(0)
    kept = [rng.random(group.width) < share for group in trainer.graph.groups]
    for array in kept:
        array[0] = True
    return Network(trainer.graph.architecture(kept))


# ------------------------------------------------------------------------------------------------ the loss


def test_loss_is_the_sum_written_out():
    rng = np.random.default_rng(0)
    student, teacher, labels = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), np.array([0, 2, 1, 1])
    mu, temperature = 0.3, 2.5
    total = 0.0
    for s, t, label in zip(student, teacher, labels, strict=True):
        ps, pt = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x in (s, t))
        hard = -np.log(np.exp(s[label]) / np.exp(s).sum())
        total += mu * hard + (1 - mu) * temperature**2 * (pt * np.log(pt / ps)).sum()
    found = distillation_loss(*map(torch.from_numpy, (student, teacher, labels)), mu, temperature)
    assert float(found) == pytest.approx(total / 4, abs=1e-12)


def test_a_student_like_its_teacher_only_learns_from_labels():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1])
    cross_entropy = nn.functional.cross_entropy(logits, labels)
    assert float(distillation_loss(logits, logits, labels, 0.25, 2.0)) == pytest.approx(0.25 * float(cross_entropy), abs=1e-12)


# ------------------------------------------------------------------------------------------------ training


def test_training_is_a_plain_loop(own_tiny_task):
    """Without dropout the only randomness is the order of the images."""
    own_tiny_task.model.dropout.p = 0.0
    trainer = trainer_of(replace(own_tiny_task))
    student = small_network(trainer)
    weights = Weights(student, Network(trainer.graph.full()))
    found = trainer.tensors(weights)

    task = trainer.task
    network = compact(task.model, trainer.graph, student.architecture, form="program").train()
    teacher = copy.deepcopy(task.model).eval()
    generator = torch.Generator().manual_seed(int(weights.version[:8], 16))
    optimizer = SGD(network.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4)
    best, best_accuracy, step = None, -1.0, 0
    for _ in range(2):
        for rows in torch.randperm(120, generator=generator).split(50):
            # 6 steps in all; a tenth of them, rounded down, is no warm-up
            optimizer.param_groups[0]["lr"] = 1e-6 + (0.01 - 1e-6) * (1 + cos(pi * step / 6)) / 2
            images, labels = task.train.images[rows], task.train.labels[rows]
            with torch.no_grad():
                target = teacher(images)
            optimizer.zero_grad()
            distillation_loss(network(images), target, labels, 0.25, 2.0).backward()
            optimizer.step()
            step += 1
        if accuracy(network, task.val) > best_accuracy:
            best, best_accuracy = copy.deepcopy(network.state_dict()), accuracy(network, task.val)
    sliced = slice_tensors(found, trainer.graph.units, student.architecture)
    for name, tensor in best.items():
        torch.testing.assert_close(sliced[name], tensor, rtol=1e-5, atol=1e-6)
    assert trainer.val_accuracy(Network(student.architecture, weights)) == best_accuracy


def test_the_best_epoch_is_kept(trainer, monkeypatch):
    seen = []
    monkeypatch.setattr(
        posttraining, "accuracy", lambda model, data: seen.append(copy.deepcopy(model.state_dict())) or FAKE[len(seen)]
    )
    FAKE = {1: 0.4, 2: 0.7, 3: 0.7, 4: 0.5}
    trainer.settings = replace(SETTINGS, epochs=4)
    student = small_network(trainer)
    network = Network(student.architecture, Weights(student, Network(trainer.graph.full())))
    assert trainer.val_accuracy(network) == 0.7
    kept = trainer.network(network).state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in seen[1].items())
    assert not all(torch.equal(kept[name], tensor) for name, tensor in seen[3].items())


class Noting(nn.Module):
    """A linear classifier that notes its inputs and its mode, and counts forward passes in a buffer that is not saved."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(144, 5), []
        self.register_buffer("passes", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen.append((x.clone(), self.training))
        self.passes += 1
        return self.linear(x.flatten(1))


def test_teacher_and_student_see_the_same_augmented_images(tiny_task):
    augmentation = Augmentation(2, True, 10.0)
    student, teacher = Noting(), Noting().train()
    before = copy.deepcopy(teacher.state_dict())
    settings = replace(SETTINGS, epochs=1, batch_size=50)
    posttraining.distill(student, teacher, tiny_task.train, tiny_task.val, settings, 7, augmentation)
    learned = [x for x, trains in student.seen if trains]
    assert [len(x) for x in learned] == [50, 50, 20]
    assert not any(trains for _, trains in teacher.seen)
    generator = torch.Generator().manual_seed(7)
    order = torch.randperm(120, generator=generator).split(50)
    expected = [tiny_task.train.inputs(rows, partial(augmentation, generator=generator)) for rows in order]
    assert torch.equal(torch.cat(learned), torch.cat(expected))
    assert torch.equal(torch.cat([x for x, _ in teacher.seen]), torch.cat(expected))
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_without_augmentation_the_images_are_as_they_are_and_nothing_is_shown(tiny_task, capsys):
    student = Noting()
    posttraining.distill(student, Noting(), tiny_task.train, tiny_task.val, replace(SETTINGS, epochs=1), 0)
    learned = torch.cat([x for x, trains in student.seen if trains])
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    assert torch.equal(learned, tiny_task.train.images[order])
    assert capsys.readouterr().err == ""


def test_the_first_of_the_best_epochs_is_kept_whole(tiny_task, monkeypatch):
    student, seen = Noting(), []
    values = iter([0.2, 0.6, 0.6, 0.3])

    def fake(model, data):
        assert data is tiny_task.val
        seen.append((copy.deepcopy(model.linear.weight.detach()), int(model.passes)))
        return next(values)

    monkeypatch.setattr(posttraining, "accuracy", fake)
    settings = replace(SETTINGS, epochs=4, batch_size=60)
    assert posttraining.distill(student, Noting(), tiny_task.train, tiny_task.val, settings, 0) == 0.6
    assert [passes for _, passes in seen] == [2, 4, 6, 8]
    assert int(student.passes) == 4
    assert torch.equal(student.linear.weight, seen[1][0])
    assert not torch.equal(seen[1][0], seen[2][0])


def test_an_epoch_that_gets_everything_wrong_is_kept_before_none(tiny_task, monkeypatch):
    monkeypatch.setattr(posttraining, "accuracy", lambda model, data: 0.0)
    student = Noting()
    before = student.linear.weight.detach().clone()
    assert posttraining.distill(student, Noting(), tiny_task.train, tiny_task.val, replace(SETTINGS, epochs=1), 0) == 0
    assert not torch.equal(student.linear.weight, before)


def test_no_epochs_change_nothing(tiny_task):
    student, teacher = Noting().requires_grad_(False), Noting()
    before, random = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    found = posttraining.distill(student, teacher, tiny_task.train, tiny_task.val, PostTraining(epochs=0), 0)
    assert found == accuracy(student, tiny_task.val)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_labels_and_teacher_are_weighed_by_mu(tiny_task):
    """One step of plain SGD from zero weights, so the step is the gradient of the loss at uniform predictions."""
    settings = PostTraining(epochs=1, learning_rate=1.0, batch_size=120, weight_decay=0.0, mu=0.3, temperature=3.0)
    student, teacher = Noting().double(), Noting().double()
    for parameter in student.parameters():
        nn.init.zeros_(parameter)
    train, val = (Split(split.images.double(), split.labels) for split in (tiny_task.train, tiny_task.val))
    posttraining.distill(student, teacher, train, val, settings, 0)
    images = train.images.flatten(1)
    hard = 0.2 - nn.functional.one_hot(train.labels, 5)
    soft = 3.0 * (0.2 - (teacher.linear(images).float().double() / 3.0).softmax(1))  # T^2 / T
    gradient = (0.3 * hard + 0.7 * soft).T @ images / 120
    torch.testing.assert_close(student.linear.weight.detach(), -gradient.detach(), rtol=1e-5, atol=1e-7)


def test_the_recipe_of_post_training():
    settings = PostTraining(epochs=3, learning_rate=0.02, batch_size=17, weight_decay=0.25)
    assert settings.recipe(9) == Recipe(3, 17, 0.02, 0.25, 0.0, 9, "sgd", 0.1)
    assert PostTraining().recipe(0) == Recipe(1, 256, 1e-3, 5e-4, 0.0, 0, "sgd", 0.1)
    assert (PostTraining().epochs, PostTraining().period, PostTraining().mu, PostTraining().temperature) == (0, 1, 0.25, 2.0)


# ------------------------------------------------------------------------------------------------ environments


def test_a_step_trains_and_a_preview_does_not(env, monkeypatch):
    calls = []
    monkeypatch.setattr(posttraining, "train", lambda *a, **k: calls.append(1) or training.train(*a, **k))
    action = env.uniform_action
    trained = []
    for step in range(1, 7):
        env.preview([action, action])
        before = len(calls)
        *_, info = env.step(action)
        trained.append(len(calls) - before)
        state = env.snapshot()
        network = env.simulator.network(state)
        assert info["accuracy"] == env.score().accuracy == accuracy(network, env.task.val)
        assert (state.weights.version != "") == (step >= 2)
    assert trained == [0, 1, 0, 1, 0, 1]


def test_it_is_due_at_the_end_in_any_case(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, posttraining=replace(SETTINGS, period=4), device="cpu")
    env.reset()
    versions = ["", *(env.step(env.uniform_action) and env.snapshot().weights.version for _ in range(6))]
    assert [a != b for a, b in pairwise(versions)] == [False, False, False, True, False, True]


def test_the_last_training_may_be_longer(own_tiny_task):
    """It is that of as many epochs, from the same network by the same teacher; the trainings before it are as ever."""

    def last_of(**epochs):
        settings = {"learning_rate": 0.01, "batch_size": 50, **epochs}
        env = PruningEnv(own_tiny_task, sparsity=0.4, step_ratio=0.2, posttraining=settings, device="cpu")
        env.reset()
        while env.steps_left:
            env.step(env.uniform_action)
        return env.simulator, env.snapshot()

    simulator, last = last_of(epochs=1, final_epochs=3)
    other, other_last = last_of(epochs=1)
    assert other_last.weights.version != last.weights.version
    assert other_last.previous.weights.version == last.previous.weights.version != ""
    for name, tensor in other.store.tensors(other_last.previous.weights).items():
        assert torch.equal(simulator.store.tensors(last.previous.weights)[name], tensor)
    student, teacher = simulator.store._student(last.weights.student), simulator.store.network(last.weights.teacher)
    settings = PostTraining(epochs=3, learning_rate=0.01, batch_size=50)
    task, seed = simulator.task, int(last.weights.version[:8], 16)
    posttraining.distill(student, teacher, task.train, task.val, settings, seed, task.augmentation)
    for name, tensor in student.state_dict().items():
        assert torch.equal(simulator.network(last).state_dict()[name], tensor)
    again = simulator.attach(pickle.loads(pickle.dumps(last)))
    assert again.weights.version == last.weights.version
    assert again.weights.final


def test_targets_that_share_a_cache_share_no_last_training(own_tiny_task):
    """The same network is at the end of one search, and on the way of another."""

    def accuracies(cache, sparsity, steps):
        env = PruningEnv(
            own_tiny_task,
            sparsity=sparsity,
            step_ratio=0.25,
            rounding="largest_remainder",
            posttraining={"epochs": 1, "final_epochs": 6, "learning_rate": 0.01, "batch_size": 50},
            device="cpu",
            cache=cache,
        )
        env.reset()
        return [env.step(env.uniform_action)[-1]["accuracy"] for _ in range(steps)]

    alone = [accuracies(ResultCache(), *each) for each in ((0.25, 1), (0.5, 2))]
    assert alone[0][0] != alone[1][0]
    shared = ResultCache()
    assert [accuracies(shared, *each) for each in ((0.25, 1), (0.5, 2))] == alone
    shared = ResultCache()
    assert [accuracies(shared, *each) for each in ((0.5, 2), (0.25, 1))] == alone[::-1]


def test_settings_of_final_epochs():
    assert PostTraining(epochs=1, final_epochs=4).at(final=True) == PostTraining(epochs=4)
    assert (
        PostTraining(epochs=1, final_epochs=4).at(final=False) == PostTraining(epochs=1).at(final=True) == PostTraining(epochs=1)
    )
    assert PostTraining(final_epochs=4).at(final=True).epochs == 0
    for config in (lambda settings: MatchedConfig(final=settings), lambda settings: FidelityConfig(posttraining=settings)):
        with pytest.raises(ValueError, match=r"(final|posttraining)\.final_epochs: this is one training"):
            config(PostTraining(epochs=1, final_epochs=2))
    with pytest.raises(ValueError, match=r"posttraining\.final_epochs: this is one training"):
        ExportConfig("run", posttraining=PostTraining(epochs=1, final_epochs=2))
    with pytest.raises(ValueError, match="final_epochs: expected an integer >= 1, got 0"):
        PostTraining(epochs=1, final_epochs=0)


def test_without_epochs_no_network_is_trained(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.4, step_ratio=0.4, posttraining={"final_epochs": 3}, device="cpu")
    env.reset()
    while env.steps_left:
        env.step(env.uniform_action)
    assert env.snapshot().weights.version == ""


def test_one_training_has_no_last_step(tiny_task):
    with pytest.raises(ValueError, match=r"settings\.final_epochs: this is one training, of which epochs says all; got 2"):
        posttraining.distill(
            tiny_task.model, tiny_task.model, tiny_task.train, tiny_task.val, PostTraining(epochs=1, final_epochs=2), 0
        )


def test_post_training_helps():
    accuracies = []
    for epochs in (0, 3):
        settings = PostTraining(epochs=epochs, learning_rate=0.02, batch_size=64)
        env = PruningEnv("digits", sparsity=0.4, step_ratio=0.2, posttraining=settings, fidelity="original", device="cpu")
        env.reset()
        for _ in range(2):
            *_, info = env.step(env.uniform_action)
        accuracies.append(info["accuracy"])
        assert env.evaluations == 2
    assert accuracies[1] > accuracies[0] + 0.2
    assert accuracies[1] > 0.9


def test_best_is_a_trained_network(env):
    while not env.simulator.is_terminal(env.snapshot()):
        previews = env.preview([env.uniform_action] * 2)
        assert env.best is None or not previews[0].terminated
        _, reward, *_ = env.step(env.uniform_action)
    assert env.best.snapshot == env.snapshot()
    assert env.best.reward == reward
    assert env.best.snapshot.weights.student is not None


def test_snapshots_remember_their_weights(env):
    rng = np.random.default_rng(0)
    actions = rng.random((5, env.action_space.shape[0]))
    states, infos = [env.snapshot()], []
    for action in actions:
        infos.append(env.step(action)[4])
        states.append(env.snapshot())
    for here, expected in zip(states[1:], infos, strict=True):
        _, info = env.restore(here)
        assert info["accuracy"] == expected["accuracy"]
    env.restore(states[1])
    again = [env.step(action) for action in actions[1:]]
    assert [info["accuracy"] for *_, info in again] == [info["accuracy"] for info in infos[1:]]
    assert env.snapshot().weights.version == states[-1].weights.version


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_of_the_caller_does_not_matter(env, mode):
    for _ in range(2):
        env.step(env.uniform_action)
    expected, version = env.score(), env.snapshot().weights.version
    env.reset()
    env.simulator.store._stored.clear()
    env.simulator.cache = env.simulator.store.cache = ResultCache()
    with mode():
        for _ in range(2):
            env.step(env.uniform_action)
    assert (env.score(), env.snapshot().weights.version) == (expected, version)


def test_environments_may_share_a_memo(tiny_task):
    cache = ResultCache()
    common = {"sparsity": 0.5, "step_ratio": 0.25, "device": "cpu"}
    kinds = [{}, {"reward_split": "test"}, {"posttraining": SETTINGS}, {"posttraining": replace(SETTINGS, epochs=1)}]

    def accuracies(**settings):
        env = PruningEnv(tiny_task, **common, **settings)
        env.reset()
        return [env.step(env.uniform_action)[4]["accuracy"] for _ in range(2)]

    alone = [accuracies(**kind) for kind in kinds]
    assert [accuracies(**kind, cache=cache) for kind in kinds] == alone
    assert [accuracies(**kind, cache=cache) for kind in kinds] == alone
    assert alone[0] != alone[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "epochs: expected an integer >= 0, got -1"),
        ({"period": 0}, "period: expected an integer >= 1, got 0"),
        ({"mu": "half"}, r"mu: expected a number in \[0, 1\], got 'half'"),
        ({"epochs": True}, "epochs: expected an integer >= 0, got True"),
        ({"mu": 1.5}, r"mu: expected a number in \[0, 1\], got 1.5"),
        ({"temperature": 0.0}, r"temperature: expected a number in \(0, inf\), got 0.0"),
        ({"learning_rate": 0.0}, r"learning_rate: expected a number in \[1e-06, inf\), got 0.0"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PostTraining(**settings)


def test_other_things_are_no_settings(tiny_task):
    for wrong in ([1], 5, PostTraining):
        with pytest.raises(TypeError, match="posttraining: expected a PostTraining or a mapping of its settings, got"):
            PruningEnv(tiny_task, posttraining=wrong)
    with pytest.raises(TypeError, match="cache: expected a ResultCache, got dict"):
        PruningEnv(tiny_task, cache={})


def test_a_network_that_training_makes_useless_is_refused(tiny_task):
    """The variance of one value is no number, so nothing that a batch norm of one image and place counts is one."""
    layers = nn.Flatten(), nn.Linear(144, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)
    task = replace(tiny_task, model=nn.Sequential(*layers).eval())
    env = PruningEnv(task, 0.5, 0.25, posttraining=PostTraining(epochs=1, batch_size=1), device="cpu")
    env.reset()
    with pytest.raises(
        ValueError, match=r"training diverged in epoch 1, a loss or weight is not finite; .*larger batches than 1"
    ):
        env.step(env.uniform_action)


def test_parameters_that_are_no_floats_are_not_trained(tiny_task):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = copy.deepcopy(tiny_task.model)
            self.shift = nn.Parameter(torch.tensor(2), requires_grad=False)

        def forward(self, x):
            return self.inner(x) + self.shift

    task = replace(tiny_task, model=Shifted().eval())
    env = PruningEnv(task, 0.5, 0.25, posttraining=PostTraining(epochs=1, batch_size=60), device="cpu")
    env.reset()
    env.step(env.uniform_action)
    assert env.simulator.network(env.snapshot()).shift.item() == 2
