"""What the experiments of the paper share: which networks are pruned, how, and what is measured on the way."""

from __future__ import annotations

import copy
import hashlib
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from torch import nn

from prune_gym import tasks
from prune_gym.agents import RLPrunerConfig, RunConfig
from prune_gym.agents.registry import make_agent
from prune_gym.arguments import choose_device
from prune_gym.benchmark.paper.scales import Scale
from prune_gym.data.splits import Split, Splits
from prune_gym.simulation.journal import Journal
from prune_gym.simulation.schedule import step_budget
from prune_gym.simulation.simulator import PROTOCOLS, PruningState, Simulator
from prune_gym.simulation.space import PruningSpace
from prune_gym.tasks import Task
from prune_gym.training.train import accuracy, deterministic

SPLITS = {"validation": "val", "paper": "test"}  # protocol -> the split that rewards read
Visit = Callable[[Simulator, PruningState], None]


@dataclass(frozen=True)
class Base:
    """A network to prune, and the network of the paper that it stands beside."""

    network: str
    data: str
    paper_network: str
    paper_data: str
    task: Task
    """What agents prune: with the number of training and validation images of the scale."""
    full_task: Task
    """The same with all images."""
    top1: float
    """Accuracy in percent of all test images."""

    @property
    def names(self) -> dict[str, object]:
        return {"network": self.network, "data": Path(self.data.partition(":")[2]).stem or self.data}

    def fresh(self, seed: int) -> nn.Module:
        """The network with new random weights."""
        full = self.full_task
        with torch.inference_mode():
            classes = full.model(full.train.inputs(slice(1))).shape[1]
        return tasks.build(self.network, Splits(full.train, full.val, full.test, classes), seed)


class Experiment:
    """One experiment at one scale: loads the networks, prunes them, and measures.

    Args:
        scale: how much work it is.
        out: folder of the results. The journal of an interrupted run stays in it until the run ends.
        network, data, weights: the network to prune in place of the paper's; None for the paper's.
        weights_folder: weights of the paper's networks, NETWORK_DATA.safetensors.
        protocol: ``"validation"``, or ``"paper"``, which computes rewards on the test split.
        seed: seed of the agents, and of networks that are trained from scratch.
        device: where everything is computed.

    Raises ValueError or FileNotFoundError, which say how weights are made, if they are missing.
    """

    def __init__(
        self,
        scale: Scale,
        out: Path,
        network: str | None = None,
        data: str = "cifar10",
        weights: Path | None = None,
        weights_folder: Path | None = None,
        protocol: Literal["validation", "paper"] = "validation",
        seed: int = 0,
        device: str = "auto",
    ):
        self.scale, self.out, self.protocol, self.seed = scale, out, protocol, seed
        self.network, self.data, self.weights, self.weights_folder = network, data, weights, weights_folder
        self.device = choose_device(device)

    def bases(self, *of_the_paper: tuple[str, str]) -> Iterator[Base]:
        """The paper's networks, each with its data set; or, in place of the last of them, the network of this experiment."""
        if self.network is not None:
            yield self._base(self.network, self.data, self.weights, *of_the_paper[-1])
            return
        if self.weights_folder is None:
            raise ValueError("weights_folder: expected the folder of the paper's networks, NETWORK_DATA.safetensors; got none.")
        files = {pair: self.weights_folder.expanduser() / "{}_{}.safetensors".format(*pair) for pair in of_the_paper}
        missing = {pair: file for pair, file in files.items() if not file.is_file()}
        if missing:
            commands = [
                f"python scripts/train_base.py --network {network} --data {data} --recipe paper --out {shlex.quote(str(file))}"
                for (network, data), file in missing.items()
            ]
            raise FileNotFoundError("weights_folder: weights are missing; make them with\n" + "\n".join(commands))
        for pair, file in files.items():
            yield self._base(*pair, file, *pair)

    def _base(self, network: str, data: str, weights: Path | None, paper_network: str, paper_data: str) -> Base:
        full = tasks.make(network, data, weights)
        task = replace(full, train=draw(full.train, self.scale.train_images), val=draw(full.val, self.scale.val_images))
        top1 = self.test(copy.deepcopy(full.model), full)  # a task's model stays on its device
        return Base(network, data, paper_network, paper_data, task, full, top1)

    def settings(self, base: Base) -> str:
        """A fingerprint of everything that the results of a network depend on."""
        chosen = f"{asdict(self.scale)} {self.protocol} {self.seed} {base.task.fingerprints} {base.full_task.fingerprints}"
        return hashlib.blake2b(chosen.encode(), digest_size=4).hexdigest()

    def common(self, base: Base) -> dict[str, object]:
        """The columns that say what a row was made with."""
        return base.names | {"seed": self.seed, "protocol": PROTOCOLS[SPLITS[self.protocol]], "settings": self.settings(base)}

    @deterministic()
    def prune(
        self,
        base: Base,
        sparsity: float,
        visit: Visit,
        agent: str = "rl_pruner",
        reward: str = "accuracy",
        rl_pruner: RLPrunerConfig | None = None,
    ) -> None:
        """Let an agent prune once to ``sparsity``, and call ``visit`` for the original network and after every step.

        The agent ``taylor`` takes all steps at once, and its network is then trained for as many epochs as the networks of the
        other agents in all their steps. A run that was killed goes on where it stopped, from its journal.
        """
        config = self._run_config(base, sparsity, agent, reward, rl_pruner)
        task = base.task
        if self.protocol == "paper":
            task = replace(task, test=draw(task.test, self.scale.val_images))  # rewards read these; reports take all of them
        identity = {"settings": config.settings(), "base": self.settings(base)}
        folder = self.out / f".{hashlib.blake2b(str(identity).encode(), digest_size=8).hexdigest()}"
        journal = Journal()
        env = config.environment(task, journal)
        env.reset()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            journal.open(folder / "journal.txt", identity)
            visit(env.simulator, env.snapshot())
            make_agent(config, StepObserver(env, visit)).learn(config.rl_pruner.evaluations(env.steps_left))
        finally:
            journal.close()
        shutil.rmtree(folder)

    def _run_config(self, base: Base, sparsity: float, agent: str, reward: str, rl_pruner: RLPrunerConfig | None) -> RunConfig:
        scale, graph = self.scale, base.task.graph
        steps = scale.steps(sparsity, graph)
        step_ratio, posttraining = scale.step_ratio, scale.posttraining
        if agent == "taylor":
            trainings = -(-steps // posttraining.period)
            step_ratio, posttraining = 1.0, replace(posttraining, epochs=trainings * posttraining.epochs)
        return RunConfig(
            agent=agent,
            sparsity=steps * step_budget(PruningSpace(graph), scale.step_ratio) / graph.n_filters,  # whole steps, for every agent
            step_ratio=step_ratio,
            reward=reward,
            reward_split=SPLITS[self.protocol],
            seed=self.seed,
            device=str(self.device),
            posttraining=posttraining,
            fidelity="original",
            rounding="largest_remainder",
            rl_pruner=rl_pruner or scale.rl_pruner,
        )

    def measure(self, base: Base, simulator: Simulator, state: PruningState) -> dict[str, object]:
        """Accuracies in percent of all test images, FLOPs in the paper's convention, reductions in percent."""
        graph, architecture = simulator.graph, state.architecture
        full, cost = graph.cost(graph.full(), "paper"), graph.cost(architecture, "paper")
        student = state.weights.student
        just_trained = student is not None and student.architecture == architecture
        before = self.test(simulator.store.network(student), base.full_task) if student and just_trained else ""
        return {
            "channel_sparsity": round(architecture.channel_sparsity, 4),
            "base_top1": base.top1,
            "top1_before_posttraining": before,
            "top1": self.test(simulator.network(state), base.full_task),
            "flops_reduction_pct": round(100 * (1 - cost.macs / full.macs), 2),
            "params_reduction_pct": round(100 * (1 - cost.params / full.params), 2),
            "macs": graph.cost(architecture).macs,
            "params": cost.params,
        }

    def test(self, network: nn.Module, task: Task) -> float:
        """Accuracy in percent of the task's test images."""
        return round(100 * accuracy(network.to(self.device), task.test.to(self.device)), 2)


def draw(split: Split, images: int | None) -> Split:
    """So many images of a split, as many of each class as the counts allow, drawn with a fixed seed; the split itself for
    None."""
    return split if images is None else split.sample(images)


class StepObserver(gymnasium.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Calls ``visit`` with every state that a step leads to, the one at the end of the episode included."""

    keeps_reward = True

    def __init__(self, env: Any, visit: Visit):
        super().__init__(env)
        self.visit = visit

    def step(self, action: np.ndarray) -> Any:
        result = self.env.step(action)
        inner: Any = self.env.unwrapped
        self.visit(inner.simulator, inner.snapshot())
        return result


def at_marks(scale: Scale, sparsities: Sequence[float], record: Callable[[Simulator, PruningState, float], None]) -> Visit:
    """Calls ``record`` once for each of the sparsities, at the step that comes nearest to it; 0 is the original network."""
    left = sorted(sparsities)

    def visit(simulator: Simulator, state: PruningState) -> None:
        while left and (state.steps >= scale.steps(left[0], simulator.graph) or simulator.is_terminal(state)):
            record(simulator, state, left.pop(0))

    return visit
