"""All measurements of speed together: what is asked for, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prune_gym.benchmark.speed import at_scale
from prune_gym.benchmark.speed.suite import SpeedConfig, measure


def test_memory_needs_a_system_that_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_scale, "STATM", tmp_path / "statm")
    with pytest.raises(ValueError, match=r"memory: expected a system with .*statm, this one has none; use --no-memory"):
        measure(SpeedConfig(device="cpu"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "threads: expected an integer >= 1, got 0"),
        ({"repetitions": 0}, "repetitions: expected an integer >= 1, got 0"),
        ({"images": -1}, "images: expected an integer >= 1, got -1"),
        ({"device": "tpu"}, "device: "),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        SpeedConfig(**settings)


def test_where_the_numbers_go(tmp_path: Path) -> None:
    assert SpeedConfig(device="cpu").file == Path("results/speed_cpu.json")
    assert SpeedConfig(device="cpu", out=tmp_path / "a.json").file == tmp_path / "a.json"
