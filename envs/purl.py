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
from prune_gym.data.splits import Split
from prune_gym.graph.program import Named, Program, Value, leaves
from prune_gym.scoring.aliasing import renew, written_tensors
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.evaluation import batch_size_for
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task

ALPHAS = tuple(round(0.1 * step, 1) for step in range(23))  # 0.0, 0.1, ..., 2.2
WEIGHT = 5.0  # of what is missing, in the reward
PRODUCTS = frozenset(  # the operators of convolutions and linear layers, without their overloads
    ["convolution", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)), "mm", "addmm", "bmm", "baddbmm"]
)


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

    **Episode**: one step for every weight of a convolution or linear layer, in the order in which the network uses them. Every
    step costs one evaluation: validation images, after batch norms have taken new statistics.

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
        self._zeros_at: dict[tuple[str, float], int] = {}
        self._alphas: tuple[float, ...] | None = None
        self._original_accuracy = self._accuracy(())
        self.target_accuracy = self._original_accuracy if target_accuracy is None else target_accuracy

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Back to the original network. Nothing here is random; ``seed`` only seeds ``np_random`` for wrappers."""
        super().reset(seed=seed)
        self._alphas, self._evaluations_before = (), self.evaluations
        accuracy, sparsity = self._original_accuracy, self.sparsity
        return self._observe(accuracy, sparsity), self._info(accuracy, sparsity)

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
        return self._observe(accuracy, sparsity), -WEIGHT * missing, terminated, False, self._info(accuracy, sparsity)

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
        saved = model.state_dict().keys()
        model.load_state_dict({name: t for name, t in self._masked(alphas).items() if name in saved})
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

    @cached_property
    def _val(self) -> Split:
        return self.task.val.to(self.device)

    @cached_property
    def _program(self) -> Program:
        return self.task.graph.program.at(self.task.graph.full().mask)

    @cached_property
    def _written(self) -> frozenset[str]:
        return written_tensors(self.task.graph.program)

    def _is_zeroed(self, name: str, alpha: float) -> Tensor:
        return self._tensors[name].abs() < alpha * self._deviations[name]

    def _zeros(self, name: str, alpha: float) -> int:
        """How many weights are zero, computed once for a threshold, as the number makes a GPU wait."""
        if (name, alpha) not in self._zeros_at:
            self._zeros_at[name, alpha] = int((self._is_zeroed(name, alpha) | (self._tensors[name] == 0)).sum())
        return self._zeros_at[name, alpha]

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
            tensors, batches = self._masked(alphas), self._val.batches(batch_size_for(self._val.images))
            hits = sum(int((self._program.run(renew(tensors, self._written), [x]).argmax(1) == y).sum()) for x, y in batches)
            self._known[alphas] = hits / len(self._val)
        return self._known[alphas]

    def _observe(self, accuracy: float, sparsity: float) -> np.ndarray:
        assert self._alphas is not None
        return np.array([len(self._alphas) / len(self.layers), accuracy, sparsity], np.float32)

    def _info(self, accuracy: float, sparsity: float) -> dict[str, Any]:
        return {"accuracy": accuracy, "sparsity": sparsity, "evaluations": self.evaluations - self._evaluations_before}


def _weights_in_order(task: Task) -> tuple[str, ...]:
    """The parameters that convolutions and linear layers multiply with, as they are or after the network computed with them, such
    as the standardised ones of a convolution, in the order in which the network first uses them. Embeddings and tables that are
    added to something are not among them, nor are biases."""
    arrays = {name for name, parameter in task.model.named_parameters() if parameter.ndim >= 2}
    used: dict[str, None] = {}  # for its order
    made_of: dict[int, set[str]] = {}  # for every value that no input changes, what it was computed from
    factors: set[str] = set()
    for node in task.graph.program.nodes:
        arguments = list(leaves(list(node.args)))
        named = [each.name for each in arguments if isinstance(each, Named) and each.name in arrays]
        read = [each.index for each in arguments if isinstance(each, Value)]
        used |= dict.fromkeys(named)
        origins = set(named).union(*(made_of.get(index, ()) for index in read))
        if all(index in made_of for index in read):
            made_of |= dict.fromkeys(node.outputs if isinstance(node.outputs, tuple) else (node.outputs,), origins)
        elif node.op.split(".")[1] in PRODUCTS:
            factors |= origins
    return tuple(name for name in used if name in factors)
