"""Folders of image files, small ones made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from prune_gym.data import datasets as data
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.folders import read_folder


def write(path: Path, seed: int, size: tuple[int, int] = (7, 5), mode: str = "RGB") -> None:
    """A random image, width and height ``size``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)


def fill(root: Path, *parts: str, size: tuple[int, int] = (7, 5)) -> Path:
    """Eight images of two classes in every part."""
    for seed, (part, name, i) in enumerate((p, c, i) for p in parts for c in ("cat", "dog") for i in range(4)):
        write(root / part / name / f"{i}.png", seed, size)
    return root


def pairs(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[bytes, int]]:
    return [(image.numpy().tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]


def test_images_are_those_of_torchvision(tmp_path: Path) -> None:
    arrays, classes = read_folder(fill(tmp_path, "train", "val", "test"))
    assert classes == 2
    assert arrays.keys() == {"train", "val", "test"}
    for part, (images, labels) in arrays.items():
        expected = ImageFolder(tmp_path / part, PILToTensor())
        assert torch.equal(images, torch.stack([image for image, _ in expected]))
        assert labels.tolist() == expected.targets == [0, 0, 0, 0, 1, 1, 1, 1]
        assert images.dtype == torch.uint8
        assert labels.dtype == torch.int64


def test_images_of_several_sizes_are_resized_and_cut(tmp_path: Path) -> None:
    fill(tmp_path, "train", "test")
    write(tmp_path / "test" / "cat" / "large.png", 99, (300, 280))
    write(tmp_path / "test" / "dog" / "grey.png", 100, (20, 30), mode="L")
    arrays, _ = read_folder(tmp_path)
    standard = Compose([Resize(256), CenterCrop(224), PILToTensor()])
    for part, (images, labels) in arrays.items():
        expected = ImageFolder(tmp_path / part, standard)
        assert torch.equal(images, torch.stack([image for image, _ in expected]))
        assert labels.tolist() == expected.targets


def test_splits_of_a_folder(tmp_path: Path) -> None:
    splits = data.load(f"folder:{fill(tmp_path / 'all', 'train', 'val', 'test')}")
    assert [len(split) for split in (splits.train, splits.val, splits.test)] == [8, 8, 8]
    arrays, _ = read_folder(tmp_path / "all")
    for part in ("train", "val", "test"):  # images are in random order, with their labels
        split, (images, labels) = getattr(splits, part), arrays[part]
        assert pairs(split.images, split.labels) != pairs(images, labels)
        assert sorted(pairs(split.images, split.labels)) == sorted(pairs(images, labels))
        assert split.labels.tolist() != sorted(split.labels.tolist())
        again = getattr(data.load(f"folder:{tmp_path / 'all'}"), part)
        assert pairs(again.images, again.labels) == pairs(split.images, split.labels)
    assert splits.classes == 2
    assert splits.augmentation == Augmentation()
    assert splits.train.inputs().shape == (8, 3, 5, 7)
    for part in ("val", "test"):  # either is what is reported on, and validation is held out of the training images
        root = fill(tmp_path / part, "train", part)
        splits = data.load(f"folder:{root}")
        assert [len(split) for split in (splits.train, splits.val, splits.test)] == [7, 1, 8]
        arrays, _ = read_folder(root)
        assert sorted(pairs(splits.test.images, splits.test.labels)) == sorted(pairs(*arrays["test"]))
        held = [pair for split in (splits.train, splits.val) for pair in pairs(split.images, split.labels)]
        assert sorted(held) == sorted(pairs(*arrays["train"]))
        assert splits.train.labels.tolist() != sorted(splits.train.labels.tolist())


def test_a_test_part_may_lack_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "train", "test")
    write(tmp_path / "train" / "ape" / "0.png", 50)
    arrays, classes = read_folder(tmp_path)
    assert classes == 3
    assert arrays["test"][1].tolist() == [1, 1, 1, 1, 2, 2, 2, 2]


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none: expected the folders train/ and test/ or val/ .* found none of them"):
        data.load(f"folder:{tmp_path / 'none'}")
    root = fill(tmp_path / "one", "train")
    with pytest.raises(FileNotFoundError, match=r"one: expected the folders .* found train\."):
        data.load(f"folder:{root}")
    (root / "test").mkdir()
    with pytest.raises(FileNotFoundError, match=r"test: expected one folder of images per class, found no folders"):
        data.load(f"folder:{root}")
    (root / "test" / "dog").mkdir()
    with pytest.raises(FileNotFoundError, match=r"test: Found no valid file for the classes dog.*add images or delete"):
        data.load(f"folder:{root}")
    write(root / "test" / "dig" / "0.png", 3)
    with pytest.raises(ValueError, match=r"test: a class: expected one of cat, dog; got 'dig'\. Did you mean 'dog'\?"):
        data.load(f"folder:{root}")


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "webp"])
def test_damaged_images_are_named(kind: str, tmp_path: Path) -> None:
    fill(tmp_path, "train", "test")
    path = tmp_path / "train" / "dog" / f"bad.{kind}"
    write(path, 7)
    good = path.read_bytes()
    for content in (b"", b"not an image", good[:20], good[: len(good) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged, or not an image \(.*\); replace or delete it\.") as e:
            data.load(f"folder:{tmp_path}")
        assert str(e.value).startswith(f"{path}: ")
