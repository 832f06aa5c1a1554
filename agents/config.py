"""The settings of a run: one dataclass, which is also the command line and, as JSON, config.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prune_gym import tasks
from prune_gym.agents.registry import AGENTS
from prune_gym.agents.rl_pruner import RLPrunerConfig
from prune_gym.agents.sb3 import A2CConfig, OffPolicyConfig, PPOConfig
from prune_gym.arguments import check_choice, check_integer, check_number, choose_device, unwrap_numpy_scalars
from prune_gym.envs.pruning import PruningEnv
from prune_gym.scoring.evaluation import PRECISIONS
from prune_gym.scoring.importance import CRITERIA
from prune_gym.simulation.allocation import ROUNDINGS
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.rewards import make_reward
from prune_gym.simulation.simulator import PROTOCOLS
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining

NESTED: dict[str, type] = {  # the settings that have settings of their own
    "posttraining": PostTraining,
    "rl_pruner": RLPrunerConfig,
    "ppo": PPOConfig,
    "a2c": A2CConfig,
    "off_policy": OffPolicyConfig,
}


@dataclass(frozen=True)
class RunConfig:
    """Prune a task's network with an agent, and write a run folder."""

    task: str = "digits"
    """What to prune: digits, digits-resnet or digits-mobilenet."""
    network: str | None = None
    """Instead of a task: a network of prune_gym.models, ..."""
    data: str | None = None
    """... the data set it classifies (digits, cifar10, cifar100, npz:PATH, folder:PATH), ..."""
    weights: Path | None = None
    """... and its weights, a safetensors file, see scripts/train_base.py."""
    agent: str = "rl_pruner"
    """Who prunes: rl_pruner, ppo, a2c, sac, td3, ddpg, uniform, taylor or random."""
    sparsity: float = 0.5
    """Channel sparsity to reach: removed filters over filters of the original network."""
    step_ratio: float = 0.05
    """Filters that one pruning step removes, over filters of the original network."""
    reward: str = "accuracy"
    """Reward strategy: accuracy, flops, params, or paper (equation 17 with --reward-weights)."""
    reward_weights: tuple[float, float, float] | None = None
    """Alpha, beta and gamma of equation 17, with --reward paper."""
    reward_split: str = "val"
    """Split whose accuracy the reward reads: val, or test for the paper's protocol, which tunes on what it reports."""
    rounding: str = "largest_remainder"
    """How shares become whole channels: largest_remainder, paper or carry."""
    importance: str = "taylor"
    """Which channels of a layer go first: taylor, l1, l2, bn_scale or random."""
    evaluations: int | None = None
    """Architectures that the agent may score; by default what one episode of RL-Pruner takes."""
    seed: int = 0
    """Seed of the agent. The base network and the splits do not depend on it."""
    device: str = "auto"
    """Where networks are evaluated: auto, cpu, cuda, ..."""
    precision: str = "float32"
    """In which accuracies are computed: float32, or bfloat16, which is faster on a GPU."""
    out: Path | None = None
    """Run folder; must not hold a run yet, unless --resume. By default a new folder in runs/."""
    resume: bool = False
    """Go on with the run in --out that was interrupted or killed; its settings are those in the folder. Starts it if there
    is none."""
    posttraining: PostTraining = field(default_factory=PostTraining)
    rl_pruner: RLPrunerConfig = field(default_factory=RLPrunerConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    a2c: A2CConfig = field(default_factory=A2CConfig)
    off_policy: OffPolicyConfig = field(default_factory=OffPolicyConfig)

    def __post_init__(self) -> None:
        unwrap_numpy_scalars(self)
        for name, default in NESTED.items():
            if not isinstance(getattr(self, name), default):
                raise TypeError(f"{name}: expected a {default.__name__}, got {type(getattr(self, name)).__name__}.")
        if not isinstance(self.resume, bool):
            raise TypeError(f"resume: expected True or False, got {self.resume!r}.")
        if not isinstance(self.out, str | Path | None):
            raise TypeError(f"out: expected a path, got {type(self.out).__name__}.")
        if self.resume and self.out is None:
            raise ValueError("resume: expected --out with the folder of the run to go on with, got none.")
        choices: dict[str, Iterable[str]] = {
            "agent": AGENTS,
            "task": tasks.TASKS,
            "reward_split": PROTOCOLS,
            "rounding": ROUNDINGS,
            "importance": CRITERIA,
            "precision": PRECISIONS,
        }
        for name, known in choices.items():
            check_choice(name, getattr(self, name), known)
        make_reward(self.reward, self.reward_weights)
        own = {"network": self.network, "data": self.data, "weights": self.weights}
        if any(own.values()) and not all(own.values()):
            missing = next(name for name, value in own.items() if not value)
            raise ValueError(f"{missing}: expected network, data and weights together, got no {missing}.")
        if all(own.values()) and self.task != "digits":
            raise ValueError(f"task: expected a task, or network, data and weights; got both, task {self.task!r}.")
        if self.evaluations is not None:
            check_integer("evaluations", self.evaluations, 1)
        check_integer("seed", self.seed, 0, 2**32)
        check_number("sparsity", self.sparsity, "(0, 1)")
        check_number("step_ratio", self.step_ratio, "(0, 1]")
        choose_device(self.device)

    def load_task(self, progress: bool = False) -> Task:
        """What to prune; raises like :func:`prune_gym.tasks.load` and :func:`prune_gym.tasks.make`."""
        if self.network and self.data:
            return tasks.make(self.network, self.data, self.weights)
        return tasks.load(self.task, progress)

    def environment(self, task: Task, cache: ResultCache | None = None) -> PruningEnv:
        """The environment of this run."""
        return PruningEnv(
            task=task,
            sparsity=self.sparsity,
            step_ratio=self.step_ratio,
            reward=self.reward,
            reward_weights=self.reward_weights,
            reward_split=self.reward_split,
            rounding=self.rounding,
            importance=self.importance,
            device=self.device,
            precision=self.precision,
            posttraining=self.posttraining,
            cache=cache,
        )

    def settings(self) -> dict[str, Any]:
        """As JSON, without what does not influence the result."""
        settings = asdict(self)
        del settings["out"], settings["resume"]
        settings["device"] = str(self.device)
        kind, colon, path = (self.data or "").partition(":")  # paths that lead there from everywhere
        if colon:
            settings["data"] = f"{kind}:{Path(path).expanduser().resolve()}"
        if self.weights:
            settings["weights"] = str(Path(self.weights).expanduser().resolve())
        return json.loads(json.dumps(settings))


def read_config(folder: Path, **changes: Any) -> RunConfig:
    """The settings of the run in a folder, with changes. Raises FileNotFoundError, or ValueError for a damaged file."""
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected the folder of a run, made by train_agent.py.")
    try:
        stored = json.loads(path.read_text())
        del stored["made_by"]
        nested = {key: kind(**_tuples(stored[key])) for key, kind in NESTED.items()}
        return RunConfig(**_tuples(stored) | nested | changes)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: damaged, or of another version or machine ({error}).") from error


def _tuples(settings: dict[str, Any]) -> dict[str, Any]:
    """What JSON made lists of."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
