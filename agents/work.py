"""What a search does with its evaluations, before it does it: what a run's announcement is made of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """How many networks a search scores, in how many of its steps, and how often it comes to the target."""

    scored: int
    steps: int
    episodes: int


def work_in_steps(evaluations: int, steps: int) -> Work:
    """Of an agent that only steps, with so many steps in an episode."""
    return Work(evaluations, evaluations, max(1, evaluations // steps))


def check_pays(evaluations: int, steps: int) -> None:
    """Raise ValueError if so many evaluations do not pay for an episode."""
    if evaluations < steps:
        raise ValueError(f"evaluations: expected at least {steps}, one per pruning step, got {evaluations}.")


def work_in_stages(evaluations: int, steps: int, stage: int, most: int) -> Work:
    """Of an agent that previews in stages of so many evaluations before each of its steps, and takes so many at most in an
    episode."""
    left, episodes = evaluations, 0
    while left >= steps:  # an episode previews in whole stages, and as long as another is paid for, it follows
        left -= min(most, steps + (left - steps) // stage * stage)
        episodes += 1
    return Work(evaluations - left, episodes * steps, max(1, episodes))
