"""Whether a narrowed model computes what its program computes, and if not, in which module they part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode

from prune_gym.graph.copying import attribute_tensors, copy_model
from prune_gym.graph.program import Program, leaves, map_argument
from prune_gym.graph.recorder import plain
from prune_gym.surgery.slicing import like

Arguments = tuple[list[Any], dict[str, Any]]
BATCH = 2


@dataclass(frozen=True)
class Disagreement:
    """``module`` is the path of the innermost module where it shows, "" for the model itself; ``reason`` says how. Of two
    disagreements of a model, that with the larger ``progress`` shows later: whether its own weights have passed, and how many
    operators of the forward pass."""

    module: str
    reason: str
    progress: tuple[bool, int]


@torch.inference_mode(False)
@torch.no_grad()
def find_disagreement(
    model: nn.Module, program: Program, constants: Mapping[str, Tensor], example: Arguments
) -> Disagreement | None:
    """Run ``model`` and ``program`` in evaluation mode on the same random images, and compare all outputs.

    They are compared twice: with the weights of ``model``, and with random ones, since a branch that a zero hides in the
    model's own shows there, and a difference that random ones saturate shows here. The images have the size of ``example``.

    The comparison is made in float64; where that fails, because the forward pass converts to another type itself, in the
    model's own types. An output may differ by 1e-9 of its largest element in float64, and by the square root of the precision
    of another type. On the meta device, which has no values, only shapes are compared. ``constants`` are what the program uses
    beside the parameters and buffers.

    ``model`` is left as it is, except that norms without parameters get the number of channels that reaches them, which only
    a run can tell.
    """
    tensors = [*model.parameters(), *model.buffers()]
    is_single = any(t.dtype == torch.float32 for t in tensors) and not any(t.device.type == "mps" for t in tensors)
    for is_random in (False, True):
        try:
            found = _Trial(model, program, constants, example, is_random, torch.float64 if is_single else None).compare()
        except Exception:  # because of the type, which the forward pass may fix, or of the widths: the own types tell
            found = _explained(_Trial(model, program, constants, example, is_random, None))
        if found is not None:
            return found
    return None


def _explained(trial: _Trial) -> Disagreement | None:
    """The outcome of a trial; where the model raises, what it raises."""
    try:
        return trial.compare()
    except _ModelFailedError as error:
        lines = str(error.__cause__).strip().splitlines()
        module, progress = trial.where_they_part()
        who = "it" if module == error.module else f"its part {error.module!r}"
        reason = f"{who} raises {type(error.__cause__).__name__}{f' ({lines[0]})' if lines else ''}"
        return Disagreement(module, reason, progress)


class _ModelFailedError(Exception):
    """Raised from whatever the forward pass of the model raised while the module with the path ``module`` ran."""

    def __init__(self, module: str):
        super().__init__(module)
        self.module = module


class _Listener(TorchDispatchMode):
    """Calls ``hear`` with what every operator gives."""

    def __init__(self, hear: Callable[[Any], None]):
        super().__init__()
        self.hear = hear

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.hear(result)
        return result


class _Trial:
    """One comparison, in the floating-point type ``dtype``; None leaves all types as they are."""

    def __init__(
        self,
        model: nn.Module,
        program: Program,
        constants: Mapping[str, Tensor],
        example: Arguments,
        is_random: bool,
        dtype: torch.dtype | None,
    ):
        self.model = model
        self.program = program
        self.is_random = is_random
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(0)
        registered = dict([*model.named_parameters(), *model.named_buffers()])
        self.device = next((tensor.device for tensor in registered.values()), torch.device("cpu"))
        self.tensors = {
            name: self._random_weight(tensor) if is_random else tensor.detach() for name, tensor in registered.items()
        }
        self.constants = constants
        n = _tensors_in(example)[0].shape[0]
        self.arguments: Arguments = map_argument(lambda x: self._random_image(x, n) if isinstance(x, Tensor) else x, example)

    def _cast(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(dtype, copy=True)

    def _random_image(self, given: Tensor, n: int) -> Tensor:
        size = (BATCH if given.shape[0] == n else given.shape[0], *given.shape[1:])
        if given.is_floating_point() or given.is_complex():
            return self._cast(torch.randn(size, generator=self.generator).to(given.dtype).to(self.device))
        high = 256 if given.dtype == torch.uint8 else 2
        return torch.randint(high, size, generator=self.generator).to(self.device, given.dtype)

    def _random_weight(self, tensor: Tensor) -> Tensor:
        """A matrix that keeps the size of what it is multiplied with. Vectors and scalars grow a little, so that no zero stays
        and a variance stays positive."""
        values = tensor.detach()
        if not tensor.is_floating_point():
            return values
        noise = torch.rand(tensor.shape, generator=self.generator).to(values)
        return values + noise / 10 if tensor.ndim < 2 else (noise - 0.5) * (12 / max(tensor[0].numel(), 1)) ** 0.5

    def compare(self) -> Disagreement | None:
        difference = self._difference(self._output_of_model(self._set_channels), self._output_of_program())
        if difference is None:
            return None
        module, progress = self.where_they_part()
        return Disagreement(module, difference, progress)

    # ------------------------------------------------------------------------------------------------ the two runs

    def _output_of_program(self) -> list[Tensor]:
        tensors = {name: self._cast(tensor) for name, tensor in {**self.tensors, **self.constants}.items()}
        return _tensors_in(self.program.run(tensors, [x.clone() for x in _tensors_in(self.arguments)]))

    def _output_of_model(self, watch: Callable[[nn.Module, str, str, Any], None]) -> list[Tensor]:
        """Of a copy. Whatever goes into a module or comes out of it, ``watch`` gets: the module, its path, the path of the
        module that made the values (the caller, or itself), and the values."""
        registered = [*self.model.named_parameters(), *self.model.named_buffers()]
        twins = {id(tensor): self._cast(tensor) for tensor in attribute_tensors(self.model)}
        twins |= {id(tensor): like(tensor, self._cast(self.tensors[name])) for name, tensor in registered}
        copied = copy_model(self.model, twins).eval()
        running = [""]

        def enter(module: nn.Module, inputs: Any, name: str) -> None:
            watch(module, name, running[-1], inputs)
            running.append(name)

        def leave(module: nn.Module, _: Any, output: Any, name: str) -> None:
            watch(module, name, name, output)
            running.pop()

        for name, module in copied.named_modules():
            module.register_forward_pre_hook(partial(enter, name=name))
            module.register_forward_hook(partial(leave, name=name))
        try:
            args, kwargs = map_argument(lambda x: x.clone() if isinstance(x, Tensor) else x, self.arguments)
            return _tensors_in(copied(*args, **kwargs))
        except Exception as error:  # code that was written for other sizes may raise anything
            raise _ModelFailedError(running[-1]) from error

    def _set_channels(self, module: nn.Module, name: str, maker: str, values: Any) -> None:
        """Norms without parameters get their number of channels from what reaches them."""
        is_norm = isinstance(module, _NormBase | nn.GroupNorm)
        if name == maker or not is_norm or [*module.parameters(), *module.buffers()]:
            return
        channels = _tensors_in(values)[0].shape[1]
        for norm in (module, self.model.get_submodule(name)):
            if isinstance(norm, nn.GroupNorm):
                norm.num_groups = channels if norm.num_groups == norm.num_channels else norm.num_groups
                norm.num_channels = channels
            elif isinstance(norm, _NormBase):
                norm.num_features = channels

    # ------------------------------------------------------------------------------------------------ comparison

    def _difference(self, output: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
        if [x.shape for x in output] != [x.shape for x in expected]:
            got, wanted = (", ".join(str(tuple(x.shape)) for x in tensors) for tensors in (output, expected))
            return f"it gives {got} instead of {wanted}"
        for a, b in zip(output, expected, strict=True):
            if a.is_meta or a.numel() == 0:
                continue
            largest = float(b.double().nan_to_num(0, 0, 0).abs().max())
            allowed = largest * _tolerance(a.dtype)
            if not torch.allclose(a.double(), b.double(), rtol=0, atol=allowed, equal_nan=True):
                error = float((a.double() - b.double()).abs().max())
                return f"what it gives differs by {error / (largest or 1.0):.1e} of the largest value"
        return None

    def where_they_part(self) -> tuple[str, tuple[bool, int]]:
        """The first module that gives, or is given, a tensor that the program does not know, and the progress until then.
        Tensors are told by their shape, sum and sum of squares, so that none has to be kept; on the meta device they are not."""
        known: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
        parted: list[tuple[str, int]] = []
        operators = 0

        def remember(result: Any) -> None:
            for tensor in _tensors_in([result]):
                known[tensor.shape].append(_moments(tensor))

        def count(_: Any) -> None:
            nonlocal operators
            operators += 1

        def check(module: nn.Module, name: str, maker: str, values: Any) -> None:
            nonlocal operators
            before = operators
            for tensor in _tensors_in([values]) if not parted else []:
                alike = (
                    torch.allclose(_moments(tensor), other, rtol=1e-6, equal_nan=True) for other in known.get(tensor.shape, ())
                )
                if not any(alike):
                    parted.append((maker, before))
                    break
            operators = before  # those of the comparison are not the model's

        if self.device.type == "meta":
            return "", (self.is_random, 0)
        with _Listener(remember):
            self._output_of_program()
        for image in _tensors_in(self.arguments):
            known[image.shape].append(_moments(image))
        try:
            with _Listener(count):
                self._output_of_model(check)
        except _ModelFailedError as error:
            parted.append((error.module, operators))
        module, before = parted[0] if parted else ("", operators)
        return module, (self.is_random, before)


def _tolerance(dtype: torch.dtype) -> float:
    if dtype == torch.float64:
        return 1e-9
    return torch.finfo(dtype).eps ** 0.5 if dtype.is_floating_point else 0.0


def _tensors_in(values: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(plain(values)) if isinstance(leaf, Tensor)]


def _moments(tensor: Tensor) -> Tensor:
    values = tensor.double()
    return torch.stack([values.sum(), values.square().sum()])
