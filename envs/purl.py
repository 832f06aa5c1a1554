"""PuRL: unstructured pruning, one layer after the other, with a reward at every step.

*Learning to prune deep neural networks via reinforcement learning*, preprint, 2020. That a reward comes at every
step, not only at the end of an episode, is read in its abstract. The actions, the reward's formula, the state and the agent (DQN,
about 55 episodes) are recalled from the paper and were not verified. It retrains the network briefly within episodes; here batch
norms take new statistics instead.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from prune_gym import tasks
from prune_gym.arguments import as_integer, check_number, choose_device
from prune_gym.graph.program import Named, leaves
from prune_gym.scoring.aliasing import renew, written_tensors
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.evaluation import batch_size_for
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task

ALPHAS = tuple(round(0.1 * step, 1) for step in range(23))  # 0.0, 0.1, ..., 2.2
WEIGHT = 5.0  # of what is missing, in the reward


@dataclass(frozen=True)
class SparseNetwork:
    """A network as the thresholds of its layers, in standard deviations of their weights.

    Attributes:
        alphas: one for every layer.
        accuracy: on the validation images, in [0, 1].
        sparsity: the fraction of the layers' weights that are zero, in [0, 1].
    """

    alphas: tuple[float, ...]
    accuracy: float
    sparsity: float


class PuRLEnv(gymnasium.Env[np.ndarray, np.int64]):
    r"""An agent goes through the layers from the first on and zeroes the small weights of each.

    **Action**: ``Discrete(23)``, the threshold :math:`\alpha \in \{0, 0.1, \ldots, 2.2\}`: weights of the layer with
    :math:`|w| < \alpha\, \mathrm{std}(w)` become zero. Channels stay: it is the weights that are sparse.

    **Observation**: ``Box(0, 1, (3,), float32)``: the place of the next layer, the accuracy after the last action, and the
    fraction of all layers' weights that are zero.

    **Reward** of every step, with the accuracy A and the sparsity P after it and the targets T:

    .. math:: -5 \left(\max(1 - A / T_A, 0) + \max(1 - P / T_P, 0)\right)

    **Episode**: one step for every convolution and linear layer, in the order in which the network runs them. Every step costs
    one evaluation: validation images, after batch norms have taken new statistics.

    **Info**: ``accuracy``, ``sparsity`` and ``evaluations`` in this episode.

    Attributes:
        layers: the names of the weights, in the order of the steps.
        evaluations: networks scored since this environment was made.
        best: the most accurate network at the target sparsity that an episode ended with; None before any.

    Args:
        task: the name of a task, or a :class:`prune_gym.tasks.Task`.
        target_sparsity: T_P, in (0, 1).
        target_accuracy: T_A, in (0, 1]; by default the accuracy of the original network.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Raises TypeError or ValueError for a bad argument, by its name.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # Gymnasium's name

    def __init__(
        self,
        task: str | Task = "digits",
        target_sparsity: float = 0.8,
        target_accuracy: float | None = None,
        device: str | torch.device = "auto",
    ):
        if not isinstance(task, str | Task):
            raise TypeError(f"task: expected a name or a prune_gym.tasks.Task, got {type(task).__name__}.")
        check_number("target_sparsity", target_sparsity, "(0, 1)")
        if target_accuracy is not None:
            check_number("target_accuracy", target_accuracy, "(0, 1]")
        self.task = tasks.load(task) if isinstance(task, str) else task
        self.device = choose_device(device)
        self.target_sparsity = target_sparsity
        self.layers = _weights_in_order(self.task)
        self.action_space = spaces.Discrete(len(ALPHAS))
        self.observation_space = spaces.Box(0.0, 1.0, (3,), np.float32)
        self.evaluations = self._evaluations_before = 0
        self.best: SparseNetwork | None = None
        self._known: dict[tuple[float, ...], float] = {}
        self._alphas: tuple[float, ...] | None = None
        self._original_accuracy = self._accuracy(())
        self.target_accuracy = self._original_accuracy if target_accuracy is None else target_accuracy

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Back to the original network. Nothing here is random; ``seed`` only seeds ``np_random`` for wrappers."""
        super().reset(seed=seed)
        self._alphas, self._evaluations_before = (), self.evaluations
        return self._observe(self._original_accuracy), self._info(self._original_accuracy)

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Zero the small weights of the next layer. Raises RuntimeError before the first reset and after the end, TypeError or
        ValueError for what is no action."""
        if self._alphas is None or len(self._alphas) == len(self.layers):
            raise RuntimeError("step: no episode is under way; call reset() first.")
        self._alphas = (*self._alphas, ALPHAS[as_integer("action", action, 0, len(ALPHAS))])
        accuracy, sparsity = self._accuracy(self._alphas), self.sparsity
        self.evaluations += 1
        terminated = len(self._alphas) == len(self.layers)
        if terminated and sparsity >= self.target_sparsity and (self.best is None or accuracy > self.best.accuracy):
            self.best = SparseNetwork(self._alphas, accuracy, sparsity)
        missing = max(1 - accuracy / self.target_accuracy, 0.0) + max(1 - sparsity / self.target_sparsity, 0.0)
        return self._observe(accuracy), -WEIGHT * missing, terminated, False, self._info(accuracy)

    @property
    def sparsity(self) -> float:
        """The fraction of the layers' weights that are zero in the present state, in [0, 1]. Raises RuntimeError before reset."""
        if self._alphas is None:
            raise RuntimeError("sparsity: call reset() first.")
        gone = sum(self._zeros(name, alpha) for name, alpha in zip(self.layers, self._alphas, strict=False))
        return gone / sum(self._tensors[name].numel() for name in self.layers)

    def network(self, alphas: tuple[float, ...]) -> nn.Module:
        """A copy of the model in evaluation mode, in which these layers, from the first on, have lost their small weights and
        batch norms have the statistics that it was scored with."""
        model = copy.deepcopy(self.task.model).to(self.device).eval()
        model.load_state_dict({name: t for name, t in self._masked(alphas).items() if name in model.state_dict()})
        return model

    # ------------------------------------------------------------------------------------------------------ inside

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return {name: t.detach().to(self.device) for name, t in named_tensors(self.task.model, self.task.graph).items()}

    @cached_property
    def _deviations(self) -> dict[str, float]:
        return {name: self._tensors[name].std().item() for name in self.layers}

    @cached_property
    def _candidates(self) -> Candidates:
        return Candidates(self.task.graph, self._tensors, "recalibrated", self.task.train.to(self.device))

    def _is_zeroed(self, name: str, alpha: float) -> Tensor:
        return self._tensors[name].abs() < alpha * self._deviations[name]

    def _zeros(self, name: str, alpha: float) -> int:
        return int((self._is_zeroed(name, alpha) | (self._tensors[name] == 0)).sum())

    @torch.inference_mode()
    def _masked(self, alphas: tuple[float, ...]) -> dict[str, Tensor]:
        """All tensors, with the small weights of the first layers zeroed, and new statistics if any are."""
        if not any(alphas):
            return dict(self._tensors)
        masked = {
            name: self._tensors[name].masked_fill(self._is_zeroed(name, alpha), 0.0)
            for name, alpha in zip(self.layers, alphas, strict=False)
        }
        return self._candidates.recalibrated(self._tensors | masked, self.task.graph.full())

    @torch.inference_mode()
    def _accuracy(self, alphas: tuple[float, ...]) -> float:
        """The validation accuracy, computed once for the same thresholds."""
        if alphas not in self._known:
            tensors, graph, split = self._masked(alphas), self.task.graph, self.task.val.to(self.device)
            program, written = graph.program.at(graph.full().mask), written_tensors(graph.program)
            batches = split.batches(batch_size_for(split.images))
            hits = sum(int((program.run(renew(tensors, written), [x]).argmax(1) == y).sum()) for x, y in batches)
            self._known[alphas] = hits / len(split)
        return self._known[alphas]

    def _observe(self, accuracy: float) -> np.ndarray:
        assert self._alphas is not None
        return np.array([len(self._alphas) / len(self.layers), accuracy, self.sparsity], np.float32)

    def _info(self, accuracy: float) -> dict[str, Any]:
        evaluations = self.evaluations - self._evaluations_before
        return {"accuracy": accuracy, "sparsity": self.sparsity, "evaluations": evaluations}


def _weights_in_order(task: Task) -> tuple[str, ...]:
    """The weights of convolutions and linear layers, in the order in which the network first uses them."""
    weights = {name for name, parameter in task.model.named_parameters() if parameter.ndim >= 2}
    used = (each.name for node in task.graph.program.nodes for each in leaves(list(node.args)) if isinstance(each, Named))
    return tuple(dict.fromkeys(name for name in used if name in weights))
