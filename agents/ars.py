"""Augmented random search of sb3-contrib, whose callbacks see every step and stop it, as those of Stable-Baselines3 do."""

from __future__ import annotations

from typing import Any, TypeVar

import sb3_contrib
from stable_baselines3.common.callbacks import BaseCallback

Self = TypeVar("Self", bound="ARS")


class StoppedError(Exception):
    """A callback said that learning is over."""

    def __init__(self, callback: BaseCallback):
        super().__init__(callback)
        self.callback = callback


class ARS(sb3_contrib.ARS):
    """Augmented random search (Mania, Guy and Recht, 2018): whole episodes of policies around the present one.

    The base class plays them by ``evaluate_policy``, and asks callbacks after every step, but neither tells them what the step
    gave nor reads their answer; this one does both.
    """

    def _trigger_callback(self, _locals: dict[str, Any], _globals: dict[str, Any], callback: BaseCallback, n_envs: int) -> None:
        self.num_timesteps += n_envs
        callback.update_locals(_locals)
        if not callback.on_step():
            raise StoppedError(callback)

    def learn(self: Self, *args: Any, **kwargs: Any) -> Self:
        """As of the base class; a callback that answers False ends it at once."""
        try:
            return super().learn(*args, **kwargs)
        except StoppedError as stopped:
            stopped.callback.on_training_end()
            return self
