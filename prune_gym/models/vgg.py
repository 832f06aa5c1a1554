"""VGG with batch norm (Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition")."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from prune_gym.models.layers import ConvNorm

# 3x3 convolutions per stage; the stages are 64, 128, 256, 512 and 512 channels wide
DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


class VGG(nn.Module):
    """Stages of 3x3 convolutions (with bias, batch norm, ReLU), each ended by a 2x2 max-pool, then linear layers.

    (N, in_channels, S, S) -> (N, num_classes), where S is 2 to the number of stages: the last pool leaves one pixel.

    Args:
        stages: the widths of the convolutions, stage by stage.
        hidden: the widths of the linear layers before the last one; each is followed by ReLU and dropout.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        hidden: Sequence[int],
        num_classes: int,
        in_channels: int,
        *,
        dropout: float = 0.5,
    ):
        super().__init__()
        self.stages = nn.Sequential()
        width = in_channels
        for widths in stages:
            stage = nn.Sequential()
            for outputs in widths:
                stage.append(ConvNorm(width, outputs, bias=True))
                width = outputs
            self.stages.append(stage.append(nn.MaxPool2d(2)))
        self.classifier = nn.Sequential()
        for outputs in hidden:
            self.classifier.extend([nn.Linear(width, outputs), nn.ReLU(), nn.Dropout(dropout)])
            width = outputs
        self.classifier.append(nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.stages(x).flatten(1))


def vgg(name: str, num_classes: int, in_channels: int) -> VGG:
    """``name`` is a key of :data:`DEPTHS`; for 32x32 images."""
    stages = [(width,) * depth for width, depth in zip((64, 128, 256, 512, 512), DEPTHS[name], strict=True)]
    return VGG(stages, (4096, 4096), num_classes, in_channels)


def digits_vgg(num_classes: int, in_channels: int) -> VGG:
    """Seven convolutions and one hidden linear layer, for 8x8 images."""
    return VGG([(16, 32), (48, 48), (64, 64, 64)], (128,), num_classes, in_channels)
