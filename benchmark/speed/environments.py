"""Steps per second of environments, one and many together, measured in turns."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import gymnasium
import numpy as np

from prune_gym.registration import BLOCKS, LIVE, TABULAR

COPIES = {"live": 64, "table": 1024}
STEPS_OF_ONE = {"live": 20, "table": 3000}  # per repetition, beside as many of all copies together
STEPS_OF_MANY = {"live": 1, "table": 20}


def steps_per_second(device: str, repetitions: int) -> dict[str, dict[str, float]]:
    """For every registered environment the steps per second of one and of many together, episode after episode of random actions,
    as medians; and how many times the ones of one the others are."""
    kinds = {"live": LIVE, "table": TABULAR | BLOCKS}
    return {name: one_and_many(name, kind, device, repetitions) for kind, names in kinds.items() for name in names}


def one_and_many(name: str, kind: str, device: str, repetitions: int) -> dict[str, float]:
    """:func:`steps_per_second` of one environment, of a kind in :data:`COPIES`."""
    settings: dict[str, Any] = {"reward": "accuracy"} | ({"macs_reduction": 0.5, "device": device} if kind == "live" else {})
    one = gymnasium.make(name, **settings).unwrapped  # without wrappers, as in a vector environment
    many = gymnasium.make_vec(name, num_envs=COPIES[kind], **settings)
    inner: Any = many.unwrapped
    for env in (one, many):
        env.reset()
        env.action_space.seed(0)
    alone, together = [], []
    for _ in range(repetitions + 1):
        actions = [one.action_space.sample() for _ in range(STEPS_OF_ONE[kind])]
        start = time.perf_counter()
        for action in actions:
            if one.step(action)[2]:
                one.reset()
        alone.append(len(actions) / (time.perf_counter() - start))
        batches, before = [many.action_space.sample() for _ in range(STEPS_OF_MANY[kind])], inner.evaluations
        start = time.perf_counter()
        for batch in batches:
            many.step(batch)
        together.append((inner.evaluations - before) / (time.perf_counter() - start))  # copies that begin anew take no step
    rates = median(alone[1:]), median(together[1:])  # the first ones allocate
    many.close()
    return {
        "steps_per_second": round(rates[0], 1),
        "copies": COPIES[kind],
        "steps_per_second_together": round(rates[1], 1),
        "times_those_of_one": round(float(np.divide(*rates[::-1])), 2),
    }
