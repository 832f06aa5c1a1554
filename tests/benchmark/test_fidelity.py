"""The fidelity study: what it draws, what it writes, and what it makes of the numbers."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from prune_gym import tasks
from prune_gym.benchmark import fidelity
from prune_gym.benchmark.fidelity import (
    COLUMNS,
    SCORES,
    Correlation,
    FidelityConfig,
    column,
    correlations,
    draw_architectures,
    main,
    study,
    table,
    with_interval,
)
from prune_gym.scoring.candidates import FIDELITIES, Candidates
from prune_gym.surgery.compact import compact
from prune_gym.surgery.slicing import named_tensors, scatter_tensors
from prune_gym.tasks import Task
from prune_gym.training.distillation import STARTS, PostTraining
from prune_gym.training.train import accuracy


@pytest.fixture
def config(tmp_path: Path, tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> FidelityConfig:
    monkeypatch.setattr(tasks, "load", lambda name, progress=False: tiny_task)
    training = PostTraining(epochs=1, learning_rate=0.02, batch_size=60)
    return FidelityConfig("tiny", architectures=4, macs_reduction=0.5, posttraining=training, out=tmp_path / "study.csv")


def test_architectures_of_the_same_macs(tiny_task: Task) -> None:
    graph, full = tiny_task.graph, tiny_task.graph.cost(tiny_task.graph.full()).macs
    for reduction in (0.3, 0.6):
        found = draw_architectures(tiny_task, 12, reduction)
        assert max(abs(1 - graph.cost(a).macs / full - reduction) for a in found) < 0.06
        assert len({a.digest for a in found}) == 12
        assert found == draw_architectures(tiny_task, 14, reduction)[:12]


def test_the_study(config: FidelityConfig, tiny_task: Task, capsys: pytest.CaptureFixture[str]) -> None:
    main(config)
    with config.out.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["task"], row["architecture"]) for row in rows] == [("tiny", str(n)) for n in range(4)]
    graph, tensors = tiny_task.graph, named_tensors(tiny_task.model, tiny_task.graph)
    for row, architecture in zip(rows, draw_architectures(tiny_task, 4, 0.5), strict=True):
        for name in FIDELITIES:
            small = Candidates(graph, tensors, name, tiny_task.train).tensors(architecture)
            weights = scatter_tensors(tensors, small, graph.units, architecture)
            network = compact(tiny_task.model, graph, architecture, form="program", weights=weights).eval()
            assert float(row[column(name, None, "float32")]) == pytest.approx(accuracy(network, tiny_task.val), abs=1e-6)
            with torch.no_grad():
                first = network(tiny_task.val.images[:64]).argmax(1) == tiny_task.val.labels[:64]
            assert float(row[column(name, 64, "float32")]) == pytest.approx(float(first.float().mean()), abs=1e-6)
            assert float(row[f"seconds {name}"]) > 0
        assert all(0 <= float(row[f"trained from {start}"]) <= 1 for start in STARTS)
    assert capsys.readouterr().out.strip() == config.out.with_suffix(".md").read_text().strip()
    assert config.out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_is_known_is_not_computed_again(config: FidelityConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    main(config)
    before = config.out.read_bytes()

    def never(*_: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(fidelity, "_scores", never)
    main(config)
    assert config.out.read_bytes() == before


def test_correlations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.random(40).round(1), rng.random(40).round(1)  # with ties
    for kind, function in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        value, low, high = with_interval(x, x + noise, kind)
        assert value == pytest.approx(function(x, x + noise).statistic)
        assert low < value < high
        assert high - low < 0.7
        assert with_interval(x, x, kind)[:2] == (pytest.approx(1), pytest.approx(1))
        assert with_interval(x, -x, kind)[0] == pytest.approx(-1)
        assert np.isnan(with_interval(x, np.ones(40), kind)).all()


def test_the_interval_holds_the_truth() -> None:
    """Spearman's correlation of normal numbers with correlation r is 6 / pi * arcsin(r / 2)."""
    rng, r = np.random.default_rng(1), 0.6
    truth, inside = 6 / np.pi * np.arcsin(r / 2), 0
    resamples, fidelity.RESAMPLES = fidelity.RESAMPLES, 300
    try:
        for _ in range(60):
            x = rng.standard_normal(40)
            _, low, high = with_interval(x, r * x + np.sqrt(1 - r**2) * rng.standard_normal(40), "spearman")
            inside += low <= truth <= high
    finally:
        fidelity.RESAMPLES = resamples
    assert inside >= 50


def test_a_line_for_every_task_and_score() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"task": task, "architecture": str(n), **{name: str(rng.random()) for name in COLUMNS[2:]}}
        for task in ("one", "two")
        for n in range(6)
    ]
    found = list(correlations(rows))
    lines = table(rows, found).splitlines()[2:]
    assert len(lines) == 2 * len(SCORES)
    assert lines[0].startswith("| one | original | 64 | float32 | ")
    assert len(found) == 2 * len(SCORES) * len(STARTS)


def test_correlations_are_computed_once(config: FidelityConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def noted(rows: Sequence[Mapping[str, str]]) -> Iterator[Correlation]:
        calls.append(rows)
        return correlations(rows)

    monkeypatch.setattr(fidelity, "correlations", noted)
    main(config)
    assert len(calls) == 1


@pytest.mark.slow
def test_the_committed_table_is_made_of_the_committed_rows() -> None:
    results = Path(__file__).parents[2] / "results"
    rows = study(FidelityConfig(table_only=True, out=results / "fidelity.csv")).rows
    assert table(rows, list(correlations(rows))) == (results / "fidelity.md").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": 2}, "architectures: "),
        ({"macs_reduction": 1.0}, "macs_reduction: "),
        ({"train_images": 0}, "train_images: "),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        FidelityConfig(**settings)


def test_rows_of_other_settings_are_not_taken_for_these(config: FidelityConfig) -> None:
    main(config)
    before = config.out.read_bytes()
    with pytest.raises(ValueError, match=r"out: .*study.csv holds results of tiny with other settings or another network \("):
        study(replace(config, macs_reduction=0.4))
    assert config.out.read_bytes() == before
