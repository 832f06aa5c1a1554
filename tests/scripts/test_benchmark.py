"""The benchmark's command: what it says, what it forecasts, and its exit codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playing import plan_of, read_plan
from reward_study import RewardStudyConfig

from benchmark import LeaderboardConfig, PlayConfig, SubmitConfig, ValidateConfig, check, main, submit, write_leaderboard
from prune_gym.benchmark import harness
from prune_gym.benchmark.harness import BenchmarkConfig
from prune_gym.benchmark.play import Play, Record
from prune_gym.benchmark.store import Store
from prune_gym.benchmark.workers import Failure, attempt

ROOT = Path(__file__).parents[2]
TASK = "tabular-digits-mobilenet"
CONFIG = PlayConfig((TASK,), (0.6,), ("uniform", "random"), seeds=1, budget="Prune-100")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def local(plays: Iterable[Play], processes: int, made: object) -> Iterator[tuple[Play, Record | Failure]]:
        for play in plays:
            yield play, attempt(play)

    monkeypatch.setattr(harness, "local", local)
    monkeypatch.chdir(tmp_path)


def test_from_a_dry_run_to_a_row_in_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(replace(CONFIG, dry_run=True))
    unknown = "How long 2 of them take is not known, as the store has no play of the same agent and task."
    assert said(capsys).endswith(f"2 plays to be played. {unknown}")
    assert not Path("runs/benchmark").exists()
    main(CONFIG)
    assert "all plays are in runs/benchmark; python scripts/report.py" in said(capsys)
    main(replace(CONFIG, seeds=3, dry_run=True))
    assert "4 plays to be played. With --processes 2 this takes about " in said(capsys)
    with Store(CONFIG.store).claim(replace(CONFIG, seeds=2).plays()[-1]):
        main(replace(CONFIG, seeds=2))
    assert "left to another command: 1 play;" in said(capsys)
    submit(SubmitConfig("random", tmp_path / "mine.csv", tried='{"scale": [0.1, 3]}'))
    assert "mine.csv holds 1 play of random;" in said(capsys)
    check(ValidateConfig(tmp_path / "mine.csv", tmp_path / "no results"))
    output = said(capsys)
    assert "| random |" in output
    assert "is right: every network has the accuracies that it says" in output


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_failures_are_listed_with_their_tracebacks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def bad(config: object, env: object) -> None:
        raise RuntimeError("no idea")

    monkeypatch.setitem(harness.AGENTS._makers, "bad", bad)
    with pytest.raises(SystemExit) as stop:
        main(replace(CONFIG, agents=("bad", "uniform")))
    assert stop.value.code == "1 play failed; the same command tries them again."  # printed, and the exit code is 1
    errors = capsys.readouterr().err
    assert "failed: bad on tabular-digits-mobilenet-1 at -60%, seed 100\nTraceback" in errors
    assert "RuntimeError: no idea" in errors


@pytest.mark.parametrize("kind", [PlayConfig, RewardStudyConfig])
def test_a_plan_comes_before_the_command_line(tmp_path: Path, kind: type[BenchmarkConfig]) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("seeds: 7\n")
    for arguments in (["--plan", str(plan)], [f"--plan={plan}"], ["--seeds", "2", "--plan", str(plan)]):
        assert plan_of(kind)(arguments) == kind(seeds=7)
    assert plan_of(kind)(["--seeds", "2"]) is None


def test_a_plan_is_settings_by_name(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"tasks: [{TASK}]\nmacs_reductions: [0.6]\nagents: [random]\nseeds: 3\nbudget: Prune-100\nstore: elsewhere\n")
    expected = PlayConfig((TASK,), (0.6,), ("random",), seeds=3, budget="Prune-100", store=Path("elsewhere"))
    assert read_plan(plan, PlayConfig) == expected
    for text in ("seeds: three", "store: 5", "store: null", "tasks: [[a]]", "macs_reductions: [[0.7]]"):
        plan.write_text(text)
        with pytest.raises(ValueError, match=r"plan: .*plan.yaml: "):
            read_plan(plan, PlayConfig)
    for text, message in (
        ("a: [", "plan: expected YAML"),
        ("- 1", "plan: expected settings by name"),
        ("seed: 1", "got {'seed': 1}"),
        ("plan: other.yaml", "got {'plan': 'other.yaml'}"),
    ):
        plan.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_plan(plan, PlayConfig)
    with pytest.raises(FileNotFoundError):
        read_plan(tmp_path / "none.yaml", PlayConfig)


def test_a_leaderboard_needs_submissions(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder: expected submissions \(\*.csv\) in .*, found none"):
        write_leaderboard(LeaderboardConfig(tmp_path, tmp_path / "page.md"))
    assert not (tmp_path / "page.md").exists()


@pytest.mark.slow
def test_the_committed_leaderboard_is_made_of_the_committed_submissions(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "leaderboard.md"
    page.parent.mkdir()
    (tmp_path / "results").symlink_to(ROOT / "results")
    write_leaderboard(LeaderboardConfig(tmp_path / "results" / "submissions", page))
    assert page.read_text() == (ROOT / "docs" / "leaderboard.md").read_text()
