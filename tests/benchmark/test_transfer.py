"""The transfer experiment: what a policy learns on, rows, the table, and going on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prune_gym.agents.gnn_rl import GNNRL
from prune_gym.benchmark import transfer as module
from prune_gym.benchmark.transfer import FIRST_SEED, SCHOOLS, Lesson, TransferConfig, learn, main, table, transfer
from prune_gym.envs import TabularEnv

NAMES = ("digits", "digits-resnet", "digits-mobilenet")


def lesson(learned_on: str, task: str = "digits-mobilenet", budget: int = 260) -> Lesson:
    return Lesson(task, 1, 0.6, budget, learned_on, 7)


def test_a_policy_that_learned_nothing_by_hand() -> None:
    row = learn(lesson("nothing"))
    env = TabularEnv("digits-mobilenet", base=1, macs_reduction=0.6, reward="accuracy")
    env.reset()
    found = env.prune_to(GNNRL(None, seed=7).policy_widths(env))
    assert row["val_accuracy"] == round(found.score.accuracy, 6)
    assert row["test_accuracy"] == round(env.simulator.test_accuracy(found.snapshot), 6)
    assert row["best"] == round(env.simulator.game.best(env.yardstick)[1], 6)
    env.reset()
    ended = False
    while not ended:
        _, accuracy, ended, _, _ = env.step(env.uniform_action)
    assert row["uniform"] == round(accuracy, 6)


def test_what_it_learns_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """By turns, and on all together as much as on one."""
    seen: list[tuple[str, int]] = []

    def noted(self: GNNRL, total: int) -> GNNRL:
        seen.append((self.pruning_env.simulator.name, total))
        return self

    monkeypatch.setattr(GNNRL, "learn", noted)
    for learned_on in SCHOOLS:
        seen.clear()
        learn(lesson(learned_on))
        names = {"nothing": [], "the others": ["digits", "digits-resnet"], "itself": ["digits-mobilenet"]}[learned_on]
        assert seen == [(f"{name}-1", 260 // 20) for _ in range(20 // max(1, len(names))) for name in names]


def test_the_smallest_budget() -> None:
    """One evaluation in a round, whatever the target and the schools."""
    for learned_on in SCHOOLS:
        row = learn(Lesson("digits", 0, 0.85, 20, learned_on, 1))
        assert row["learned_on"] == learned_on
        assert 0 < float(str(row["val_accuracy"])) < 1


def test_the_same_row_again() -> None:
    assert learn(lesson("the others")) == learn(lesson("the others"))


def test_an_experiment_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "transfer.csv"
    asked: list[Lesson] = []

    def in_process(function, items, processes):  # type: ignore[no-untyped-def]
        asked.extend(items)
        return map(function, items)

    monkeypatch.setattr(module, "in_processes", in_process)
    monkeypatch.setattr(module, "SCHOOLS", ("nothing",))
    transfer(TransferConfig(bases=(0,), seeds=1, out=out))
    assert [(one.task, one.base, one.seed) for one in asked] == [(name, 0, FIRST_SEED) for name in NAMES]
    asked.clear()
    main(TransferConfig(bases=(0,), seeds=2, out=out))
    assert [(one.task, one.seed) for one in asked] == [(name, FIRST_SEED + 1) for name in NAMES]
    assert (tmp_path / "transfer.md").read_text() == table(transfer(TransferConfig(table_only=True, out=out)).rows)


def test_the_table_by_hand() -> None:
    values = {("nothing", "0"): 0.1, ("nothing", "1"): 0.1, ("the others", "0"): 0.2, ("the others", "1"): 0.4}
    values |= {("itself", "0"): 0.5, ("itself", "1"): 0.6}
    rows = [
        {
            "task": "x",
            "base": "0",
            "macs_reduction": "0.75",
            "budget": "60",
            "learned_on": school,
            "seed": seed,
            "val_accuracy": str(value),
        }
        | {"uniform": "0.3", "best": "0.9"}
        for (school, seed), value in values.items()
    ]
    t = 12.7062 / np.sqrt(2)  # Student's quantile with one degree of freedom
    others, own, gap = (f"± {t * np.std(pair, ddof=1):.1f}" for pair in ([20, 40], [50, 60], [30, 20]))
    assert table(rows).splitlines() == [
        "| task | base | MACs | evaluations | uniform | after nothing | after the others | after itself | gap | best |",
        "|---|---|---|---|---|---|---|---|---|---|",
        f"| x | 0 | -75% | 60 | 30.0 | 10.0 ± 0.0 | 30.0 {others} | 55.0 {own} | +25.0 {gap} | 90.0 |",
    ]


def test_bad_arguments(tmp_path: Path) -> None:
    for settings, message in (
        ({"macs_reduction": 1.0}, "macs_reduction: expected"),
        ({"seeds": 0}, "seeds: expected"),
        ({"evaluations": 19}, "evaluations: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            TransferConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"out: .* holds no results yet"):
        transfer(TransferConfig(table_only=True, out=tmp_path / "none.csv"))
