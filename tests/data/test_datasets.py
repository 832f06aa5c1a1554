"""Data sets: how they are cut, that they are always cut in the same way, and what is said of those that are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from prune_gym.data import datasets as data
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.splits import Normalization


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


def test_the_digits_by_name_are_floats() -> None:
    splits = data.load("digits")
    assert torch.equal(splits.train.inputs(), data.digits().train.images)
    assert splits.classes == 10
    assert splits.augmentation is None


# ------------------------------------------------------------------------------------------------ npz files

Arrays = dict[str, np.ndarray]


def random_arrays(train: int = 50, test: int = 20, channels: int = 3) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (train, 6, 5, channels), np.uint8),
        "y_train": rng.integers(0, 4, train, np.uint8),
        "x_test": rng.integers(0, 256, (test, 6, 5, channels), np.uint8),
        "y_test": rng.integers(0, 4, test, np.uint8),
        "classes": np.array(["a", "b", "c", "d", "never seen"]),
    }


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]


def pairs_of(split: data.Split) -> list[tuple[bytes, int]]:
    return pairs(split.images.permute(0, 2, 3, 1).contiguous().numpy(), split.labels.numpy())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_of_arrays(save: Callable, tmp_path: Path) -> None:
    arrays = random_arrays()
    save(tmp_path / "mine.npz", **arrays)
    splits = data.load(f"npz:{tmp_path / 'mine.npz'}")
    assert [len(split) for split in (splits.train, splits.val, splits.test)] == [45, 5, 20]
    assert splits.classes == 5
    assert splits.augmentation == Augmentation()
    assert splits.train.images.shape == (45, 3, 6, 5)
    assert splits.train.images.dtype == torch.uint8
    assert splits.train.images.is_contiguous()
    assert sorted(pairs_of(splits.test)) == sorted(pairs(arrays["x_test"], arrays["y_test"]))
    assert sorted(pairs_of(splits.train) + pairs_of(splits.val)) == sorted(pairs(arrays["x_train"], arrays["y_train"]))
    again = data.load(f"npz:{tmp_path / 'mine.npz'}")
    assert pairs_of(again.val) == pairs_of(splits.val)
    assert pairs_of(again.train) == pairs_of(splits.train)
    assert pairs_of(again.test) == pairs_of(splits.test)
    red = (splits.test.images[:, 0].double() / 255 - 0.485) / 0.229
    assert torch.allclose(splits.test.inputs()[:, 0].double(), red, atol=1e-6)


def test_sorted_files_are_read_in_random_order(tmp_path: Path) -> None:
    arrays = random_arrays(200, 100)
    for part in ("train", "test"):
        arrays[f"y_{part}"].sort()
    np.savez(tmp_path / "sorted.npz", **arrays)
    splits = data.load(f"npz:{tmp_path / 'sorted.npz'}")
    for split in (splits.train, splits.val, splits.test):
        assert (split.labels.diff() < 0).sum() > len(split) / 5
        assert set(split.labels[:20].tolist()) == {0, 1, 2, 3}


def test_normalizations_are_those_of_public_weights() -> None:
    assert Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) == data.COLOUR
    assert Normalization((0.5,), (0.5,)) == data.GREY


def test_grey_images_and_no_names(tmp_path: Path) -> None:
    arrays = random_arrays(channels=1)
    del arrays["classes"]
    np.savez(tmp_path / "mine.npz", **arrays)
    splits = data.load(f"npz:{tmp_path / 'mine.npz'}")
    assert splits.classes == 4
    assert splits.val.inputs().shape == (5, 1, 6, 5)
    assert -1 <= splits.val.inputs().min() < -0.9 < 0.9 < splits.val.inputs().max() <= 1


def test_validation_is_a_tenth_in_random_order() -> None:
    labels = torch.arange(50_000)
    train, val = data.hold_out(data.Split(torch.zeros(50_000, 1, 1, 1), labels))
    assert (len(train), len(val)) == (45_000, 5_000)
    assert torch.equal(torch.cat([train.labels, val.labels]).sort()[0], labels)
    assert 20_000 < train.labels[:100].double().mean() < 30_000
    assert val.labels[:5].tolist() == FIRST_OF_50_000
    assert [len(part) for part in data.hold_out(data.Split(torch.zeros(2, 1, 1, 1), labels[:2]))] == [1, 1]
    with pytest.raises(ValueError, match=r"train: expected at least 2 images, one of them to validate on, got 1"):
        data.hold_out(data.Split(torch.zeros(1, 1, 1, 1), labels[:1]))


FIRST_OF_50_000 = [25461, 5892, 10377, 28814, 9578]  # results on CIFAR are only comparable as long as these stay


def without(key: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {name: array for name, array in arrays.items() if name != key}


def changed(key: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: arrays | {key: change(arrays[key])}


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without("y_test"), r"expected the arrays x_train, y_train, x_test, y_test and perhaps classes, got x_train, .*savez"),
        (lambda arrays: arrays | {"extra": np.zeros(1)}, r"expected the arrays .* got .*extra"),
        (changed("x_train", lambda x: x.astype(np.float32)), r"expected x_train to be uint8 images \(N, H, W, C\).* got float32"),
        (
            changed("x_train", lambda x: x.transpose(0, 3, 1, 2)),
            r"x_train .* \(50, 3, 6, 5\); write it with .transpose",
        ),
        (changed("x_test", lambda x: x[..., 0]), r"x_test to be uint8 images .* got uint8 \(20, 6, 5\)"),
        (changed("x_test", lambda x: x[..., :1]), r"x_test to hold images \(6, 5, 3\) as x_train does, got \(6, 5, 1\)"),
        (changed("x_test", lambda x: x[:0]), r"x_test .* got uint8 \(0, 6, 5, 3\)"),
        (changed("y_train", lambda y: y[:-1]), r"expected y_train to be an integer for each of 50 images, got uint8 \(49,\)"),
        (changed("y_train", lambda y: y[:, None]), r"y_train .* got uint8 \(50, 1\)"),
        (changed("y_test", lambda y: y.astype(float)), r"y_test to be an integer for each of 20 images, got float64"),
        (changed("y_test", lambda y: y.astype(int) - 1), r"expected y_test to count from 0, got -1"),
        (changed("y_test", lambda y: y + 3), r"expected labels 0 .. 4, one for each name in classes, got 5"),
        (
            lambda arrays: without("classes")(arrays) | {"y_test": arrays["y_test"].astype(np.int64) + 2**40},
            r"fewer classes than the 50 images",
        ),
        (
            lambda arrays: arrays | {"x_train": arrays["x_train"][:1], "y_train": arrays["y_train"][:1]},
            r"at least 2 images in x_tr",
        ),
        (changed("classes", lambda c: np.array(5)), r"expected classes to be an array of names \(K,\), got int64 \(\)"),
        (changed("classes", lambda c: c.astype(object)), r"damaged, or not an npz file of plain arrays .*allow_pickle"),
    ],
)
def test_arrays_that_are_no_data_set(break_it: Callable[[Arrays], Arrays], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **break_it(random_arrays()))
    with pytest.raises(ValueError, match=message) as e:
        data.load(f"npz:{path}")
    assert str(e.value).startswith(f"{path}: ")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_of_arrays(save: Callable, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    save(path, **random_arrays())
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 3] ^= 4
    for content in (b"", b"no zip", good[:-30], good[: len(good) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"mine.npz: damaged, or not an npz file .*numpy.savez"):
            data.load(f"npz:{path}")
    for header in (b"{'descr': '|u1', 'shape': (6, 5", b"{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999,), }"):
        with ZipFile(path, "w") as file:
            file.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        with pytest.raises(ValueError, match=r"mine.npz: damaged, or not an npz file .*numpy.savez"):
            data.load(f"npz:{path}")
    with ZipFile(path, "w") as file:
        file.writestr("x_train", "hello")
    with pytest.raises(ValueError, match=r"mine.npz: damaged, or not an npz file .*x_train is not an array.*numpy.savez"):
        data.load(f"npz:{path}")
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"single.npy: .*a single array"):
        data.load(f"npz:{tmp_path / 'single.npy'}")
    with pytest.raises(FileNotFoundError, match=r"none.npz: no such file; make one with numpy.savez"):
        data.load(f"npz:{tmp_path / 'none.npz'}")


# ------------------------------------------------------------------------------------------------ CIFAR and names


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_cifar_that_is_not_there_or_damaged(name: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE_GYM_DATA", str(tmp_path))
    fetch = rf"""python -c "from prune_gym.data import datasets; datasets\.load\('{name}', download=True\)\""""
    with pytest.raises(FileNotFoundError, match=rf"{folder}: {name} is not there; fetch it with {fetch}.*PRUNE_GYM_DATA"):
        data.load(name)
    (tmp_path / folder).mkdir()
    for file in ("data_batch_1", "train", "test_batch", "test"):
        (tmp_path / folder / file).write_bytes(b"\x80\x04cos\nabort\n(tR.")  # never unpickled: its MD5 is wrong
    with pytest.raises(ValueError, match=rf"{folder}: {name} is incomplete or damaged .*delete the folder and run {fetch}"):
        data.load(name)


def test_cifar_is_cut_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = random_arrays()

    class Fake(CIFAR10):
        def __init__(self, root: Path, train: bool = True, download: bool = False):
            assert (root, download) == (tmp_path / "data", train)
            part = "train" if train else "test"
            self.data, self.targets, self.classes = arrays[f"x_{part}"], arrays[f"y_{part}"].tolist(), list("abcde")

    monkeypatch.delenv("PRUNE_GYM_DATA", raising=False)
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    np.savez(tmp_path / "same.npz", **arrays)
    found, expected = data.load("cifar10", download=True), data.load(f"npz:{tmp_path / 'same.npz'}")
    assert found.classes == expected.classes == 5
    assert found.augmentation == Augmentation()
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(found, part).inputs(), getattr(expected, part).inputs())
        assert torch.equal(getattr(found, part).labels, getattr(expected, part).labels)


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("PRUNE_GYM_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    with pytest.raises(OSError, match=r"cifar10 could not be downloaded .*no network.*; unpack https://.*tar.gz into "):
        data.load("cifar10", download=True)


def test_unknown_data() -> None:
    with pytest.raises(ValueError, match=r"data: expected one of digits, .*folder:PATH; got 'cifar'\. Did you mean 'cifar10'\?"):
        data.load("cifar")
    with pytest.raises(ValueError, match=r"data: expected a path after 'npz:', as in npz:my/data"):
        data.load("npz:")
    with pytest.raises(ValueError, match=r"data: expected one of .* got 'zip:x'"):
        data.load("zip:x")
