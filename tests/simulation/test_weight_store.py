"""Recipes and the store that makes tensors of them: who learns from whom on what, what is kept, and what is dropped."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prune_gym import Architecture
from prune_gym.data.augmentation import Augmentation
from prune_gym.envs import PruningEnv
from prune_gym.simulation import weight_store
from prune_gym.simulation.recipes import ORIGINAL, Network, Weights
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.simulator import Simulator
from prune_gym.simulation.weight_store import MAX_VERSIONS, WeightStore
from prune_gym.surgery.slicing import named_tensors, slice_tensors
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining, distill
from prune_gym.training.train import accuracy

SETTINGS = PostTraining(epochs=1, learning_rate=0.02, batch_size=60, start="cut")


class Disk(ResultCache):
    """A cache that keeps tensors, and notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: dict[str, dict[str, Tensor]] = {}
        self.loaded: list[str] = []

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.tensors[name] = {key: tensor.clone() for key, tensor in tensors.items()}

    def load_tensors(self, name: str) -> dict[str, Tensor] | None:
        self.loaded.append(name)
        return self.tensors.get(name)

    def forget_tensors(self, name: str) -> None:
        self.tensors.pop(name, None)


class Trainings(list[dict[str, Any]]):
    """The arguments of all calls of ``distill``, the networks as they were before; training itself goes on."""

    def __call__(self, student: nn.Module, teacher: nn.Module, *arguments: Any) -> float:
        names = ("data", "val", "settings", "seed", "augmentation")
        tensors = {"student": student, "teacher": teacher}
        call: dict[str, Any] = {k: {n: t.clone() for n, t in m.state_dict().items()} for k, m in tensors.items()}
        self.append(call | dict(zip(names, arguments, strict=True)))
        return distill(student, teacher, *arguments)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    calls = Trainings()
    monkeypatch.setattr(weight_store, "distill", calls)
    return calls


@pytest.fixture
def store(tiny_task: Task) -> WeightStore:
    return WeightStore(tiny_task, SETTINGS, ResultCache())


def versions_of(architectures: list[Architecture], teacher: Network) -> list[Weights]:
    return [Weights(Network(architecture), teacher) for architecture in architectures]


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(tensor.equal(b[name]) for name, tensor in a.items())


# ------------------------------------------------------------------------------------------------ recipes


def test_a_version_is_told_by_student_and_teacher(tiny_architectures: list[Architecture]) -> None:
    a, b, c = map(Network, tiny_architectures[:3])
    first = Weights(a, b)
    others = [ORIGINAL, Weights(b, a), Weights(a, c), Weights(c, b), Weights(Network(a.architecture, first), b)]
    others.append(Weights(a, Network(b.architecture, first)))
    assert len({first.version, *(other.version for other in others)}) == 7
    assert Weights(Network(a.architecture), Network(b.architecture)).version == first.version
    assert ORIGINAL.version == ""
    assert a.key == f":{a.architecture.digest}"
    assert Network(a.architecture, first).key == f"{first.version}:{a.architecture.digest}"
    assert (repr(ORIGINAL), repr(first)) == ("Weights('original')", f"Weights('{first.version}')")


# ------------------------------------------------------------------------------------------------ training


def test_a_student_learns_from_its_own_teacher(
    store: WeightStore, tiny_task: Task, tiny_architectures: list[Architecture], trainings: Trainings
) -> None:
    full = Network(tiny_task.graph.full())
    first = Weights(Network(tiny_architectures[2]), full)
    teacher = Network(tiny_architectures[2], first)  # a trained network of other channels than the student
    second = Weights(Network(tiny_architectures[3], first), teacher)
    store.tensors(second)
    one, two = trainings  # the weights that the second starts from are trained first

    graph, original = tiny_task.graph, named_tensors(tiny_task.model, tiny_task.graph)
    assert equal(one["student"], slice_tensors(original, graph.units, tiny_architectures[2]))
    assert equal(one["teacher"], original)
    assert equal(two["student"], slice_tensors(store.tensors(first), graph.units, tiny_architectures[3]))
    assert equal(two["teacher"], slice_tensors(store.tensors(first), graph.units, tiny_architectures[2]))
    assert not equal(two["teacher"], one["student"])
    units = graph.units["stem.weight"][0]
    gone = torch.from_numpy(tiny_architectures[2].mask[units] & ~tiny_architectures[3].mask[units])
    assert gone.any()
    assert torch.equal(store.tensors(second)["stem.weight"][gone], store.tensors(first)["stem.weight"][gone])
    assert not torch.equal(store.tensors(first)["stem.weight"][gone], original["stem.weight"][gone])
    assert [call["seed"] for call in trainings] == [int(w.version[:8], 16) for w in (first, second)]
    assert all(call["settings"] == SETTINGS for call in trainings)
    for call in trainings:
        assert torch.equal(call["data"].images, tiny_task.train.images)
        assert torch.equal(call["val"].images, tiny_task.val.images)


def test_training_images_are_augmented(tiny_task: Task, tiny_architectures: list[Architecture], trainings: Trainings) -> None:
    augmentation = Augmentation(padding=2, flip=True, degrees=30.0)
    tasks = [tiny_task, replace(tiny_task, augmentation=augmentation)]
    weights = Weights(Network(tiny_architectures[2]), Network(tiny_task.graph.full()))
    plain, augmented = (WeightStore(task, SETTINGS, ResultCache()).tensors(weights) for task in tasks)
    assert [call["augmentation"] for call in trainings] == [None, augmentation]
    assert not equal(plain, augmented)


def test_units_that_are_gone_keep_their_weights(
    store: WeightStore, tiny_task: Task, tiny_architectures: list[Architecture]
) -> None:
    (weights,) = versions_of(tiny_architectures[3:4], Network(tiny_task.graph.full()))
    found, original = store.tensors(weights), named_tensors(tiny_task.model, tiny_task.graph)
    units, mask = tiny_task.graph.units["stem.weight"][0], tiny_architectures[3].mask
    kept = torch.from_numpy(mask[units])
    changed = (found["stem.weight"] != original["stem.weight"]).flatten(1).any(1)
    assert torch.equal(changed, kept)


def test_the_accuracy_of_a_version_is_that_of_its_network(
    store: WeightStore, tiny_task: Task, tiny_architectures: list[Architecture], trainings: Trainings
) -> None:
    full = Network(tiny_task.graph.full())
    network = Network(tiny_architectures[2], Weights(Network(tiny_architectures[2]), full))
    assert store.val_accuracy(network) == accuracy(store.network(network), tiny_task.val)
    assert store.val_accuracy(full) == accuracy(tiny_task.model, tiny_task.val)
    assert store.val_accuracy(network) != store.val_accuracy(full)
    store.tensors(network.weights)
    assert len(trainings) == 1  # what is known is not computed again


def test_a_network_shares_no_memory_with_the_store(store: WeightStore, tiny_task: Task) -> None:
    full = Network(tiny_task.graph.full())
    network = store.network(full)
    assert not network.training
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    assert equal(store.tensors(ORIGINAL), named_tensors(tiny_task.model, tiny_task.graph))
    before = {name: tensor.data_ptr() for name, tensor in named_tensors(tiny_task.model, tiny_task.graph).items()}
    assert not any(tensor.data_ptr() == before[name] for name, tensor in store.tensors(ORIGINAL).items())


def test_nothing_given_is_modified(store: WeightStore, tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    before, random = copy.deepcopy(tiny_task.model.state_dict()), torch.get_rng_state()
    store.tensors(Weights(Network(tiny_architectures[2]), Network(tiny_task.graph.full())))
    assert torch.equal(torch.get_rng_state(), random)
    assert equal(tiny_task.model.state_dict(), before)


def test_a_frozen_network_is_trained_too(own_tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    model = own_tiny_task.model.requires_grad_(False)
    store = WeightStore(own_tiny_task, SETTINGS, ResultCache())
    tensors = store.tensors(Weights(Network(tiny_architectures[2]), Network(tiny_architectures[0])))
    assert not torch.equal(tensors["classifier.weight"], model.get_parameter("classifier.weight"))
    assert not any(parameter.requires_grad for parameter in model.parameters())


# ------------------------------------------------------------------------------------------------ what is kept


def test_the_last_versions_are_kept(tiny_task: Task, tiny_architectures: list[Architecture], trainings: Trainings) -> None:
    disk = Disk()
    store = WeightStore(tiny_task, SETTINGS, disk)
    versions = versions_of(tiny_architectures[:5], Network(tiny_task.graph.full()))
    for weights in versions[:4]:
        store.tensors(weights)
    store.tensors(versions[0])  # used last, so the second goes
    store.tensors(versions[4])
    kept = [versions[i].version for i in (2, 3, 0, 4)]
    assert MAX_VERSIONS == 4
    assert list(store._stored) == kept
    assert sorted(disk.tensors) == sorted(kept)
    assert len(trainings) == 5
    store.tensors(versions[2])
    assert len(trainings) == 5
    store.tensors(versions[1])
    assert len(trainings) == 6


def test_a_pinned_version_is_kept_until_another_is(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    store = WeightStore(tiny_task, SETTINGS, ResultCache())
    first, *others = versions_of(tiny_architectures, Network(tiny_task.graph.full()))
    store.tensors(first)
    store.pin(first)
    for weights in others[:5]:
        store.tensors(weights)
    assert list(store._stored) == [weights.version for weights in (first, *others[2:5])]
    store.pin(others[4])
    store.tensors(others[0])
    assert first.version not in store._stored
    assert others[4].version in store._stored


def test_saved_tensors_are_read_and_not_trained_again(
    tiny_task: Task, tiny_architectures: list[Architecture], trainings: Trainings
) -> None:
    disk = Disk()
    (weights,) = versions_of(tiny_architectures[2:3], Network(tiny_task.graph.full()))
    trained = WeightStore(tiny_task, SETTINGS, disk).tensors(weights)
    other = WeightStore(tiny_task, SETTINGS, disk)
    assert equal(other.tensors(weights), trained)
    assert len(trainings) == 1
    assert other.tensors(weights) is other.tensors(weights)
    assert disk.loaded == [weights.version] * 2  # once in each store
    assert other.val_accuracy(Network(tiny_architectures[2], weights)) == disk.get("posttraining", weights.version)


def test_dropped_versions_are_trained_to_the_same(
    store: WeightStore, tiny_task: Task, tiny_architectures: list[Architecture]
) -> None:
    store.max_versions = 1
    first, second = versions_of(tiny_architectures[2:4], Network(tiny_task.graph.full()))
    before = {name: tensor.clone() for name, tensor in store.tensors(first).items()}
    store.tensors(second)
    torch.rand(3)  # whatever happens to the global generator
    assert list(store._stored) == [second.version]
    assert equal(store.tensors(first), before)
    assert not equal(store.tensors(second), before)


def test_the_best_network_is_not_dropped(tiny_task: Task) -> None:
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.25, posttraining=SETTINGS, device="cpu")
    store = env.simulator.store
    store.max_versions = 1
    for action in (env.uniform_action, np.eye(len(env.graph.groups))[0]):
        env.reset()
        for _ in range(2):
            env.step(action)
    assert env.best is not None
    best = env.best.snapshot.weights.version
    assert best in store._stored
    store.tensors(Weights(Network(tiny_task.graph.full()), Network(tiny_task.graph.full())))
    assert best in store._stored
    assert len(store._stored) == 2


# ------------------------------------------------------------------------------------------------ what a simulator makes of it


@pytest.mark.parametrize(("student", "teacher", "teaches"), [(0.8, 0.7, True), (0.7, 0.8, False), (0.7, 0.7, False)])
def test_only_a_better_network_teaches(
    student: float, teacher: float, teaches: bool, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = Simulator(tiny_task, 0.5, 0.2, posttraining=SETTINGS)
    (state,) = simulator.successors(simulator.initial(), [np.ones(5)])
    values = {state.trained(False).network.key: student, simulator.initial().network.key: teacher}
    monkeypatch.setattr(simulator.store, "val_accuracy", lambda network: values[network.key])
    after = simulator.posttrained(state)
    assert after.weights.student.key == state.network.key
    assert after.weights.teacher is state.teacher
    assert after.teacher.key == (after.network if teaches else state.teacher).key
    assert after.architecture is state.architecture


def test_the_next_student_learns_from_the_better_network(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    simulator = Simulator(tiny_task, 0.5, 0.2, posttraining=SETTINGS)
    ratings = iter([0.9, 0.8, 0.7, 0.9])  # the first student beats the original network, the second beats nobody
    monkeypatch.setattr(simulator.store, "val_accuracy", lambda network: next(ratings))
    first = simulator.step(simulator.initial(), np.ones(5))
    second = simulator.step(first, np.ones(5))
    assert first.teacher.key == first.network.key
    assert second.weights.teacher.key == first.network.key != simulator.initial().network.key
    assert second.weights.student.weights.version == first.weights.version
    assert second.teacher.key == first.network.key


@pytest.mark.parametrize(("period", "expected"), [(1, [1, 1, 1]), (2, [0, 1, 1]), (3, [0, 0, 1]), (7, [0, 0, 1])])
def test_when_networks_are_trained(period: int, expected: list[int], tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.5, 0.2, posttraining=replace(SETTINGS, period=period))
    state, trained = simulator.initial(), []
    while not simulator.is_terminal(state):
        after = simulator.step(state, np.ones(5))
        trained.append(int(after.weights.version != state.weights.version))
        state = after
    assert trained == expected
    plain = Simulator(tiny_task, 0.5, 0.2, posttraining=replace(SETTINGS, epochs=0, period=period))
    assert not any(plain.trains(each) for each in state.trajectory())


def test_trained_states_are_scored_by_their_weights(tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.6, 0.2, posttraining=replace(SETTINGS, epochs=2))
    first = simulator.step(simulator.initial(), np.ones(5))
    (pruned,) = simulator.successors(first, [np.ones(5)])
    second = simulator.posttrained(pruned)
    states = [second, simulator.initial(), pruned, first]
    expected = [accuracy(simulator.network(state), tiny_task.val) for state in states]
    assert [score.accuracy for score in simulator.scores(states)] == expected
    assert [simulator.score(state).accuracy for state in states] == expected
    original = [simulator.scorer.evaluator(ORIGINAL).accuracy(state.architecture) for state in states]
    assert original != expected  # else the comparison would mean little


def test_post_training_as_a_mapping(tiny_task: Task) -> None:
    simulator = Simulator(tiny_task, 0.5, 0.2, posttraining={"epochs": 3, "mu": 0.5})
    assert simulator.posttraining == PostTraining(epochs=3, mu=0.5)
    assert (
        Simulator(tiny_task, 0.5, 0.2).posttraining
        == Simulator(tiny_task, 0.5, 0.2, posttraining={}).posttraining
        == PostTraining()
    )
    with pytest.raises(ValueError, match=r"posttraining: expected one of epochs, .*; got 'epoch'\. Did you mean 'epochs'\?"):
        Simulator(tiny_task, 0.5, 0.2, posttraining={"epoch": 3})
    with pytest.raises(ValueError, match="epochs: expected an integer >= 0, got -1"):
        Simulator(tiny_task, 0.5, 0.2, posttraining={"epochs": -1})
    with pytest.raises(TypeError, match="posttraining: expected a PostTraining or a mapping of its settings, got int"):
        Simulator(tiny_task, 0.5, 0.2, posttraining=5)  # type: ignore[arg-type]
