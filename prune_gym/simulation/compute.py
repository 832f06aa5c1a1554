"""What it costs to score, to rank and to train networks: images and multiply-accumulates, whatever is in a cache.

A forward pass of an image costs the MACs of the network, a forward and a backward pass three times as many. Linear systems
(compensation, optimal brain surgeon) count with the multiplications of their closed forms. What is computed once for a version of
the weights, its moments and its Gram matrices, is not counted: for the original network it is the same for every agent, and for
others it is little beside the training that made them, as are the systems that a training from a compensated network starts with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Compute:
    """An amount of computation.

    Attributes:
        images_forward: images that went through a network.
        images_backward: those of them whose gradient was computed.
        macs: all multiply-accumulates.
    """

    images_forward: int = 0
    images_backward: int = 0
    macs: int = 0

    def __add__(self, other: Compute) -> Compute:
        return Compute(
            self.images_forward + other.images_forward,
            self.images_backward + other.images_backward,
            self.macs + other.macs,
        )


NOTHING = Compute()


def passes(images: int, macs: int, backward: bool = False) -> Compute:
    """Forward passes of a network of so many MACs, and with ``backward`` the backward passes as well."""
    return Compute(images, images if backward else 0, images * macs * (3 if backward else 1))
