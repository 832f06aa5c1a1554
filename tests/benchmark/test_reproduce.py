"""The paper's experiments at tiny sizes: what they prune, measure, keep and say; and the paper's own numbers."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reproduce
from matplotlib.image import imread

from prune_gym import importance, tasks
from prune_gym.agents import GlobalTaylorAgent, RLPrunerConfig
from prune_gym.agents.registry import make_agent
from prune_gym.agents.run import RunConfig
from prune_gym.benchmark.paper import experiments, plots, scales
from prune_gym.benchmark.paper import lab as laboratory
from prune_gym.benchmark.rows import Rows
from prune_gym.envs import PruningEnv
from prune_gym.simulation.simulator import Simulator
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import Recipe, accuracy
from prune_gym.training.weights import save_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    save_weights(path, tasks.load("digits-resnet").model, {})
    return path


@pytest.fixture
def tiny() -> Any:
    return scales.Scale(
        sparsities=(0.2, 0.4),
        step_ratio=0.1,
        rl_pruner=RLPrunerConfig(stages=1, samples=2),
        posttraining=PostTraining(epochs=1, period=2, batch_size=64),
        scratch=Recipe(1, 64, 0.1, 5e-4, 0.0, optimizer="sgd"),
        train_images=128,
        val_images=64,
    )


@pytest.fixture
def make_lab(tiny: Any, weights: Path, tmp_path: Path) -> Any:
    def make(folder: str = "out", scale: Any = tiny, **options: Any) -> Any:
        return laboratory.Lab(scale, tmp_path / folder, "digits_resnet", "digits", weights, device="cpu", **options)

    return make


# ------------------------------------------------------------------------------------------------ the paper's numbers


@pytest.mark.parametrize(
    ("table", "key", "column", "value"),
    [
        ("table1", {"network": "vgg19", "reward": "accuracy", "sparsity": 0.6}, "top1", "73.00"),
        ("table1", {"network": "resnet56", "reward": "params", "sparsity": 0.8}, "params_reduction_pct", "97.69"),
        ("table1", {"network": "mobilenet_v3_large", "reward": "flops", "sparsity": 0.4}, "flops_reduction_pct", "61.63"),
        ("table1", {"network": "densenet121", "reward": "flops", "sparsity": 0.2}, "base_top1", "79.83"),
        ("table2", {"network": "resnet56", "method": "rl_pruner", "sparsity": 0.5}, "top1", "91.76"),
        ("table2", {"network": "resnet56", "method": "depgraph", "sparsity": 0.75}, "params_reduction_pct", "94.36"),
        ("table2", {"network": "vgg19", "method": "gnn_rl", "sparsity": 0.75}, "top1", ""),
        ("table3", {"epsilon": 0.4, "decay": "cosine", "sparsity": 0.25}, "top1", "73.46"),
        ("table3", {"epsilon": 0.0, "decay": "constant", "sparsity": 0.75}, "top1", "72.00"),
        ("table4", {"sparsity": 0.8}, "scratch_top1", "69.50"),
    ],
)
def test_the_copy_of_the_paper(table: str, key: dict[str, Any], column: str, value: str) -> None:
    (row,) = laboratory.published(table, **key)
    assert row[column] == value


def test_the_copy_is_complete_and_consistent() -> None:
    lengths = {table: len(laboratory.published(table)) for table in ("table1", "table2", "table3", "table4")}
    assert lengths == {"table1": 5 * 3 * 4, "table2": 2 * 4 * 3, "table3": 7 * 3, "table4": 3}
    for row in laboratory.published("table4"):
        assert float(row["gain"]) == pytest.approx(float(row["pruned_top1"]) - float(row["scratch_top1"]))
        (same,) = laboratory.published("table1", network="vgg19", reward="accuracy", sparsity=float(row["sparsity"]))
        assert same["top1"] == row["pruned_top1"]


# --------------------------------------------------------------------------------------------------- global Taylor


def slow_ranking(task: Any, filters: int) -> list[int]:
    """Widths after one-shot global pruning, unit by unit in plain Python."""
    graph = task.graph
    scores = importance("taylor")(task.model, graph, task.calibration.images, task.calibration.labels)
    units = []
    for g, values in enumerate(scores):
        norm = sum(value**2 for value in values) ** 0.5
        most = max(range(len(values)), key=lambda u, values=values: values[u])
        units += [(value / norm, g) for u, value in enumerate(values) if u != most]
    widths = [group.width for group in graph.groups]
    for _, g in sorted(units):
        if graph.groups[g].filters_per_unit <= filters:
            filters -= graph.groups[g].filters_per_unit
            widths[g] -= 1
    return widths


@pytest.mark.parametrize("sparsity", [0.1, 0.25, 0.5, 0.7])
def test_global_taylor_is_one_ranking_of_all_units(tiny_task, sparsity):
    env = PruningEnv(tiny_task, sparsity=sparsity, step_ratio=1.0, device="cpu")
    agent = GlobalTaylorAgent(env).learn(10)
    assert agent.num_timesteps == env.evaluations == 1
    architecture = env.best.snapshot.architecture
    assert architecture.widths.tolist() == slow_ranking(tiny_task, env.simulator.target_filters)
    assert env.simulator.removed_filters(env.best.snapshot) == env.simulator.target_filters
    assert len({*(architecture.widths / env.graph.widths)}) > 1  # not the uniform one


def test_global_taylor_in_steps_ranks_anew(tiny_task):
    env = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, device="cpu")
    agent = make_agent(RunConfig(agent="taylor"), env).learn(10)
    steps = -(-env.simulator.target_filters // env.simulator.step_budget)
    assert agent.num_timesteps == steps > 1
    removed = [env.simulator.removed_filters(state) for state in env.best.snapshot.trajectory()]
    assert removed == [min(env.simulator.step_budget * i, env.simulator.target_filters) for i in range(steps + 1)]


def test_global_taylor_prunes_a_dead_group_first(own_tiny_task):
    task = own_tiny_task
    task.model.inner.weight.data.zero_()
    env = PruningEnv(task, sparsity=0.1, step_ratio=1.0, device="cpu")
    GlobalTaylorAgent(env).learn(1)
    assert env.best.snapshot.architecture.widths[1] == 1


# --------------------------------------------------------------------------------------------------- experiments


def content(rows: Any) -> list[dict[str, str]]:
    with rows.path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_table2(make_lab: Any, tiny: Any) -> None:
    rows = experiments.table2(make_lab())
    found = content(rows)
    ours = [row for row in found if row["top1"]]
    assert [(row["method"], row["sparsity"]) for row in ours] == [
        (method, sparsity) for method in ("rl_pruner", "taylor", "uniform") for sparsity in ("0.2", "0.4")
    ]
    graph = tasks.load("digits-resnet").graph
    for row in ours:
        steps = tiny.steps(float(row["sparsity"]), tasks.load("digits-resnet").graph)
        assert float(row["channel_sparsity"]) == round(steps * int(0.1 * graph.n_filters) / graph.n_filters, 4)
        assert row["top1_before_posttraining"]
        assert row["protocol"] == "reward on validation"
        task = tasks.load("digits-resnet")
        assert float(row["base_top1"]) == round(100 * accuracy(task.model, task.test), 2)
    theirs = [row for row in found if not row["top1"]]
    assert {row["method"] for row in theirs} == {"rl_pruner", "greg", "depgraph", "gnn_rl"}
    assert {row["paper_network"] for row in theirs} == {"resnet56"}
    assert not list(rows.path.parent.glob(".*"))  # no journal is left
    again = experiments.table2(make_lab("again"))
    assert again.path.read_bytes() == rows.path.read_bytes()


def test_every_method_is_trained_for_as_many_epochs(make_lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab()
    epochs: dict[str, int] = {}
    make = laboratory.make_agent
    budgets = {}

    def spy(config: RunConfig, env: Any) -> Any:
        simulator = env.unwrapped.simulator
        inner = simulator.posttrained

        def posttrained(state: Any) -> Any:
            epochs[config.agent] = epochs.get(config.agent, 0) + simulator.posttraining.epochs
            return inner(state)

        monkeypatch.setattr(simulator, "posttrained", posttrained)
        budgets[config.agent] = simulator.target_filters
        return make(config, env)

    monkeypatch.setattr(laboratory, "make_agent", spy)
    for base in lab.bases(("resnet56", "cifar10")):
        for agent in experiments.METHODS:
            lab.prune(base, 0.4, lambda simulator, state: None, agent=agent)
    assert epochs == dict.fromkeys(experiments.METHODS, 2)
    assert len(set(budgets.values())) == 1


@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_experiment_goes_on(make_lab: Any, monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:
    whole = experiments.table1(make_lab("whole", brief()))
    left = [stop_after]
    measure = laboratory.Lab.measure

    def stop(*arguments: Any) -> Any:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(laboratory.Lab, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            experiments.table1(make_lab("stopped", brief()))
    stopped = Rows(whole.path.parents[1] / "stopped" / "table1.csv", whole.columns, whole.key)
    assert len(stopped.rows) == stop_after
    assert experiments.table1(make_lab("stopped", brief())).path.read_bytes() == whole.path.read_bytes()


def brief() -> Any:
    """A scale of few steps."""
    agent, scratch = RLPrunerConfig(stages=1, samples=2), Recipe(1, 64, 0.1, 5e-4, 0.0, optimizer="sgd")
    return scales.Scale((0.2, 0.4), 0.2, agent, PostTraining(1, 1), scratch, train_images=64, val_images=64)


def test_table1_stands_beside_the_paper(make_lab: Any) -> None:
    found = content(experiments.table1(make_lab(scale=brief())))
    assert [(row["reward"], row["sparsity"], row["paper_top1"]) for row in found] == [
        ("accuracy", "0.2", "70.79"),
        ("accuracy", "0.4", "68.33"),
        ("flops", "0.2", "71.21"),
        ("flops", "0.4", "68.36"),
        ("params", "0.2", "71.41"),
        ("params", "0.4", "68.46"),
    ]


def test_table3_differs_in_exploration_alone(make_lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    make = laboratory.make_agent
    monkeypatch.setattr(laboratory, "make_agent", lambda config, env: seen.append(config) or make(config, env))
    rows = experiments.table3(make_lab(scale=replace(brief(), sparsities=(0.25,), step_ratio=0.25)))
    assert [(c.rl_pruner.epsilon, c.rl_pruner.epsilon_decay) for c in seen] == list(experiments.EXPLORATION)
    assert {c.rl_pruner.samples for c in seen} == {2}
    assert len(rows.rows) == 7
    assert {row["paper_top1"] for row in rows.rows} == {"72.94", "72.71", "73.10", "72.98", "73.46"}


def test_table4_trains_the_same_architecture_from_scratch(make_lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    train = experiments.train

    def spy(network: Any, *arguments: Any, **more: Any) -> None:
        before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
        trained.append((before, len(arguments[0])))
        train(network, *arguments, **more)

    monkeypatch.setattr(experiments, "train", spy)
    (row,) = content(experiments.table4(make_lab(scale=replace(brief(), sparsities=(0.4,)))))
    ((parameters, images),) = trained
    task = tasks.load("digits-resnet")
    assert images == len(task.train)  # all of them, not the few of post-training
    assert sum(p.numel() for p in parameters.values()) < sum(p.numel() for p in task.model.parameters())
    own = dict(task.model.named_parameters())
    for name, fresh in parameters.items():
        if fresh.ndim == 4:  # of 32-bit numbers a few are equal by chance
            assert np.isin(fresh.numpy(), own[name].detach().numpy()).mean() < 0.01
    assert float(row["gain"]) == pytest.approx(float(row["pruned_top1"]) - float(row["scratch_top1"]), abs=0.006)
    assert row["paper_gain"] == "0.51"


def test_figure1_shares(make_lab: Any) -> None:
    found = content(experiments.figure1(make_lab(scale=replace(brief(), sparsities=(0.0, 0.4)))))
    task = tasks.load("digits-resnet")
    scores = importance("taylor")(task.model, task.graph, task.train.inputs(slice(64)), task.train.labels[:64])
    first = [row for row in found if row["sparsity"] == "0.0"]
    np.testing.assert_allclose([float(row["importance"]) for row in first], [s.mean() for s in scores], rtol=1e-3)
    for sparsity in ("0.0", "0.4"):
        assert sum(float(row["share"]) for row in found if row["sparsity"] == sparsity) == pytest.approx(1, abs=1e-3)


def test_figure3_tells_every_step(make_lab: Any) -> None:
    found = content(experiments.figure3(make_lab(scale=replace(brief(), sparsities=(0.4,)))))
    groups = [group.name for group in tasks.load("digits-resnet").graph.groups]
    assert [(row["reward"], row["step"], row["group"]) for row in found] == [
        (reward, str(step), group) for reward in ("accuracy", "flops", "params") for step in range(3) for group in groups
    ]
    assert all(int(row["kept"]) == int(row["width"]) for row in found if row["step"] == "0")


def test_results_of_other_settings_are_not_mixed(make_lab: Any) -> None:
    scale = replace(brief(), sparsities=(0.4,))
    experiments.figure1(make_lab(scale=scale))
    for other in ({"seed": 1}, {"protocol": "paper"}, {"scale": replace(scale, val_images=65)}):
        with pytest.raises(ValueError, match=r"out: .* other settings"):
            experiments.figure1(make_lab(**({"scale": scale} | other)))


# ------------------------------------------------------------------------------------------------------ the command


@pytest.mark.parametrize("name", ["table2", "table4", "figure1", "figure3"])
def test_the_command(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    scale = replace(brief(), sparsities=(0.4,))
    monkeypatch.setitem(reproduce.SCALES, name, {"small": scale})
    options = {"network": "digits_resnet", "data": "digits", "weights": weights, "device": "cpu", "protocol": "paper"}
    reproduce.main(reproduce.Config(name, out=tmp_path, **options))
    printed = capsys.readouterr().out
    assert "reward on TEST" in printed
    assert "1 stages of 2 samples" in printed
    rows = Rows(tmp_path / f"{name}.csv", *columns(tmp_path / f"{name}.csv"))
    assert {row["protocol"] for row in rows.rows} - {""} == {"paper: reward on TEST, so test accuracy is tuned on"}
    assert imread(tmp_path / f"{name}.png").std() > 0.02  # something is drawn


def test_sparsities_that_meet_at_one_step_are_all_measured(tiny_task: Task, tiny: Any) -> None:
    simulator = Simulator(tiny_task, 0.5, 0.1)
    state, found = simulator.initial(), []
    visit = laboratory.at_marks(tiny, (0.0, 0.6, 0.7, 0.8), lambda simulator, state, mark: found.append((state.steps, mark)))
    visit(simulator, state)
    while not simulator.is_terminal(state):
        (state,) = simulator.successors(state, [np.ones(5)])
        visit(simulator, state)
    last = state.steps
    assert found == [(0, 0.0), (last, 0.6), (last, 0.7), (last, 0.8)]


def columns(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    header = tuple(path.read_text().splitlines()[0].split(","))
    return header, header[:1]


def test_the_paper_protocol_rewards_test_accuracy(make_lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    make = laboratory.make_agent
    monkeypatch.setattr(laboratory, "make_agent", lambda config, env: seen.append(env.unwrapped) or make(config, env))
    lab = make_lab(scale=brief(), protocol="paper")
    for base in lab.bases(("resnet56", "cifar10")):
        lab.prune(base, 0.4, lambda simulator, state: None)
    split, test = seen[0].simulator.scorer.split, tasks.load("digits-resnet").test
    assert len(split) == 64
    assert (split.images == test.images[:64]).all()


def test_missing_weights_name_the_command(tmp_path: Path, weights: Path) -> None:
    config = reproduce.Config
    with pytest.raises(ValueError, match=r"weights: expected a safetensors file.*train_base"):
        reproduce.main(config("figure1", out=tmp_path, network="digits_resnet", data="digits"))
    with pytest.raises(ValueError, match="weights_folder: expected the folder"):
        reproduce.main(config("table1", scale="paper", out=tmp_path))
    (tmp_path / "vgg19_cifar100.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"train_base.py --network resnet56 --data cifar10 --recipe paper") as missing:
        reproduce.main(config("table2", scale="paper", out=tmp_path, weights_folder=tmp_path))
    assert "vgg19" not in str(missing.value)
    with pytest.raises(ValueError, match="weights: expected none"):
        config("table1", scale="paper", weights=weights)
    with pytest.raises(ValueError, match="weights_folder: expected none"):
        config("table1", weights_folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["vgg19_cifar100.safetensors"]


def test_rows_are_sorted_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = Rows(path, ("name", "step", "value"), ("name", "step"))
    rows.add({"name": "b", "step": 10, "value": 1}, {"name": "b", "step": 9}, {"name": "a", "step": 11})
    assert path.read_text() == "name,step,value\na,11,\nb,9,\nb,10,1\n"
    again = Rows(path, ("name", "step", "value"), ("name", "step"))
    assert ("b", 10) in again
    assert ("b", 11) not in again
    with pytest.raises(ValueError, match=r"out: .* is not a file of this script"):
        Rows(path, ("name", "step"), ("name",))


def test_the_docs_tell_how_long_table2_took() -> None:
    root = Path(__file__).parents[2]
    printed = (root / "results" / "reproduce" / "small" / "table2.txt").read_text()
    (minutes,) = re.findall(r"^([\d.]+) minutes, ", printed, re.MULTILINE)
    assert f"`table2` took {minutes} minutes" in (root / "docs" / "reproduce.md").read_text()


@pytest.mark.parametrize("name", ["table1", "table3", "figure1", "figure3"])
def test_pictures_of_several_networks(make_lab: Any, name: str) -> None:
    lab = make_lab(scale=replace(brief(), sparsities=(0.25, 0.5)))
    found = getattr(experiments, name)(lab).rows
    other = [row | {"network": "another"} for row in found]
    third = [row | {"network": "a third", "paper_network": "densenet121"} for row in found]
    one, two, three = (
        imread(io.BytesIO(plots.picture(name, rows, "title"))) for rows in (found, found + other, found + other + third)
    )
    assert one.shape[0] <= two.shape[0] <= three.shape[0]
    assert one.shape[0] < three.shape[0]
