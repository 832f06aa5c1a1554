"""All measurements of speed together: what is asked for, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from prune_gym.benchmark.speed import at_scale
from prune_gym.benchmark.speed.suite import SpeedConfig, apart, measure, middle


def test_memory_needs_a_system_that_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_scale, "STATM", tmp_path / "statm")
    with pytest.raises(ValueError, match=r"memory: expected a system with .*statm, this one has none; use --no-memory"):
        measure(SpeedConfig(device="cpu"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "threads: expected an integer >= 1, got 0"),
        ({"repetitions": 0}, "repetitions: expected an integer >= 1, got 0"),
        ({"processes": 0}, "processes: expected an integer >= 1, got 0"),
        ({"images": -1}, "images: expected an integer >= 1, got -1"),
        ({"device": "tpu"}, "device: "),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        SpeedConfig(**settings)


def test_the_process_in_the_middle_is_reported() -> None:
    rows = [{"ratio_to_bare_passes": ratio, "best_batch_size": size} for ratio, size in ((1.4, 1), (1.0, 2), (1.1, 3))]
    assert middle(rows) is rows[2]


@pytest.mark.slow
def test_a_process_of_its_own_has_as_many_threads() -> None:
    assert apart(os.getpid) != os.getpid()
    assert apart(torch.get_num_threads) == torch.get_num_threads()


def test_where_the_numbers_go(tmp_path: Path) -> None:
    assert SpeedConfig(device="cpu").file == Path("results/speed_cpu.json")
    assert SpeedConfig(device="cpu", out=tmp_path / "a.json").file == tmp_path / "a.json"
