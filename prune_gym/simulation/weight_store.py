"""The store of weights: from a recipe (:mod:`prune_gym.simulation.recipes`) to tensors, trained when they are first needed.

It is the only place where tensors are kept, and where they are dropped: those of the last few versions stay, and those of any
other version are read from the disk, or trained again, when they are asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from prune_gym.data.splits import Split
from prune_gym.graph.channel_graph import Architecture
from prune_gym.scoring.calibration import COMPENSATION_IMAGES, how_many
from prune_gym.scoring.candidates import Candidates
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.simulation.compute import Compute, passes
from prune_gym.simulation.recipes import Network, Weights
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.surgery.compact import compact
from prune_gym.surgery.pruned_network import PrunedNetwork
from prune_gym.surgery.slicing import named_tensors, scatter_tensors, slice_tensors
from prune_gym.tasks import Task
from prune_gym.training.distillation import PostTraining, distill
from prune_gym.training.tensor_file import tensors_of
from prune_gym.training.train import accuracy

MAX_VERSIONS = 4  # whose tensors are kept: those of a teacher, a student, the best network, and one more


class StoredWeights:
    """The tensors of one version with the networks that can be cut out of them, and the evaluator that was made of them, if any;
    all are dropped together."""

    def __init__(self, candidates: Candidates):
        self.candidates = candidates
        self.evaluator: Evaluator | None = None


class WeightStore:
    """The tensors of every version of the weights of one task's network.

    Args:
        task: its training split is trained on, with its augmentation; its validation split chooses the epoch.
        settings: how networks are trained.
        cache: keeps validation accuracies, and the tensors of the last versions if it can.
        device: where networks are trained and scored.
        fidelity: what tensors a network has that lost units since its weights were trained, see
            :class:`prune_gym.scoring.candidates.Candidates`.

    Attributes:
        max_versions: how many versions stay.
    """

    def __init__(
        self,
        task: Task,
        settings: PostTraining,
        cache: ResultCache,
        device: torch.device | str = "cpu",
        fidelity: str = "original",
    ):
        self.task = task
        self.graph = task.graph
        self.settings = settings
        self.cache = cache
        self.device = torch.device(device)
        self.fidelity = fidelity
        # copies, as the model belongs to the user
        tensors = named_tensors(task.model, task.graph).items()
        own = {name: tensor.detach().to(device, copy=True) for name, tensor in tensors}
        self._original = self._candidates(own, self.graph.full())
        self._stored: OrderedDict[str, StoredWeights] = OrderedDict()  # the last ones used come last
        self.max_versions = MAX_VERSIONS
        self._pinned: dict[int, str] = {}

    @cached_property
    def _data(self) -> tuple[Split, Split]:
        return self.task.train.to(self.device), self.task.val.to(self.device)

    def _candidates(self, tensors: Mapping[str, Tensor], base: Architecture) -> StoredWeights:
        return StoredWeights(Candidates(self.graph, tensors, self.fidelity, self.task.train, base))

    def get(self, weights: Weights) -> StoredWeights:
        """The tensors of a version, trained now if they are not there."""
        version = weights.version
        if not version:
            return self._original
        if version not in self._stored:
            with torch.inference_mode(False):  # it may be called where networks are scored
                saved = self.cache.load_tensors(version)
                if saved is None:
                    self._train(weights)
                else:
                    self._keep(weights, {name: tensor.to(self.device) for name, tensor in saved.items()})
        self._stored.move_to_end(version)
        return self._stored[version]

    def tensors(self, weights: Weights) -> Mapping[str, Tensor]:
        """All tensors of the original shapes, by name; of units that a version does not keep, those of the version before."""
        return self.get(weights).candidates.whole

    def candidate(self, network: Network) -> dict[str, Tensor]:
        """The tensors of a network by name, physically small, at the store's fidelity."""
        return self.get(network.weights).candidates.tensors(network.architecture)

    def network(self, network: Network) -> PrunedNetwork:
        """The network as a module, physically small, in evaluation mode, as it is scored; it shares no memory with anything."""
        return self._module(network, self.candidate(network))

    def _module(self, network: Network, small: Mapping[str, Tensor]) -> PrunedNetwork:
        weights = scatter_tensors(self.tensors(network.weights), small, self.graph.units, network.architecture)
        module = compact(self.task.model, self.graph, network.architecture, form="program", weights=weights)
        return module.to(self.device).eval()

    def val_accuracy(self, network: Network) -> float:
        """Accuracy on the validation split of a network whose weights were trained for it, or of the original one."""
        key = network.weights.version or network.key
        known = self.cache.get("posttraining", key)
        if known is None and network.weights.student is None:
            known = accuracy(self.network(network), self._data[1])
            self.cache.put("posttraining", key, known)
        return self._train(network.weights) if known is None else known

    def training_cost(self, weights: Weights) -> Compute:
        """What it takes to make a version of the weights: the epochs, a validation after each, and the start."""
        student, teacher = weights.student, weights.teacher
        assert student is not None  # it is trained
        assert teacher is not None
        student_macs, teacher_macs = (self.graph.cost(each.architecture).macs for each in (student, teacher))
        epochs, train = self.settings.at(weights.final).epochs, len(self.task.train)
        cost = passes(epochs * train, student_macs, backward=True) + passes(epochs * train, teacher_macs)
        cost += passes(epochs * len(self.task.val), student_macs)
        if self.settings.start == "compensated":
            images, before = how_many(COMPENSATION_IMAGES, self.task.train), student.weights.base(self.graph)
            cost += passes(images, self.graph.cost(before).macs) + passes(images, student_macs)
        return cost

    def pin(self, weights: Weights, holder: int = 0) -> None:
        """Keep this version in any case, and let go of the one that the same holder pinned before."""
        self._pinned[holder] = weights.version

    @torch.inference_mode(False)  # whatever the caller's mode is
    def _train(self, weights: Weights) -> float:
        """Make a version of the weights. Gives the validation accuracy of the network that it was made for."""
        assert weights.student is not None  # there is something to train
        assert weights.teacher is not None
        student, teacher = self._student(weights.student), self.network(weights.teacher)
        seed = int(weights.version[:8], 16)  # the same state is trained in the same way, however it was reached
        settings = self.settings.at(weights.final)
        best_accuracy = distill(student, teacher, *self._data, settings, seed, self.task.augmentation)
        small = {name: tensor.detach() for name, tensor in tensors_of(student).items()}
        tensors = scatter_tensors(self.tensors(weights.student.weights), small, self.graph.units, weights.student.architecture)
        self._keep(weights, tensors)
        self.cache.save_tensors(weights.version, tensors)
        self.cache.put("posttraining", weights.version, best_accuracy)
        return best_accuracy

    def _student(self, network: Network) -> PrunedNetwork:
        """What the training of a network starts from."""
        candidates = self.get(network.weights).candidates
        if self.settings.start == "cut":
            return self._module(network, slice_tensors(candidates.whole, self.graph.units, network.architecture))
        return self._module(network, candidates.starting_point(network.architecture))

    def _keep(self, weights: Weights, tensors: Mapping[str, Tensor]) -> None:
        """Store a version, and drop the oldest ones if there are too many."""
        version = weights.version
        self._stored[version] = self._candidates(tensors, weights.base(self.graph))
        droppable = [each for each in self._stored if each != version and each not in self._pinned.values()]
        for old in droppable[: max(0, len(self._stored) - self.max_versions)]:
            del self._stored[old]
            self.cache.forget_tensors(old)
