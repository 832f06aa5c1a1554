"""One experiment: what it prunes and with what, what it measures, and what an interruption leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prune_gym import tasks
from prune_gym.agents.run import RunConfig
from prune_gym.benchmark.paper import experiment as module
from prune_gym.benchmark.paper.experiment import Base, Experiment, at_marks, draw
from prune_gym.benchmark.paper.scales import Scale
from prune_gym.benchmark.paper.tables_and_figures import METHODS
from prune_gym.data.splits import Split
from prune_gym.simulation.simulator import PruningState, Simulator
from prune_gym.surgery.compact import compact
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import accuracy

Make = Callable[..., Experiment]


def only_base(experiment: Experiment) -> Base:
    (base,) = experiment.bases(("vgg19", "cifar100"), ("resnet56", "cifar10"))
    return base


def ignore(simulator: Simulator, state: PruningState) -> None:
    pass


# ------------------------------------------------------------------------------------------------ what is pruned


def test_the_own_network_stands_beside_the_last_of_the_paper(make_experiment: Make, weights: Path) -> None:
    base = only_base(make_experiment())
    assert (base.paper_network, base.paper_data) == ("resnet56", "cifar10")
    assert base.names == {"network": "digits_resnet", "data": "digits"}
    assert replace(base, data="npz:some/where/photos.npz").names["data"] == "photos"
    full = tasks.make("digits_resnet", "digits", weights)
    assert (len(base.task.train), len(base.task.val)) == (128, 64)
    assert base.full_task.fingerprints == full.fingerprints
    assert torch.equal(base.task.test.images, full.test.images)
    assert base.top1 == round(100 * accuracy(full.model, full.test), 2)


def test_fresh_weights(make_experiment: Make) -> None:
    base = only_base(make_experiment())
    one, same, other = (base.fresh(seed).state_dict() for seed in (1, 1, 2))
    trained = base.task.model.state_dict()
    assert one.keys() == trained.keys()
    for name, tensor in one.items():
        assert tensor.shape == trained[name].shape
        assert torch.equal(tensor, same[name])
    kernels = [name for name, tensor in one.items() if tensor.ndim == 4]
    assert not any(torch.equal(one[name], other[name]) or torch.equal(one[name], trained[name]) for name in kernels)


def test_images_are_drawn_at_random_and_always_the_same() -> None:
    images = torch.arange(600.0).view(-1, 1, 1, 1)
    split = Split(images, torch.arange(600) // 60)  # sorted by class
    part = draw(split, 200)
    assert len(part) == 200
    assert torch.equal(part.labels, part.images.flatten().long() // 60)
    assert len(part.images.unique()) == 200
    assert set(part.labels.tolist()) == set(range(10))
    assert torch.equal(draw(split, 200).images, part.images)
    assert draw(split, None) is split


# --------------------------------------------------------------------------------------------- how it is pruned


def run_configs(experiment: Experiment, base: Base, sparsity: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, RunConfig]:
    """The settings with which an experiment runs each of the agents."""
    seen: dict[str, RunConfig] = {}

    class StopHere(Exception):  # noqa: N818
        pass

    def note(config: RunConfig, env: object) -> None:
        seen[config.agent] = config
        raise StopHere

    with monkeypatch.context() as patch:
        patch.setattr(module, "make_agent", note)
        for agent in METHODS:
            with pytest.raises(StopHere):
                experiment.prune(base, sparsity, ignore, agent=agent, reward="flops")
    return seen


def test_every_agent_gets_the_same(make_experiment: Make, tiny: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(seed=3)
    base = only_base(experiment)
    graph = base.task.graph
    for sparsity, steps, epochs in ((0.2, 2, 1), (0.3, 3, 2), (0.5, 5, 3)):  # a training after every second step and at the end
        configs = run_configs(experiment, base, sparsity, monkeypatch)
        removed = steps * int(0.1 * graph.n_filters)
        for config in configs.values():
            assert round(config.sparsity * graph.n_filters, 6) == removed
            assert (config.seed, config.reward, config.reward_split, config.device) == (3, "flops", "val", "cpu")
            assert config.rl_pruner == tiny.rl_pruner
        assert configs["rl_pruner"].step_ratio == configs["uniform"].step_ratio == 0.1
        assert configs["rl_pruner"].posttraining == configs["uniform"].posttraining == tiny.posttraining
        assert configs["taylor"].step_ratio == 1
        assert configs["taylor"].posttraining == replace(tiny.posttraining, epochs=epochs)


def test_every_method_is_trained_for_as_many_epochs(make_experiment: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment()
    epochs: dict[str, int] = {}
    make = module.make_agent
    budgets = {}

    def spy(config: RunConfig, env: Any) -> Any:
        simulator = env.unwrapped.simulator
        inner = simulator.posttrained

        def posttrained(state: Any) -> Any:
            epochs[config.agent] = epochs.get(config.agent, 0) + simulator.posttraining.epochs
            return inner(state)

        monkeypatch.setattr(simulator, "posttrained", posttrained)
        budgets[config.agent] = simulator.schedule.target
        return make(config, env)

    monkeypatch.setattr(module, "make_agent", spy)
    base = only_base(experiment)
    for agent in METHODS:
        experiment.prune(base, 0.4, ignore, agent=agent)
    assert epochs == dict.fromkeys(METHODS, 2)
    assert len(set(budgets.values())) == 1


def test_the_paper_protocol_rewards_test_accuracy(make_experiment: Make, brief: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    make = module.make_agent
    monkeypatch.setattr(module, "make_agent", lambda config, env: seen.append(env.unwrapped) or make(config, env))
    experiment = make_experiment(scale=brief, protocol="paper")
    base = only_base(experiment)
    experiment.prune(base, 0.4, ignore)
    assert experiment.common(base)["protocol"] == "paper: reward on TEST, so test accuracy is tuned on"
    expected = draw(base.full_task.test, 64)
    assert torch.equal(seen[0].simulator.scorer.split.images, expected.images)
    assert len(base.task.test) == len(base.full_task.test) > 64  # what is reported


@pytest.mark.parametrize("agent", METHODS)
def test_every_state_is_visited_once(make_experiment: Make, brief: Scale, agent: str) -> None:
    experiment = make_experiment(scale=replace(brief, posttraining=PostTraining(epochs=0)))
    seen: list[int] = []
    experiment.prune(only_base(experiment), 0.4, lambda simulator, state: seen.append(state.steps), agent=agent)
    assert seen == ([0, 1] if agent == "taylor" else [0, 1, 2])
    assert list(experiment.out.iterdir()) == []  # the journal is gone


# ------------------------------------------------------------------------------------------------ what is measured


def test_measured(make_experiment: Make, brief: Scale) -> None:
    experiment = make_experiment(scale=replace(brief, posttraining=PostTraining(epochs=0)))
    base = only_base(experiment)
    found = []
    experiment.prune(
        base,
        0.4,
        lambda simulator, state: found.append((experiment.measure(base, simulator, state), state.architecture)),
        agent="uniform",
    )
    graph, full = base.task.graph, base.full_task
    original = graph.cost(graph.full(), "paper")
    for row, architecture in found:
        cost = graph.cost(architecture, "paper")
        assert row["top1"] == round(100 * accuracy(compact(full.model, graph, architecture).eval(), full.test), 2)
        assert row["base_top1"] == base.top1
        assert row["top1_before_posttraining"] == ""
        assert row["channel_sparsity"] == round(architecture.channel_sparsity, 4)
        assert row["flops_reduction_pct"] == round(100 - 100 * cost.macs / original.macs, 2)
        assert row["params_reduction_pct"] == round(100 - 100 * cost.params / original.params, 2)
        assert (row["macs"], row["params"]) == (graph.cost(architecture).macs, cost.params)
    assert [row["flops_reduction_pct"] for row, _ in found] == sorted(row["flops_reduction_pct"] for row, _ in found)
    assert found[0][0]["params_reduction_pct"] == 0


def test_the_accuracy_before_a_training_is_that_of_the_same_network(make_experiment: Make) -> None:
    experiment = make_experiment()  # trained after steps 2 and 4
    base = only_base(experiment)
    rows, architectures = [], []

    def visit(simulator: Simulator, state: PruningState) -> None:
        rows.append(experiment.measure(base, simulator, state))
        architectures.append(state.architecture)

    experiment.prune(base, 0.4, visit, agent="uniform")
    assert [row["top1_before_posttraining"] != "" for row in rows] == [False, False, True, False, True]
    assert rows[0]["top1"] == base.top1
    full = base.full_task
    untrained = compact(full.model, full.graph, architectures[2]).eval()
    assert rows[2]["top1_before_posttraining"] == round(100 * accuracy(untrained, full.test), 2) != rows[2]["top1"]
    assert rows[4]["top1_before_posttraining"] not in ("", rows[4]["top1"])


def test_settings_depend_on_all_that_results_depend_on(make_experiment: Make, tiny: Scale) -> None:
    experiment = make_experiment()
    base = only_base(experiment)
    settings = experiment.settings(base)
    assert settings == make_experiment("another folder").settings(only_base(make_experiment()))
    others = [make_experiment(**changed) for changed in ({"seed": 1}, {"protocol": "paper"})]
    others += [
        make_experiment(scale=replace(tiny, **{name: value})) for name, value in (("sparsities", (0.2,)), ("val_images", 65))
    ]
    found = [other.settings(only_base(other)) for other in others]
    found += [experiment.settings(replace(base, task=replace(base.task, train=base.task.train.subset(slice(100)))))]
    found += [experiment.settings(replace(base, full_task=replace(base.full_task, train=base.task.train)))]
    assert len({settings, *found}) == 1 + len(found)


# ---------------------------------------------------------------------------------------------------- interruptions


def test_an_interrupted_run_goes_on_from_its_journal(
    make_experiment: Make, brief: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_experiment(scale=brief)
    base = only_base(experiment)

    def stop_at_the_second_step(simulator: Simulator, state: PruningState) -> None:
        if state.steps == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.prune(base, 0.4, stop_at_the_second_step)
    (folder,) = experiment.out.iterdir()
    (journal,) = (path for path in folder.iterdir() if path.suffix == ".txt")
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > 3
    journal.write_bytes(b"".join([lines[0], b"damaged\n", *lines[2:]]))
    with pytest.raises(ValueError, match=r"journal.txt: line 2 is damaged") as kept:  # and with it the frame of the failed run
        experiment.prune(base, 0.4, ignore)
    journal.write_bytes(b"".join(lines))
    experiment.prune(base, 0.4, ignore)  # the failed run let go of its journal
    assert kept.value
    assert list(experiment.out.iterdir()) == []


def test_another_run_does_not_read_the_journal(make_experiment: Make, brief: Scale) -> None:
    def stop(simulator: Simulator, state: PruningState) -> None:
        raise KeyboardInterrupt

    experiment = make_experiment(scale=brief)
    base = only_base(experiment)
    for options in ({"agent": "uniform"}, {"agent": "random"}, {"agent": "uniform", "reward": "flops"}):
        with pytest.raises(KeyboardInterrupt):
            experiment.prune(base, 0.4, stop, **options)
    assert len(list(experiment.out.iterdir())) == 3


# ------------------------------------------------------------------------------------------------------- the marks


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ((0.0, 0.2, 0.4), [(0, 0.0), (2, 0.2), (4, 0.4)]),
        ((0.4, 0.2), [(2, 0.2), (4, 0.4)]),
        ((0.23, 0.28, 0.3), [(2, 0.23), (3, 0.28), (3, 0.3)]),
        ((0.0, 0.6, 0.7, 0.8), [(0, 0.0), (5, 0.6), (5, 0.7), (5, 0.8)]),  # the last step is the nearest
    ],
)
def test_sparsities_are_measured_at_the_nearest_step(
    tiny_task: Task, tiny: Scale, marks: tuple[float, ...], expected: list[tuple[int, float]]
) -> None:
    assert tiny_task.graph.n_filters == 64  # 6 filters a step, so 0.09375 of the network
    simulator = Simulator(tiny_task, 30 / 64, 0.1)
    state, found = simulator.initial(), []
    visit = at_marks(tiny, marks, lambda simulator, state, mark: found.append((state.steps, mark)))
    visit(simulator, state)
    while not simulator.is_terminal(state):
        (state,) = simulator.successors(state, [np.ones(5)])
        visit(simulator, state)
    assert found == expected
