"""Methods at matched MACs: what runs, what is kept, and the table of paired differences."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

from prune_gym.agents.rl_pruner import RLPrunerConfig
from prune_gym.benchmark import matched as module
from prune_gym.benchmark import processes
from prune_gym.benchmark.matched import COLUMNS, METHODS, MatchedConfig, MatchedRun, evaluate, matched, table
from prune_gym.training.distillation import PostTraining


@pytest.fixture
def config(tmp_path: Path) -> MatchedConfig:
    """One that takes seconds."""
    return MatchedConfig(
        task="digits",
        macs_reductions=(0.2,),
        methods=("uniform", "rl_pruner"),
        seeds=1,
        evaluations=8,
        step_ratio=0.1,
        train_images=64,
        val_images=64,
        posttraining=PostTraining(epochs=1, period=2, batch_size=64),
        final_images=64,
        final=PostTraining(epochs=1, batch_size=64),
        processes=1,
        runs=tmp_path / "runs",
        out=tmp_path / "matched.csv",
    )


QUICK = ("group_norm", "rl_pruner, by samples, no learning")


@pytest.mark.parametrize("method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
def test_every_method_finds_a_network_at_the_target(method: str, config: MatchedConfig) -> None:
    row = evaluate(MatchedRun(replace(config, evaluations=16), 0.2, method, 0))
    assert set(row) == set(COLUMNS)
    assert 0.2 <= float(str(row["flops_reduction"])) < 0.21
    assert int(str(row["evaluations"])) <= 16


def test_the_same_command_again_computes_nothing_and_gives_the_same_bytes(
    config: MatchedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ProcessPoolExecutor", lambda n, *_, **__: ThreadPoolExecutor(n))
    matched(config)
    first = config.out.read_bytes()
    config.out.unlink()
    matched(config)  # from the run folders
    assert config.out.read_bytes() == first
    monkeypatch.setattr(module, "evaluate", None)
    matched(config)
    assert config.out.read_bytes() == first
    assert len(matched(replace(config, table_only=True)).rows) == 2


def test_all_methods_take_the_seeds_one_after_the_other(config: MatchedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[MatchedRun] = []

    def note(function: object, runs: list[MatchedRun], workers: int) -> list[dict[str, object]]:
        asked.extend(runs)
        return []

    monkeypatch.setattr(module, "in_processes", note)
    matched(replace(config, seeds=2, macs_reductions=(0.2, 0.4)))
    order = [(run.seed, run.macs_reduction, run.method) for run in asked]
    assert order == [(s, m, name) for s in (0, 1) for m in (0.2, 0.4) for name in ("uniform", "rl_pruner")]
    assert len({run.run_config.out for run in asked}) == len(asked)


def test_settings_that_change_a_result_have_another_key(config: MatchedConfig, tmp_path: Path) -> None:
    def settings(method: str = "uniform", **changes: Any) -> str:
        return MatchedRun(replace(config, **changes), 0.2, method, 0).settings

    (tmp_path / "a.bin").write_bytes(b"a")
    (tmp_path / "b.bin").write_bytes(b"b")
    (tmp_path / "c.bin").write_bytes(b"a")
    found = [settings(), settings("group_norm"), settings(evaluations=9), settings(final=PostTraining(epochs=2))]
    found += [settings(train_images=None), settings(network="resnet20_a")]
    found += [
        settings(weights=tmp_path / "a.bin"),
        settings(weights=tmp_path / "b.bin"),
        settings(data=f"npz:{tmp_path / 'b.bin'}"),
    ]
    assert len(set(found)) == len(found)
    assert settings(weights=tmp_path / "c.bin") == settings(weights=tmp_path / "a.bin")  # the same weights elsewhere
    assert settings(seeds=3, methods=("uniform",), runs=tmp_path) == settings()


def test_rl_pruner_takes_as_many_samples_as_are_paid_for() -> None:
    def settings(method: str, reduction: float) -> RLPrunerConfig:
        return MatchedRun(MatchedConfig(), reduction, method, 0).run_config.rl_pruner

    assert (settings("rl_pruner", 0.4).samples, settings("rl_pruner", 0.65).samples) == (5, 2)
    assert settings("rl_pruner", 0.65).evaluations(33) <= 120
    assert settings("rl_pruner", 0.28).samples == 120 // 14 - 1  # 0.28 / 0.02 is a little more than 14
    learns, does_not = (settings(f"rl_pruner, by samples{name}", 0.4) for name in ("", ", no learning"))
    assert does_not == replace(learns, step_size=0.0)
    assert learns.prune_with == "sample"


def test_seeds_draw_the_images(config: MatchedConfig) -> None:
    first, again, other = (config.load_task(64, seed) for seed in (0, 0, 1))
    for part in ("train", "val"):
        images = [getattr(task, part).images for task in (first, again, other)]
        assert len(images[0]) == len(images[2]) == 64
        assert torch.equal(images[0], images[1])
        assert not torch.equal(images[0], images[2])
    assert torch.equal(first.test.images, other.test.images)


def test_a_table_of_nothing_is_refused(config: MatchedConfig) -> None:
    with pytest.raises(ValueError, match="holds no results yet"):
        matched(replace(config, table_only=True))


def test_no_run_folder_is_for_two_runs() -> None:
    with pytest.raises(ValueError, match="methods: expected different ones, got ppo ppo"):
        MatchedConfig(methods=("ppo", "ppo"))
    with pytest.raises(ValueError, match=r"macs_reductions: expected different ones, got 0\.5 0\.5"):
        MatchedConfig(macs_reductions=(0.5, 0.5))


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ValueError, match=r"methods: expected one of .*; got 'tailor'. Did you mean 'taylor'\?"):
        MatchedConfig(methods=("tailor",))


def test_differences_are_paired() -> None:
    final = {("uniform", 0): 0.80, ("uniform", 1): 0.90, ("lookahead", 0): 0.83, ("lookahead", 1): 0.91}
    rows = [
        dict.fromkeys(COLUMNS, "0.5")
        | {"task": "t", "macs_reduction": "0.4", "settings": "x", "method": method, "seed": str(seed), "evaluations": "7"}
        | {"compute": "2500000000000", "test_accuracy": "0.5", "final_test_accuracy": str(accuracy)}
        for (method, seed), accuracy in final.items()
    ]
    uniform, lookahead = table(rows).splitlines()[2:]
    half = stats.t.ppf(0.975, 1) * 1.0  # the standard deviation of 3 and 1 is √2, over √2
    assert (
        lookahead
        == f"| t | -40% | lookahead | 50.0 ± 0.0 | 87.0 ± {stats.t.ppf(0.975, 1) * 4:.1f} | +2.0 ± {half:.1f} | 7 | 2.5 |"
    )
    assert uniform.startswith("| t | -40% | uniform | 50.0 ± 0.0 | 85.0 ± ")
    assert "|  | 7 | 2.5 |" in uniform
    assert "| +3.0 |" in table([rows[0], rows[2]]).splitlines()[3]  # no interval of one seed
