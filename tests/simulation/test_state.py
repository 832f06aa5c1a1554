"""States: immutable, small when they are pickled, and the same again on another channel graph."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

from prune_gym import trace
from prune_gym.simulation.simulator import Simulator
from prune_gym.simulation.state import PruningState
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining

SETTINGS = PostTraining(epochs=1, period=2, learning_rate=0.01, batch_size=60)


def walk(simulator: Simulator, steps: int = 4) -> PruningState:
    """A state after some steps; every second one trains, and teaches the first time it did."""
    state = simulator.initial()
    for i, action in enumerate(np.random.default_rng(0).random((steps, len(simulator.graph.groups)))):
        (state,) = simulator.successors(state, [action])
        if simulator.trains(state):
            state = state.trained(teaches=i < 2)
    return state


def twin(task: Task) -> Task:
    """The same task with a graph of its own."""
    return replace(task, model=copy.deepcopy(task.model))


def same(a: PruningState, b: PruningState) -> None:
    assert len(a.trajectory()) == len(b.trajectory())
    for x, y in zip(a.trajectory(), b.trajectory(), strict=True):
        np.testing.assert_array_equal(x.architecture.mask, y.architecture.mask)
        np.testing.assert_array_equal(x.carry, y.carry)
        assert (x.action is None) == (y.action is None)
        if x.action is not None:
            np.testing.assert_array_equal(x.action, y.action)
        assert (x.steps, x.weights.version, x.teacher.key, x.process) == (y.steps, y.weights.version, y.teacher.key, y.process)


@pytest.fixture
def simulator(tiny_task: Task) -> Simulator:
    return Simulator(tiny_task, 0.6, 0.1, "carry", posttraining=SETTINGS)


def test_a_pickled_state_is_small_and_holds_everything(simulator: Simulator) -> None:
    state = walk(simulator)
    assert state.weights.version
    assert state.teacher.weights.version not in ("", state.weights.version)
    assert state.carry.any()
    content = pickle.dumps(state)
    assert len(content) < 2500
    assert b"Program" not in content
    again = pickle.loads(content)
    same(again, state)
    same(pickle.loads(pickle.dumps(again)), state)


def test_steps_that_carry_nothing_over_keep_nothing_for_it(tiny_task: Task) -> None:
    state = walk(Simulator(tiny_task, 0.6, 0.1, "largest_remainder"))
    assert [move.carry for move in state.moves()] == [b""] * 4
    same(pickle.loads(pickle.dumps(state)), state)


def test_the_size_grows_by_masks_and_actions_alone(simulator: Simulator) -> None:
    one, four = (len(pickle.dumps(walk(simulator, steps))) for steps in (1, 4))
    assert four - one < 3 * 250


def test_what_is_unpickled_can_be_read_and_compared(simulator: Simulator) -> None:
    state = walk(simulator)
    again = pickle.loads(pickle.dumps(state)).architecture
    assert again == state.architecture
    assert state.architecture == again
    assert hash(again) == hash(state.architecture)
    assert again != simulator.graph.full()
    assert again.widths.tolist() == state.architecture.widths.tolist()
    assert again.channel_sparsity == state.architecture.channel_sparsity
    for a, b in zip(again.kept, state.architecture.kept, strict=True):
        np.testing.assert_array_equal(a, b)
    assert repr(again) == repr(state.architecture)
    with pytest.raises(
        AttributeError, match=r"program: a table, and a state that was unpickled, have no channel graph; env.restore\(state\)"
    ):
        _ = again.graph.program


def test_architectures_are_equal_on_equal_graphs(tiny_task: Task) -> None:
    graph, other = tiny_task.graph, trace(tiny_task.model, tiny_task.train.inputs(slice(1)))
    assert graph is not other
    assert graph.full() == other.full()
    assert graph.fingerprint == other.fingerprint
    wider = trace(type(tiny_task.model)(inner=7), tiny_task.train.inputs(slice(1)))
    assert wider.fingerprint != graph.fingerprint
    assert wider.full() != graph.full()
    assert graph.full() != graph


def test_attached_to_another_graph(simulator: Simulator, tiny_task: Task) -> None:
    state = walk(simulator)
    assert simulator.attach(state) is state
    other = Simulator(twin(tiny_task), 0.6, 0.1, "carry", posttraining=SETTINGS)
    for given in (state, pickle.loads(pickle.dumps(state))):
        attached = other.attach(given)
        same(attached, state)
        assert all(each.architecture.graph is other.graph for each in attached.trajectory())
        assert attached.teacher.architecture.graph is other.graph
        assert attached.weights.student is not None
        assert attached.weights.student.architecture.graph is other.graph
    assert other.score(other.attach(state)) == simulator.score(state)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"sparsity": 0.5}, "schedule"),
        ({"step_ratio": 0.2}, "schedule"),
        ({"rounding": "paper"}, "schedule"),
        ({"posttraining": None}, "posttraining"),
        ({"posttraining": replace(SETTINGS, epochs=2)}, "posttraining"),
    ],
)
def test_states_of_another_process_are_refused(simulator: Simulator, tiny_task: Task, change: dict, name: str) -> None:
    settings = {"sparsity": 0.6, "step_ratio": 0.1, "rounding": "carry", "posttraining": SETTINGS}
    other = Simulator(tiny_task, **{**settings, **change})
    for state in (walk(simulator), pickle.loads(pickle.dumps(walk(simulator)))):
        with pytest.raises(ValueError, match=f"snapshot: expected a state of this environment, but its {name} is another one"):
            other.attach(state)


def test_states_of_another_network_or_data_are_refused(simulator: Simulator, tiny_task: Task, own_tiny_task: Task) -> None:
    own_tiny_task.model.hidden.bias.data += 1  # of the same shapes
    settings = {"sparsity": 0.6, "step_ratio": 0.1, "rounding": "carry", "posttraining": SETTINGS}
    with pytest.raises(ValueError, match="its network is another one"):
        Simulator(own_tiny_task, **settings).attach(walk(simulator))  # type: ignore[arg-type]
    other = replace(tiny_task, train=tiny_task.train.subset(slice(100)))
    with pytest.raises(ValueError, match="its posttraining is another one"):
        Simulator(other, **settings).attach(walk(simulator))  # type: ignore[arg-type]
    plain = [Simulator(task, 0.6, 0.1) for task in (tiny_task, other)]
    plain[1].attach(walk(plain[0]))  # without post-training its images do not matter to a state


def test_what_matters_to_scores_alone_may_differ(tiny_task: Task) -> None:
    one, other = Simulator(tiny_task, 0.6, 0.1), Simulator(tiny_task, 0.6, 0.1, importance="l1", reward_split="test")
    state = walk(one)
    assert other.attach(state) is state


def test_states_are_immutable(simulator: Simulator) -> None:
    state = walk(simulator)
    assert copy.copy(state) is copy.deepcopy(state) is state
    for array in (state.carry, state.action, state.architecture.mask):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
