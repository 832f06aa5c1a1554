"""The settings of a run: one dataclass, which is also the command line and, as JSON, config.json."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from prune_gym import tasks
from prune_gym.agents.amc import AMCConfig, CACPConfig
from prune_gym.agents.baselines import RandomConfig
from prune_gym.agents.cma_es import CMAESConfig
from prune_gym.agents.eagle_eye import EagleEyeConfig
from prune_gym.agents.gnn_rl import GNNRLConfig
from prune_gym.agents.lookahead import LookaheadConfig
from prune_gym.agents.registry import AGENTS
from prune_gym.agents.rl_pruner import RLPrunerConfig
from prune_gym.agents.sb3 import A2CConfig, ARSConfig, DQNConfig, OffPolicyConfig, PPOConfig, TRPOConfig
from prune_gym.agents.tpe import TPEConfig
from prune_gym.agents.uct import UCTConfig
from prune_gym.arguments import AtLeast, OneOf, Within, check_choice, check_settings, choose_device
from prune_gym.envs.pruning import PruningEnv
from prune_gym.scoring.candidates import FIDELITIES, FIDELITY
from prune_gym.scoring.evaluation import PRECISIONS
from prune_gym.scoring.importance import CRITERIA
from prune_gym.simulation.allocation import ROUNDINGS
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.rewards import Reward, lasting_text, make_reward
from prune_gym.simulation.simulator import PROTOCOLS, RANKINGS
from prune_gym.simulation.yardsticks import Yardstick, make_yardstick
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining

Units = Annotated[float, Within("(0, inf)")]

OWN = "own"  # in place of a name: what run() is given is no name but a Task, or a function


@dataclass(frozen=True)
class RunConfig:
    """Prune a task's network with an agent, and write a run folder.

    ``given`` names the settings that were passed when it was made, those that equal their defaults included; all, for a copy that
    ``dataclasses.replace`` made.
    """

    task: str = "digits"
    """What to prune: digits, digits-resnet or digits-mobilenet."""
    network: str | None = None
    """Instead of a task: a network of prune_gym.models, ..."""
    data: str | None = None
    """... the data set it classifies (digits, cifar10, cifar100, npz:PATH, folder:PATH), ..."""
    weights: Path | None = None
    """... and its weights, a safetensors file, see scripts/train_base.py."""
    agent: Annotated[str, OneOf(AGENTS)] = "rl_pruner"
    """Agent: rl_pruner, lookahead, uct, cma_es, tpe, eagle_eye, greedy, amc, cacp, gnn_rl, ppo, recurrent_ppo, trpo, a2c, sac,
    tqc, td3, ddpg, dqn, ars, taylor, obs, lamp, uniform or random, or one that was registered or is an installed package's."""
    sparsity: Annotated[float, Within("(0, 1)")] | None = None
    """Channel sparsity to reach: removed filters over filters of the original network. There is one target; without any, it is
    0.5 of these."""
    macs_reduction: Annotated[float, Within("(0, 1)")] | None = None
    """Instead of a sparsity: MACs to remove, over those of the original network."""
    params_reduction: Annotated[float, Within("(0, 1)")] | None = None
    """Instead of a sparsity: parameters to remove, over those of the original network."""
    step_ratio: Annotated[float, Within("(0, 1]")] = 0.05
    """What one pruning step removes, over what the original network has: filters, MACs or parameters, as the target."""
    min_width: Units | dict[str, Units] = 1.0
    """Units that layer groups keep at least, a whole number or a fraction of their width below 1: for all, or by names or
    patterns of groups or layers (--min-width 'layer1.*' 0.5 conv1 8)."""
    exclude: tuple[str, ...] = ()
    """Names or patterns of groups or layers that are not pruned."""
    round_to: Annotated[int, AtLeast(1)] = 1
    """Layer groups that lose units keep a multiple of this many; 8 suits most hardware."""
    levels: Annotated[int, AtLeast(1)] | None = None
    """Cut every layer group into so many blocks of units, of which it keeps some; by default any width."""
    ranking: Annotated[str, OneOf(RANKINGS)] = "current"
    """Whose importance says which channels of a layer go: current, or initial, that of the original network."""
    reward: str = "accuracy"
    """What the agent learns from: a name (accuracy, flops, params, final, improvement, ..., or paper, equation 17 with
    --reward-weights), or a formula such as 'accuracy - 0.1 * macs / baseline.macs', see docs/rewards.md."""
    reward_weights: tuple[float, float, float] | None = None
    """Alpha, beta and gamma of equation 17, with --reward paper."""
    yardstick: str = "accuracy"
    """What networks are judged by, apart from the reward that the agent learns from: accuracy."""
    reward_split: Annotated[str, OneOf(PROTOCOLS)] = "val"
    """Split whose accuracy the reward reads: val, or test for the paper's protocol, which tunes on what it reports."""
    rounding: Annotated[str, OneOf(ROUNDINGS)] = "carry"
    """How shares become whole channels: largest_remainder, paper or carry."""
    importance: Annotated[str, OneOf(CRITERIA)] = "taylor"
    """Which channels of a layer go first: taylor, l1, l2, fpgm, group_norm, lamp, obs, bn_scale or random."""
    evaluations: Annotated[int, AtLeast(1)] | None = None
    """Architectures that the agent may score; by default what one episode of RL-Pruner takes."""
    compute: Annotated[float, Within("(0, inf)")] | None = None
    """MACs that these may take, importance, calibration and post-training included; the run ends with whichever comes first."""
    seed: Annotated[int, AtLeast(0, below=2**32)] = 0
    """Seed of the agent. The base network and the splits do not depend on it."""
    device: str = "auto"
    """Where networks are evaluated: auto, cpu, cuda, ..."""
    fidelity: Annotated[str, OneOf(FIDELITIES)] = FIDELITY
    """What networks are scored with before any training: original (tensors as they are cut), recalibrated (new batch-norm
    statistics) or compensated (weights that make up for what is gone)."""
    precision: Annotated[str, OneOf(PRECISIONS)] = "float32"
    """Number format used for evaluation: float32, or bfloat16, which is faster on a GPU."""
    out: Path | None = None
    """Run folder; must not hold a run yet, unless --resume. By default a new folder in runs/."""
    resume: bool = False
    """Go on with the run in --out that was interrupted or killed, with the settings in the folder; settings that are given
    must agree with them. Starts the run if there is none."""
    posttraining: PostTraining = field(default_factory=PostTraining)
    rl_pruner: RLPrunerConfig = field(default_factory=RLPrunerConfig)
    lookahead: LookaheadConfig = field(default_factory=LookaheadConfig)
    uct: UCTConfig = field(default_factory=UCTConfig)
    cma_es: CMAESConfig = field(default_factory=CMAESConfig)
    tpe: TPEConfig = field(default_factory=TPEConfig)
    eagle_eye: EagleEyeConfig = field(default_factory=EagleEyeConfig)
    random: RandomConfig = field(default_factory=RandomConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    trpo: TRPOConfig = field(default_factory=TRPOConfig)
    a2c: A2CConfig = field(default_factory=A2CConfig)
    off_policy: OffPolicyConfig = field(default_factory=OffPolicyConfig)
    dqn: DQNConfig = field(default_factory=DQNConfig)
    ars: ARSConfig = field(default_factory=ARSConfig)
    amc: AMCConfig = field(default_factory=AMCConfig)
    cacp: CACPConfig = field(default_factory=CACPConfig)
    gnn_rl: GNNRLConfig = field(default_factory=GNNRLConfig)

    given: ClassVar[frozenset[str]] = frozenset()  # of each configuration, no setting

    def __new__(cls, *args: Any, **kwargs: Any) -> RunConfig:
        config = super().__new__(cls)
        names = [field.name for field in fields(cls)]
        object.__setattr__(config, "given", frozenset([*names[: len(args)], *kwargs]))
        return config

    def __post_init__(self) -> None:
        for name in ("task", "reward", "yardstick"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(
                    f"{name}: expected a name, got {type(value).__name__}; pass an object of your own to run(config, {name}=...)."
                )
        check_settings(self)
        if self.resume and self.out is None:
            raise ValueError("resume: expected --out with the folder of the run to go on with, got none.")
        if self.task != OWN:
            check_choice("task", self.task, tasks.TASKS)
        if self.reward == "vector":
            raise ValueError("reward: expected a reward that is one number, from which agents learn, got 'vector'.")
        if self.reward != OWN or self.reward_weights is not None:
            make_reward(self.reward, self.reward_weights)
        if self.yardstick != OWN:
            make_yardstick(self.yardstick)
        network = {"network": self.network, "data": self.data, "weights": self.weights}
        if any(network.values()) and not all(network.values()):
            missing = next(name for name, value in network.items() if not value)
            raise ValueError(f"{missing}: expected network, data and weights together, got no {missing}.")
        if all(network.values()) and self.task != "digits":
            raise ValueError(f"task: expected a task, or network, data and weights; got both, task {self.task!r}.")
        choose_device(self.device)

    def with_own(self, names: Collection[str]) -> RunConfig:
        """These settings for a run that is given a task, a reward or a yardstick of its own, whichever ``names`` name. Raises
        ValueError for one that has a name here as well."""
        copied = len(self.given) == len(fields(self))  # by dataclasses.replace, which passes everything
        for name in names:
            default = type(self).__dataclass_fields__[name].default
            if name in self.given and getattr(self, name) not in ((OWN, default) if copied else (OWN,)):
                raise ValueError(f"{name}: expected a name in the settings or an object for run(), got both.")
        if "task" in names and self.network:
            raise ValueError("task: expected network, data and weights in the settings or a Task for run(), got both.")
        own: dict[str, Any] = dict.fromkeys(names, OWN)
        changed = replace(self, **own)
        object.__setattr__(changed, "given", self.given | set(names))
        return changed

    def load_task(self, progress: bool = False) -> Task:
        """What to prune; raises like :func:`prune_gym.tasks.load` and :func:`prune_gym.tasks.make`, and ValueError if it is a
        :class:`Task` that run() was given."""
        if self.task == OWN:
            raise ValueError("task: the run pruned a Task of its program's own, which only that program has.")
        if self.network and self.data:
            return tasks.make(self.network, self.data, self.weights)
        return tasks.load(self.task, progress)

    def environment(
        self,
        task: Task,
        cache: ResultCache | None = None,
        reward: Reward | None = None,
        yardstick: Yardstick | None = None,
    ) -> PruningEnv:
        """The environment of this run; ``reward`` and ``yardstick`` take the place of those named in the settings."""
        for name, function in (("reward", reward), ("yardstick", yardstick)):
            if function is None and getattr(self, name) == OWN:
                raise ValueError(f"{name}: {OWN!r} stands for a function; expected that of run(config, {name}=...), got none.")
        return PruningEnv(
            task=task,
            sparsity=self.sparsity,
            macs_reduction=self.macs_reduction,
            params_reduction=self.params_reduction,
            step_ratio=self.step_ratio,
            min_width=self.min_width,
            exclude=self.exclude,
            round_to=self.round_to,
            levels=self.levels,
            ranking=self.ranking,
            reward=reward or self.reward,
            reward_weights=self.reward_weights,
            reward_split=self.reward_split,
            yardstick=yardstick or self.yardstick,
            rounding=self.rounding,
            importance=self.importance,
            device=self.device,
            precision=self.precision,
            fidelity=self.fidelity,
            posttraining=self.posttraining,
            cache=cache,
            importance_seed=self.seed,
        )

    def budget(self, env: PruningEnv) -> int:
        """Evaluations that the agent may use: as many as are set, or what one episode of RL-Pruner takes. Resets the
        environment."""
        env.reset(seed=self.seed)
        return self.evaluations or self.rl_pruner.evaluations(env.steps_left)

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
        settings["reward"] = lasting_text(self.reward)
        return json.loads(json.dumps(settings))
