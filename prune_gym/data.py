"""Data sets as tensors, cut into splits by a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from prune_gym.evaluation import Split

SPLIT_SEED = 0


@dataclass(frozen=True)
class Splits:
    """Training, validation and test data. Rewards read validation; test is only reported."""

    train: Split
    val: Split
    test: Split


def digits() -> Splits:
    """The 1,797 handwritten digits of scikit-learn, 8x8 pixels in [0, 1]: 997 to train, 400 to validate, 400 to test."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images.astype(np.float32) / 16).unsqueeze(1)
    labels = torch.from_numpy(raw.target.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(SPLIT_SEED).permutation(len(labels)))
    test, val, train = order.split([400, 400, len(labels) - 800])
    return Splits(*(Split(images[part], labels[part]) for part in (train, val, test)))
