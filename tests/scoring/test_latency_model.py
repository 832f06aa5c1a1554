"""Times of networks from those of others: against times that a known form gave, and on real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import prune_gym
from prune_gym.scoring.latency_model import LatencyModel, measure_latency, random_widths, read_latency_model
from prune_gym.tasks import Task

FULL = np.array([8, 4, 6])
PAIRS = np.array([[0, 1], [1, 2]])


def truth(widths: np.ndarray) -> np.ndarray:
    """A tenth always, a bit for the channels of the first group, and what its layers' sizes multiply to."""
    first, second, third = np.moveaxis(widths / FULL, -1, 0)
    return 0.1 + 0.2 * first + 0.4 * first * second + 0.3 * second * third


def made(timed: np.ndarray | None = None) -> LatencyModel:
    timed = random_widths(FULL, 40, np.random.default_rng(0)) if timed is None else timed
    return LatencyModel("a clock", 64, 2.5, PAIRS, FULL, timed, truth(timed))


def test_it_finds_the_form_that_the_times_have() -> None:
    widths = np.stack(np.meshgrid(*[np.arange(1, width + 1) for width in FULL], indexing="ij"), -1)
    np.testing.assert_allclose(made().share(widths), truth(widths), rtol=1e-9)
    assert made().share(FULL) == pytest.approx(1.0)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.5))
def test_a_larger_network_is_never_said_to_be_faster(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    timed = random_widths(FULL, 12, rng)
    noisy = LatencyModel("", 1, 1.0, PAIRS, FULL, timed, truth(timed) * rng.uniform(1 - noise, 1 + noise, 12))
    smaller = rng.integers(1, FULL + 1)
    larger = np.minimum(smaller + rng.integers(0, 3, 3), FULL)
    assert noisy.share(larger) >= noisy.share(smaller) - 1e-12


def test_relative_errors_count() -> None:
    """Of two times of the same network the share lies where both are wrong by the same factor or so, not in the middle."""
    timed = np.array([[1, 1, 1]] * 2)
    one = LatencyModel("", 1, 1.0, np.zeros((0, 2), int), FULL, timed, np.array([0.5, 1.0]))
    assert one.share(timed[0]) == pytest.approx((1 / 0.5 + 1 / 1.0) / (1 / 0.5**2 + 1 / 1.0**2), abs=1e-3)


def test_the_original_network_takes_its_own_time() -> None:
    timed = random_widths(FULL, 40, np.random.default_rng(0))
    slow = LatencyModel("", 1, 1.0, PAIRS, FULL, timed, 1.1 * truth(timed))
    assert slow.share(FULL) == pytest.approx(1, abs=1e-3)


class Block(nn.Module):
    """A group that meets itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.inner(x)).mean((2, 3)))


def test_a_group_may_meet_itself() -> None:
    model = Block().eval()
    images = torch.randn(2, 1, 6, 6)
    graph = prune_gym.trace(model, images)
    assert measure_latency(model, graph, images, networks=3).pairs.tolist() == [[0, 0]]
    widths = np.arange(1, 7)[:, None]
    square = LatencyModel("", 1, 1.0, np.array([[0, 0]]), np.array([6]), widths, (1 + widths[:, 0] ** 2) / 37)
    np.testing.assert_allclose(square.share(widths), square.shares)


def test_a_file_is_read_as_it_was(tmp_path: Path) -> None:
    model = made()
    model.save(tmp_path / "times.json")
    again = read_latency_model(tmp_path / "times.json")
    assert (again.device, again.images, again.milliseconds) == ("a clock", 64, 2.5)
    np.testing.assert_array_equal(again.share(model.timed), model.share(model.timed))
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "times.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": [[0, 3]]}, "numbers of groups"),
        ({"pairs": [0, 1]}, "cannot reshape"),
        ({"shares": [-1.0] * 40}, "shares: expected positive"),
        ({"shares": [5e-324] * 40}, "shares: expected positive"),
        ({"shares": [10**400] * 40}, "shares: expected numbers"),
        ({"shares": [1.0]}, "arrays do not fit together"),
        ({"widths": [8, 4]}, "arrays do not fit together"),
        ({"widths": [1, 4, 6]}, "widths from 1 to those of the original"),
        ({"widths": [8.0, 4.0, 6.0]}, "widths: expected numbers, got float64"),
        ({"widths": None}, "widths: expected numbers"),
        ({"timed": [[0, 1, 1]] * 40}, "widths from 1 to those of the original"),
        ({"timed": "all"}, "timed: expected numbers"),
        ({"images": -4}, "images: expected an integer"),
        ({"milliseconds": 0}, "milliseconds: expected"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    made().save(tmp_path / "times.json")
    content = json.loads((tmp_path / "times.json").read_text())
    (tmp_path / "times.json").write_text(json.dumps(content | change))
    with pytest.raises(ValueError, match=rf"times.json: expected times of networks, but it is damaged \(.*{message}"):
        read_latency_model(tmp_path / "times.json")
    del content["pairs"]
    (tmp_path / "times.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it lacks 'pairs'"):
        read_latency_model(tmp_path / "times.json")


@pytest.mark.parametrize("content", ["", "[]", "{}", "not JSON", '{"shares": 1e999}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "times.json").write_text(content)
    with pytest.raises(ValueError, match="expected times of networks, but it is damaged"):
        read_latency_model(tmp_path / "times.json")


@pytest.mark.parametrize("widths", [[8, 4], [0, 1, 1], [9, 1, 1], [[8, 4, 7]]])
def test_other_networks_are_refused(widths: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"latency: expected widths of the network that was timed, from 1 to \[8, 4, 6\], got"):
        made().share(np.array(widths))


def test_real_networks(tiny_task: Task) -> None:
    graph = tiny_task.graph
    model = measure_latency(tiny_task.model, graph, tiny_task.val.images[:16], networks=12, seed=3)
    assert (model.images, model.timed.shape, model.shares.shape) == (16, (12, len(graph.groups)), (12,))
    np.testing.assert_array_equal(model.timed, random_widths(graph.widths, 12, np.random.default_rng(3)))
    names = [group.name for group in graph.groups]
    pairs = {"stem": ("inner", "expand"), "expand": ("grouped",), "grouped": ("hidden",)}
    assert {(names[a], names[b]) for a, b in model.pairs} == {(one, other) for one in pairs for other in pairs[one]}
    assert model.milliseconds > 0
    assert np.isfinite(model.share(model.timed)).all()
    assert model.share(graph.widths) > 0


def test_bad_arguments(tiny_task: Task) -> None:
    model, graph, images = tiny_task.model, tiny_task.graph, tiny_task.val.images[:2]
    with pytest.raises(ValueError, match=r"networks: expected an integer .*10.*, got 9"):
        measure_latency(model, graph, images, networks=9)
    with pytest.raises(ValueError, match="seed: "):
        measure_latency(model, graph, images, seed=-1)
    with pytest.raises(ValueError, match="images: expected at least one"):
        measure_latency(model, graph, images[:0])
    with pytest.raises(ValueError, match="model: expected one in evaluation mode"):
        measure_latency(Block().train(), graph, images)
