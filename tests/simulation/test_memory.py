"""Long searches do not grow."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from prune_gym.envs import PruningEnv
from prune_gym.training.distillation import PostTraining

pytestmark = pytest.mark.slow
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def used(device: str) -> dict[str, float]:
    """Megabytes: of the process, of Python's objects, and on the GPU."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found = {"process": pages * 4096 / 1e6, "python": tracemalloc.get_traced_memory()[0] / 1e6}
    return found | {"device": torch.cuda.memory_allocated() / 1e6 if device == "cuda" else 0.0}


@pytest.mark.parametrize("device", DEVICES)
def test_thousands_of_steps_and_post_trainings(tiny_task, device):
    """One value of every new architecture is kept, about a hundred bytes; everything else is let go."""
    plain = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, device=device)
    settings = PostTraining(epochs=1, batch_size=60)
    training = PruningEnv(tiny_task, sparsity=0.5, step_ratio=0.1, posttraining=settings, device=device)
    rng = np.random.default_rng(0)

    def steps(env, n):
        for _ in range(n):
            if env._state is None or env.simulator.is_terminal(env._state):
                env.reset()
            env.step(rng.random(env.action_space.shape[0]))

    tracemalloc.start()
    steps(plain, 500)
    steps(training, 20)
    before = used(device)
    steps(plain, 2000)
    steps(training, 20)
    after = used(device)
    tracemalloc.stop()
    assert after["python"] - before["python"] < 3
    assert after["process"] - before["process"] < 40
    assert after["device"] - before["device"] < 3
