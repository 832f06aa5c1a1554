"""Networks side by side in threads: the same numbers as one after the other, and nothing is left changed."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch

from prune_gym.scoring import compensation, threads
from prune_gym.scoring.recalibration import Recalibration
from prune_gym.scoring.threads import side_by_side
from prune_gym.simulation.simulator import Simulator
from prune_gym.tasks import Task

CPU = torch.device("cpu")


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_each_in_a_thread_with_one_thread() -> None:
    def where(item: int) -> tuple[int, str, int]:
        return item, threading.current_thread().name, torch.get_num_threads()

    found = side_by_side(where, range(20), CPU)
    assert [item for item, *_ in found] == list(range(20))
    assert {threads for *_, threads in found} == {1}
    assert all(name.startswith("prune_gym") for _, name, _ in found)
    assert torch.get_num_threads() == 3
    started = []
    thread = threading.Thread(target=lambda: started.append(torch.get_num_threads()))  # as many as before in threads of others
    thread.start()
    thread.join()
    assert started == [3]
    main = threading.current_thread().name
    assert {name for _, name, _ in side_by_side(where, range(2), CPU)} == {main}  # too few
    assert {threads for *_, threads in side_by_side(where, range(1), CPU, shared=False)} == {1}
    assert {name for _, name, _ in side_by_side(where, range(9), torch.device("cuda"))} == {main}


@pytest.mark.usefixtures("three_threads")
def test_the_first_error_is_raised() -> None:
    def fail(item: int) -> int:
        if item > 4:
            raise ValueError(f"item {item}")
        return item

    with pytest.raises(ValueError, match="item 5"):
        side_by_side(fail, range(9), CPU)
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("fidelity", ["original", "recalibrated", "compensated"])
@pytest.mark.parametrize("importance", ["taylor", "obs"])
def test_scores_and_rankings_are_the_same(tiny_task: Task, fidelity: str, importance: str) -> None:
    together, alone = (Simulator(tiny_task, macs_reduction=0.6, fidelity=fidelity, importance=importance) for _ in range(2))
    actions = np.random.default_rng(0).dirichlet(np.ones(len(tiny_task.graph.groups)), 12)
    states = together.successors(together.initial(), list(actions))
    assert together.scores(states) == [alone.scores([state])[0] for state in states]
    together.rank(states)
    for state in states:
        np.testing.assert_array_equal(together.scorer.ranks(state.network), alone.scorer.ranks(state.network))


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("fidelity", ["recalibrated", "compensated"])
def test_what_networks_share_is_computed_once_before_the_threads_begin(
    tiny_task: Task, fidelity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[str] = []
    gram_matrices, moments = compensation._gram_matrices, Recalibration.moments.func

    def noted(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            where.append(threading.current_thread().name)
            return function(*arguments)

        return call

    monkeypatch.setattr(compensation, "_gram_matrices", noted(gram_matrices))
    watched = cached_property(noted(moments))
    watched.__set_name__(Recalibration, "moments")
    monkeypatch.setattr(Recalibration, "moments", watched)
    simulator = Simulator(tiny_task, macs_reduction=0.6, fidelity=fidelity, importance="obs")
    states = simulator.successors(simulator.initial(), list(np.eye(len(tiny_task.graph.groups))))
    simulator.rank(states)
    simulator.scores(states)
    assert where == [threading.current_thread().name] * 2  # the Gram matrices, and the moments


@pytest.mark.usefixtures("three_threads")
def test_a_forked_process_has_threads_of_its_own() -> None:
    assert side_by_side(abs, range(5), CPU) == list(range(5))
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if side_by_side(abs, range(5), CPU) == list(range(5)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_the_c_library_keeps_memory_as_it_is_told() -> None:
    mallopt = ctypes.CDLL(None).mallopt
    assert [mallopt(parameter, number) for parameter, number in threads.MALLOC.items()] == [1, 1, 1]
