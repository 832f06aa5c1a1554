"""Networks by name: the families of the RL-Pruner paper for 32x32 images, small ones for 8x8 digits, and torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType

from torch import nn

from prune_gym.arguments import check_integer, unknown
from prune_gym.models import densenet, googlenet, mobilenet, resnet, vgg

__all__ = ["create", "names"]

_NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    **{name: partial(vgg.vgg, name) for name in vgg.DEPTHS},
    **{f"resnet{depth}": partial(resnet.resnet, depth, "B") for depth in resnet.DEPTHS},
    **{f"resnet{depth}_a": partial(resnet.resnet, depth, "A") for depth in resnet.DEPTHS},
    "densenet121": densenet.densenet121,
    "googlenet": googlenet.googlenet,
    "mobilenet_v3_large": mobilenet.mobilenet_v3_large,
    "digits_vgg": vgg.digits_vgg,
    "digits_resnet": resnet.digits_resnet,
    "digits_mobilenet": mobilenet.digits_mobilenet,
}
_TORCHVISION = "torchvision/"
_TRANSFORMERS = ("vit_", "swin_", "maxvit_")


def names() -> tuple[str, ...]:
    """The networks that :func:`create` knows, without those of torchvision."""
    return tuple(_NETWORKS)


def create(name: str, num_classes: int | None = None, in_channels: int | None = None) -> nn.Module:
    """A network with fresh random weights, drawn from PyTorch's global generator.

    Args:
        name: one of :func:`names`, for images of 32x32 or, where the name starts with ``digits_``, 8x8 pixels; or
            ``torchvision/<name>``, a convolutional classifier of torchvision with its stem for large images.
        num_classes: 100 unless given; 10 for the networks for digits.
        in_channels: channels of the images, 3 unless given; 1 for the networks for digits.

    Raises:
        ValueError: an unknown name, no integer >= 1, or torchvision with other than 3 input channels.
        TypeError: no number.
    """
    torchvisions = str(name).startswith(_TORCHVISION)
    known = _torchvision_names() if torchvisions else names()
    if name not in known:
        raise unknown("name", name, known if torchvisions else [*known, f"{_TORCHVISION}<name>"])
    digits = name.startswith("digits_")
    num_classes = (10 if digits else 100) if num_classes is None else num_classes
    in_channels = (1 if digits else 3) if in_channels is None else in_channels
    check_integer("num_classes", num_classes, 1)
    check_integer("in_channels", in_channels, 1)
    if not torchvisions:
        return _NETWORKS[name](num_classes, in_channels)
    if in_channels != 3:
        raise ValueError(f"in_channels: expected 3 for {name!r}, whose stem reads colour images, got {in_channels}.")
    plain = name.removeprefix(_TORCHVISION)
    # these two would return a tuple in training mode, and warn about their initialisation
    options = {"aux_logits": False, "init_weights": True} if plain in ("googlenet", "inception_v3") else {}
    return _torchvision_models().get_model(plain, weights=None, num_classes=num_classes, **options)


@cache
def _torchvision_names() -> tuple[str, ...]:
    every = _torchvision_models().list_models(module=_torchvision_models())
    return tuple(_TORCHVISION + name for name in every if not name.startswith(_TRANSFORMERS))


def _torchvision_models() -> ModuleType:
    """Imported where it is needed, as that takes as long as PyTorch itself."""
    import torchvision

    return torchvision.models
