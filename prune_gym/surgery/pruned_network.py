"""The program form of a pruned network: a module that runs a traced program with its own tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from prune_gym.graph.program import Program

_RESERVED = frozenset(["", *dir(nn.Module())])  # no module can have parameters of these names


class PrunedNetwork(nn.Module):
    """A program with its tensors, as a module: call it, train it, ``deepcopy`` it, save it, trace it again.

    Parameters and buffers keep the names they had in the original network, so ``state_dict()`` reads the same, with
    smaller shapes. Batch norm and dropout follow ``train()`` and ``eval()``. The input may have any batch size; its
    other dimensions are those of the example the network was traced with. If that was a dict, its keys are the names of the
    inputs: these are given in its order, as keyword arguments, or in one dict.

    What only exists in the original's training mode (auxiliary heads, stochastic depth) is not part of the program;
    the parameters of an auxiliary head stay in ``state_dict()`` unchanged and unused.
    """

    def __init__(
        self,
        program: Program,
        parameters: Mapping[str, nn.Parameter],
        buffers: Mapping[str, Tensor],
        transient: Collection[str] = (),  # the buffers that ``state_dict()`` leaves out
    ):
        super().__init__()
        self.program = program
        self._names = [*parameters, *buffers]
        # Straight into the registries: register_parameter would refuse "program" as well, which is an attribute of this class,
        # but may be a parameter of the original network.
        for name, parameter in parameters.items():
            owner, leaf = self._owner(name)
            owner._parameters[leaf] = parameter
        for name, buffer in buffers.items():
            owner, leaf = self._owner(name)
            owner._buffers[leaf] = buffer
            if name in transient:
                owner._non_persistent_buffers_set.add(leaf)

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        """The module of a tensor, made if need be, and the tensor's name in it."""
        module: nn.Module = self
        *path, leaf = name.split(".")
        if not all(path) or leaf in _RESERVED:
            raise KeyError(f"{name!r} is no name of a tensor")
        for part in path:
            if part not in module._modules:
                module._modules[part] = Namespace()
            module = module._modules[part]  # type: ignore[assignment]
        return module, leaf

    def forward(self, *inputs: Any, **named: Any) -> Any:
        modules = dict(self.named_modules())
        places = ((name, name.rpartition(".")) for name in self._names)
        tensors = {name: _tensor(modules[path], leaf) for name, (path, _, leaf) in places}
        return self.program.run(tensors, self._in_order(inputs, named), self.training)

    def _in_order(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Sequence[Tensor]:
        """The inputs in the order of the program. Raises TypeError unless they are the tensors that it takes."""
        if len(inputs) == 1 and isinstance(inputs[0], dict):
            inputs, named = [], {**inputs[0], **named}
        if named:
            names = self.program.names[len(inputs) :]
            if named.keys() != set(names):
                left = f", the last ones called {', '.join(map(repr, names))}" if names else ""
                raise TypeError(
                    f"Expected {self.program.inputs} input tensors{left}, got {len(inputs)} without a name, and "
                    f"{', '.join(map(repr, named))}."
                )
            inputs = [*inputs, *(named[name] for name in names)]
        if len(inputs) != self.program.inputs:
            raise TypeError(f"Expected {self.program.inputs} input tensors, got {len(inputs)}.")
        if not all(isinstance(x, Tensor) for x in inputs):
            raise TypeError(f"Expected {self.program.inputs} input tensors, got {', '.join(type(x).__name__ for x in inputs)}.")
        return inputs


def _tensor(module: nn.Module, name: str) -> Tensor:
    for registry in (module._parameters, module._buffers):
        if name in registry:
            return registry[name]  # type: ignore[return-value]
    return getattr(module, name)  # a replica of data parallelism has plain attributes


class Namespace(nn.Module):
    """A name space for the parameters of one layer of a :class:`PrunedNetwork`."""

    def __getitem__(self, index: int) -> nn.Module:
        return self._modules[str(index)]  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={tuple(tensor.shape)}" for name, tensor in self.named_parameters(recurse=False))
