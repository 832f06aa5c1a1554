"""What an architecture costs: MACs and parameters, exactly, from its widths alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

CONVENTIONS = ("macs", "paper")


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of convolutions and linear layers for one image, biases not counted, and the number of all
    parameters. Integers from :meth:`ChannelGraph.cost`, arrays (N,) from :meth:`ChannelGraph.costs`."""

    macs: Any
    params: Any


@dataclass(frozen=True, eq=False)
class CostModel:
    """Cost as a polynomial of the widths. ``sizes = widths @ slope.T + offset`` are all channel counts that occur, and a
    cost is the quadratic form ``sizes @ form @ sizes``. Exact: every term is an integer far below 2**53."""

    slope: np.ndarray  # (sizes, groups)
    offset: np.ndarray  # (sizes,)
    macs: np.ndarray  # (sizes, sizes)
    paper_flops: np.ndarray  # the same, with what the paper's convention adds
    params: np.ndarray

    def evaluate(self, form: np.ndarray, widths: np.ndarray) -> np.ndarray:
        sizes = widths @ self.slope.T + self.offset
        return np.einsum("ns,ns->n", sizes @ form, sizes).astype(np.int64)

    def over_widths(self, form: np.ndarray) -> np.ndarray:
        """A form over the sizes as one over the widths and a 1 behind them, float64 (groups + 1, groups + 1)."""
        sizes = np.column_stack([self.slope, self.offset])
        return sizes.T @ form @ sizes


def links(form: np.ndarray) -> np.ndarray:
    """Which groups meet in a layer, whose MACs grow with both of their widths: bool (groups, groups), symmetric, of a form over
    the widths and a 1 behind them. A group does not meet itself."""
    both = form[:-1, :-1] + form[:-1, :-1].T
    np.fill_diagonal(both, 0)
    return both != 0
