"""The digits: how they are cut, and that they are always cut in the same way."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from prune_gym import data


def rows(split: data.Split) -> list[bytes]:
    return [image.numpy().tobytes() for image in split.images]


def test_sizes_shapes_and_types() -> None:
    splits = data.digits()
    assert [len(split) for split in (splits.train, splits.val, splits.test)] == [997, 400, 400]
    for split in (splits.train, splits.val, splits.test):
        assert split.images.shape == (len(split), 1, 8, 8)
        assert split.images.dtype == torch.float32
        assert split.labels.shape == (len(split),)
        assert split.labels.dtype == torch.int64
        assert split.images.min() == 0
        assert split.images.max() == 1
        assert sorted(split.labels.unique().tolist()) == list(range(10))


def test_every_digit_is_in_one_split_with_its_label() -> None:
    splits = data.digits()
    raw = load_digits()
    original = sorted(
        ((image / 16).astype(np.float32).tobytes(), int(label)) for image, label in zip(raw.images, raw.target, strict=True)
    )
    found = [
        pair for split in (splits.train, splits.val, splits.test) for pair in zip(rows(split), split.labels.tolist(), strict=True)
    ]
    assert sorted(found) == original
    assert not set(rows(splits.train)) & set(rows(splits.val))
    assert not set(rows(splits.train)) & set(rows(splits.test))
    assert not set(rows(splits.val)) & set(rows(splits.test))


def test_splits_are_fixed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  # the global generator must not matter
    state = torch.random.get_rng_state()
    first = data.digits()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    second = data.digits()
    for a, b in ((first.train, second.train), (first.val, second.val), (first.test, second.test)):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert first.test.labels[:12].tolist() == FIRST_TEST_LABELS
    assert first.val.labels[:12].tolist() == FIRST_VAL_LABELS


# Results are only comparable between versions as long as these stay.
FIRST_TEST_LABELS = [6, 6, 6, 2, 5, 6, 6, 2, 2, 1, 1, 9]
FIRST_VAL_LABELS = [6, 4, 1, 1, 8, 8, 5, 6, 3, 4, 1, 3]
