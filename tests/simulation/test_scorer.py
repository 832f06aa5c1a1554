"""Scores and rankings of networks whatever their weights, and how often a network is run for them."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prune_gym
from prune_gym import Architecture
from prune_gym.graph.program import Program
from prune_gym.simulation import scorer as scorer_module
from prune_gym.simulation import simulator as simulator_module
from prune_gym.simulation.recipes import Network, Weights
from prune_gym.simulation.result_cache import MAX_ENTRIES, ResultCache
from prune_gym.simulation.scorer import Scorer
from prune_gym.simulation.simulator import Simulator
from prune_gym.simulation.weight_store import WeightStore
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import accuracy

SETTINGS = PostTraining(epochs=1, learning_rate=0.05, batch_size=40)


def scorer_of(task: Task, cache: ResultCache | None = None) -> Scorer:
    cache = cache or ResultCache()
    return Scorer(WeightStore(task, SETTINGS, cache), task.val, task.calibration, "taylor", "float32", cache)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes of all runs of any program."""
    sizes: list[int] = []
    run = Program.run

    def counted(self: Program, tensors: dict[str, Tensor], inputs: list[Tensor], *args: object, **kwargs: object) -> Tensor:
        sizes.append(len(inputs[0]))
        return run(self, tensors, inputs, *args, **kwargs)

    monkeypatch.setattr(Program, "run", counted)
    return sizes


# ------------------------------------------------------------------------------------------------ scores


def test_nothing_is_scored_twice(tiny_task: Task, tiny_architectures: list[Architecture], runs: list[int]) -> None:
    scorer = scorer_of(tiny_task)
    a, b, c, d = map(Network, tiny_architectures[:4])
    first = scorer.scores([a, b, a, b, b])
    assert runs == [120, 120]
    assert first == [scorer.score(a), scorer.score(b), *[scorer.score(x) for x in (a, b, b)]]
    assert runs == [120, 120]
    equal = Network(tiny_task.graph.architecture([kept.copy() for kept in b.architecture.kept]))
    assert scorer.score(equal) == first[1]
    assert runs == [120, 120]
    assert scorer.scores([c, b, d])[1] == first[1]
    assert runs == [120] * 4
    assert scorer.scores([]) == []


def test_networks_are_scored_with_their_own_weights(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    """Original and trained ones mixed in one call, in any order: each as its own compact network scores."""
    scorer = scorer_of(tiny_task)
    student = Network(tiny_architectures[2])
    trained = Weights(student, Network(tiny_task.graph.full()))
    again = Weights(Network(student.architecture, trained), Network(tiny_task.graph.full()))
    networks = [Network(a, w) for a in tiny_architectures[:4] for w in (trained, Weights(), again)]
    expected = [accuracy(scorer.store.network(network), tiny_task.val) for network in networks]
    found = scorer.scores(networks)
    assert [score.accuracy for score in found] == expected
    assert expected[0::3] != expected[1::3] != expected[2::3]
    cost = [tiny_task.graph.cost(network.architecture) for network in networks]
    assert [(score.macs, score.params) for score in found] == [(c.macs, c.params) for c in cost]
    assert scorer.scores(networks[::-1]) == found[::-1]
    assert scorer_of(tiny_task).scores(networks[::-1]) == found[::-1]


def test_what_is_known_needs_no_tensors(tiny_task: Task, tiny_architectures: list[Architecture], runs: list[int]) -> None:
    cache = ResultCache()
    weights = Weights(Network(tiny_architectures[2]), Network(tiny_task.graph.full()))
    networks = [Network(a, weights) for a in tiny_architectures]
    known = scorer_of(tiny_task, cache).scores(networks)
    again = scorer_of(tiny_task, cache)
    runs.clear()
    assert again.scores(networks) == known
    assert runs == []
    assert not again.store._stored


def test_an_evaluator_lives_as_long_as_its_tensors(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    scorer = scorer_of(tiny_task)
    full = Network(tiny_task.graph.full())
    versions = [Weights(Network(a), full) for a in tiny_architectures[1:6]]
    first = scorer.evaluator(versions[0])
    assert scorer.evaluator(versions[0]) is first is not scorer.evaluator(Weights())
    assert scorer.evaluator(Weights()) is scorer.evaluator(Weights())
    for weights in versions[1:]:
        scorer.evaluator(weights)
    assert scorer.evaluator(versions[0]) is not first


def test_a_full_cache_forgets_and_scores_stay_right(
    tiny_task: Task, tiny_architectures: list[Architecture], runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = list(map(Network, tiny_architectures))
    expected = scorer_of(tiny_task).scores(networks)
    monkeypatch.setitem(MAX_ENTRIES, "accuracy", 2)
    scorer = scorer_of(tiny_task)
    runs.clear()
    assert [scorer.score(network) for network in networks] == expected
    assert len(runs) == len(networks)
    assert [scorer.score(network) for network in networks] == expected
    assert len(runs) > len(networks)


# ------------------------------------------------------------------------------------------------ rankings


def test_ranks_are_positions_among_the_kept_units_of_a_group(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    scorer, graph = scorer_of(tiny_task), tiny_task.graph
    for architecture in tiny_architectures[:4]:
        network = Network(architecture)
        importance = scorer.unit_scores(network, "taylor")
        ranks = scorer.ranks(network)
        assert np.isnan(importance[~architecture.mask]).all()
        for start, width, kept in zip(graph.starts, graph.widths, architecture.kept, strict=False):
            units = [u for u in range(width) if kept[u]]
            for u in units:
                assert ranks[start + u] == sum(importance[start + v] < importance[start + u] for v in units)
            assert sorted(ranks[start : start + width].tolist()) == list(range(width))
        np.testing.assert_array_equal(scorer.ranks(network), ranks)  # what is known reads the same


def test_rankings_are_of_the_networks_own_weights(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of(tiny_task)
    full = Network(tiny_task.graph.full())
    seen = []
    original = scorer_module.unit_scores
    monkeypatch.setattr(scorer_module, "unit_scores", lambda *args: seen.append(args) or original(*args))
    trained = Network(full.architecture, Weights(full, full))
    different = [scorer.unit_scores(network, "l1") for network in (full, trained)]
    assert (different[0] != different[1]).any()
    assert seen[1][0] == "l1"
    torch.testing.assert_close(seen[1][1]["stem.weight"], scorer.store.tensors(trained.weights)["stem.weight"], rtol=0, atol=0)


class Counting(nn.Module):
    """Its output depends on how often it was called."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(x) * torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]) + self.calls * torch.tensor([0.0, 0.0, 0.0, 0.0, 0.5])


def test_rankings_and_scores_do_not_depend_on_earlier_passes(tiny_task: Task, tiny_architectures: list[Architecture]) -> None:
    task = replace(tiny_task, model=Counting(copy.deepcopy(tiny_task.model)).eval())
    networks = [Network(task.graph.architecture(a.kept)) for a in tiny_architectures]
    alone = [(scorer_of(task).score(network), scorer_of(task).ranks(network).tolist()) for network in networks]
    scorer = scorer_of(task)
    for _ in range(2):
        scorer.cache = ResultCache()  # so that all is computed again
        assert [(scorer.score(network), scorer.ranks(network).tolist()) for network in networks] == alone
        for network, (score, _) in zip(networks, alone, strict=True):
            assert scorer.evaluator(network.weights).accuracy(network.architecture) == score.accuracy
    simulator = Simulator(task, 0.5, 0.2, fidelity="original")
    assert [simulator.scorer.score(network) for network in networks] == [score for score, _ in alone]
    assert float(task.model.calls) == 0


# ------------------------------------------------------------------------------------------------ what results depend on


class Spy(ResultCache):
    """Notes under which names values are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def put(self, kind: str, key: str, value: object) -> None:
        self.names.add(key.partition(":")[0])
        super().put(kind, key, value)


def test_the_identity_says_all_that_results_depend_on(tiny_task: Task) -> None:
    simulator = Simulator(
        tiny_task, 0.5, 0.1, "carry", "l2", "test", precision="bfloat16", posttraining=SETTINGS, fidelity="compensated"
    )
    assert {key: value for key, value in simulator.identity.items() if key not in tiny_task.fingerprints} == {
        "split": "test",
        "importance": "l2",
        "precision": "bfloat16",
        "fidelity": "compensated",
        "post-training": asdict(SETTINGS),
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "prune_gym": prune_gym.__version__,
    }  # fmt: skip
    assert {key: simulator.identity[key] for key in tiny_task.fingerprints} == tiny_task.fingerprints
    assert {"base network", "data", "augmentation"} <= tiny_task.fingerprints.keys()


@pytest.mark.parametrize(
    "change",
    [
        {"importance": "l1"},
        {"precision": "bfloat16"},
        {"fidelity": "original"},
        {"fidelity": "compensated"},
        {"reward_split": "test"},
        {"posttraining": SETTINGS},
        {"posttraining": replace(SETTINGS, mu=0.5)},
        "threads",
        "torch",
        "version",
        "device",
    ],
)
def test_results_of_another_identity_are_kept_apart(tiny_task: Task, change: object, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy()

    def simulate(**settings: object) -> None:
        simulator = Simulator(tiny_task, 0.5, 0.25, cache=spy, **settings)  # type: ignore[arg-type]
        simulator.step(simulator.initial(), np.ones(5))

    simulate()
    simulate(rounding="paper")  # how many units a step removes does not matter to what a network scores
    assert len(spy.names) == 1
    match change:
        case "threads":
            monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
            monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
        case "torch":
            monkeypatch.setattr(torch, "__version__", "1.0")
        case "version":
            monkeypatch.setattr(simulator_module, "__version__", "99")
        case "device":
            monkeypatch.setattr(simulator_module, "choose_device", lambda name: torch.device("cpu", 0))
    simulate(**(change if isinstance(change, dict) else {}))
    assert len(spy.names) == 2


def test_results_are_shared_between_equal_simulators(tiny_task: Task, runs: list[int]) -> None:
    cache = ResultCache()
    first = Simulator(tiny_task, 0.5, 0.25, cache=cache)
    states = first.successors(first.initial(), [np.ones(5), np.eye(5)[0]])
    expected = first.scores(states)
    other = Simulator(tiny_task, 0.4, 0.25, cache=cache)
    runs.clear()
    assert other.scores(other.successors(other.initial(), [np.ones(5), np.eye(5)[0]])) == expected
    assert runs == []


def test_a_random_ranking_follows_its_seed(tiny_task: Task) -> None:
    simulators = [Simulator(tiny_task, 0.5, 0.1, importance="random", importance_seed=seed) for seed in (0, 0, 1)]
    first, same, other = (simulator.scorer.ranks(simulator.initial().network) for simulator in simulators)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    identities = [simulator.identity["importance"] for simulator in simulators]
    assert identities == ["random, seed 0", "random, seed 0", "random, seed 1"]
    assert Simulator(tiny_task, 0.5, 0.1, importance_seed=1).identity["importance"] == "taylor"  # which draws nothing
