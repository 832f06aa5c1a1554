"""Search agents with settings of their own, which they save and load with the rest."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, Generic, TypeVar

from stable_baselines3.common.type_aliases import GymEnv

from prune_gym.agents.search_agent import SearchAgent

Config = TypeVar("Config")


class ConfiguredAgent(SearchAgent, Generic[Config]):
    """A :class:`SearchAgent` with settings.

    Attributes:
        config: the settings, a frozen dataclass.
        config_type: its class, all of whose fields have defaults; a subclass names it.

    Args:
        env: as of :class:`SearchAgent`.
        config: the settings, by default those of ``config_type``.
        seed, tensorboard_log, verbose: as of :class:`SearchAgent`.

    Raises TypeError for settings of another class.
    """

    config_type: ClassVar[type]

    def __init__(
        self,
        env: GymEnv | str | None,
        config: Config | None = None,
        seed: int | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
    ):
        kind = self.config_type
        if not isinstance(config, kind | None):
            raise TypeError(f"config: expected settings of the class {kind.__name__}, got {type(config).__name__}.")
        self.config: Config = kind() if config is None else config
        super().__init__(env, seed, tensorboard_log, verbose)

    def get_data(self) -> dict[str, Any]:
        settings: Any = self.config
        return super().get_data() | {"config": asdict(settings)}

    def set_data(self, data: dict[str, Any]) -> None:
        super().set_data(data)
        self.config = self.config_type(**data["config"])
