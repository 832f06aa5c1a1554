"""Data sets by name, as tensors, in random order and cut into splits by a fixed seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import torch

from prune_gym.arguments import unknown
from prune_gym.data.augmentation import Augmentation
from prune_gym.data.folders import read_folder
from prune_gym.data.sampling import shuffled
from prune_gym.data.splits import Normalization, Split, Splits
from prune_gym.files import cache_folder

VALIDATION_SHARE = 10  # one image in ten: 5,000 of CIFAR's 50,000
COLOUR = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # ImageNet's, which public weights for CIFAR use as well
GREY = Normalization((0.5,), (0.5,))


def load(name: str, download: bool = False) -> Splits:
    """A data set by name, on the CPU; see ``docs/data.md``.

    - ``digits``: scikit-learn's, see :func:`digits`.
    - ``cifar10``, ``cifar100``: read by torchvision from :func:`data_folder`; if it is not there, it is downloaded with
      ``download=True`` and is an error without. The other data sets are never downloaded.
    - ``npz:PATH``: a file of NumPy arrays, see :func:`read_npz`.
    - ``folder:PATH``: image files in one folder per class, see :func:`prune_gym.data.folders.read_folder`.

    All but the digits are uint8 images with a normalization. Validation is a tenth of the training images, drawn by a
    fixed seed, unless a folder brings its own. The images of every split are in a random order, which a fixed seed decides.

    Raises ValueError for an unknown name or damaged data, FileNotFoundError for missing data; both say what to do.
    """
    kind, colon, path = str(name).partition(":")
    if colon and kind in _FROM_PATH:
        if not path:
            raise ValueError(f"data: expected a path after {name!r}, as in {kind}:my/data.")
        return _FROM_PATH[kind](Path(path).expanduser())
    if name == "digits":
        return digits()
    if name in ("cifar10", "cifar100"):
        return _cifar(name, download)
    raise unknown("data", name, ["digits", "cifar10", "cifar100", "npz:PATH", "folder:PATH"])


def data_folder() -> Path:
    """Where downloaded data sets are kept: ``$PRUNE_GYM_DATA``, else ``data`` in the cache folder."""
    return Path(os.environ.get("PRUNE_GYM_DATA") or cache_folder() / "data").expanduser()


def digits() -> Splits:
    """The 1,797 handwritten digits of scikit-learn, 8x8 pixels in [0, 1]: 997 to train, 400 to validate, 400 to test."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images.astype(np.float32) / 16).unsqueeze(1)
    labels = torch.from_numpy(raw.target.astype(np.int64))
    test, val, train = torch.from_numpy(shuffled(len(labels))).split([400, 400, len(labels) - 800])
    both = Split(images, labels)
    return Splits(both.subset(train), both.subset(val), both.subset(test), classes=10)


def hold_out(train: Split) -> tuple[Split, Split]:
    """Training and validation images, a tenth of ``train``, drawn by a fixed seed; both in random order. Raises ValueError for
    fewer than two images."""
    if len(train) < 2:
        raise ValueError(f"train: expected at least 2 images, one of them to validate on, got {len(train)}.")
    order = torch.from_numpy(shuffled(len(train)))
    held = max(1, len(train) // VALIDATION_SHARE)
    return train.subset(order[held:]), train.subset(order[:held])


def _from_arrays(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, classes: int) -> Splits:
    """Splits from uint8 images (N, H, W, C) and integer labels (N,)."""

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return Split(pixels, torch.from_numpy(labels.astype(np.int64)), GREY if pixels.shape[1] == 1 else COLOUR)

    return Splits(*hold_out(split(x_train, y_train)), split(x_test, y_test).shuffled(), classes, Augmentation())


# ------------------------------------------------------------------------------------------------------------- CIFAR


def _cifar(name: str, download: bool) -> Splits:
    from torchvision.datasets import CIFAR10, CIFAR100

    source, root = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name], data_folder()
    folder = root / source.base_folder
    fetch = f"""python -c "from prune_gym.data import datasets; datasets.load('{name}', download=True)\""""
    try:
        train, test = source(root, train=True, download=download), source(root, train=False)
    except (RuntimeError, OSError) as error:  # torchvision raises RuntimeError for a missing file and for a wrong MD5
        if download:
            raise OSError(
                f"{folder}: {name} could not be downloaded ({error}); unpack {source.url} into {root} by other means."
            ) from error
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{folder}: {name} is not there; fetch it with {fetch}, or let $PRUNE_GYM_DATA name the folder that holds "
                f"{source.base_folder}/."
            ) from error
        raise ValueError(f"{folder}: {name} is incomplete or damaged ({error}); delete the folder and run {fetch}.") from error
    return _from_arrays(train.data, np.array(train.targets), test.data, np.array(test.targets), len(train.classes))


# --------------------------------------------------------------------------------------------------------------- npz

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> Splits:
    """A data set in a NumPy file. Its arrays are

    - ``x_train``, ``x_test``: images, uint8 (N, H, W, C) with 3 channels (red, green, blue) or 1, all of one size;
    - ``y_train``, ``y_test``: labels, integers (N,) from 0;
    - ``classes`` (optional): the names of the classes, strings (K,); without it there are as many as the largest label says.

    Raises FileNotFoundError, or ValueError that names the file, the array, and what is wrong with it.
    """
    arrays = _read_arrays(path)
    missing = [key for key in _KEYS if key not in arrays]
    surplus = sorted(arrays.keys() - {*_KEYS, "classes"})
    if missing or surplus:
        raise ValueError(
            f"{path}: expected the arrays {', '.join(_KEYS)} and perhaps classes, got {', '.join(arrays) or 'none'}; write it "
            f"with numpy.savez(path, {', '.join(f'{key}=...' for key in _KEYS)})."
        )
    for part in ("train", "test"):
        _check_images(path, f"x_{part}", arrays[f"x_{part}"], arrays["x_train"])
        _check_labels(path, f"y_{part}", arrays[f"y_{part}"], len(arrays[f"x_{part}"]))
    if len(arrays["x_train"]) < 2:
        raise ValueError(f"{path}: expected at least 2 images in x_train, one of them to validate on, got 1.")
    largest = max(int(arrays["y_train"].max()), int(arrays["y_test"].max()))
    images = len(arrays["x_train"])
    if "classes" not in arrays and largest >= images:
        raise ValueError(f"{path}: expected fewer classes than the {images} images of x_train, got the label {largest}.")
    names = arrays.get("classes")
    if names is not None and (names.ndim != 1 or names.dtype.kind != "U"):
        raise ValueError(f"{path}: expected classes to be an array of names (K,), got {names.dtype} {names.shape}.")
    if names is not None and largest >= len(names):
        raise ValueError(f"{path}: expected labels 0 .. {len(names) - 1}, one for each name in classes, got {largest}.")
    classes = largest + 1 if names is None else len(names)
    return _from_arrays(arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"], classes)


# all that NumPy raises for files with wrong bits, in the archive, the compressed data, or the header of an array
_DAMAGES = (ValueError, EOFError, BadZipFile, ZlibError, OSError, RuntimeError, TokenError, SyntaxError, MemoryError, KeyError)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; make one with numpy.savez(path, {', '.join(f'{key}=...' for key in _KEYS)})."
        )
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise ValueError("it holds a single array")
        with content:
            arrays = {key: content[key] for key in content.files}
        if other := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{other[0]} is not an array")
        return arrays
    except _DAMAGES as error:
        raise ValueError(
            f"{path}: damaged, or not an npz file of plain arrays ({error}); copy it again, or write it with numpy.savez."
        ) from error


def _check_images(path: Path, key: str, images: np.ndarray, first: np.ndarray) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        channels_first = images.ndim == 4 and images.shape[1] in (1, 3)
        hint = "; write it with .transpose(0, 2, 3, 1)" if channels_first and images.dtype == np.uint8 else ""
        raise ValueError(
            f"{path}: expected {key} to be uint8 images (N, H, W, C) with 1 or 3 channels, got {images.dtype} "
            f"{images.shape}{hint}."
        )
    if images.shape[1:] != first.shape[1:]:
        raise ValueError(f"{path}: expected {key} to hold images {first.shape[1:]} as x_train does, got {images.shape[1:]}.")


def _check_labels(path: Path, key: str, labels: np.ndarray, images: int) -> None:
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (images,):
        raise ValueError(
            f"{path}: expected {key} to be an integer for each of {images} images, got {labels.dtype} {labels.shape}."
        )
    if labels.min() < 0:
        raise ValueError(f"{path}: expected {key} to count from 0, got {labels.min()}.")


# ----------------------------------------------------------------------------------------------------------- folders


def _folder(path: Path) -> Splits:
    arrays, classes = read_folder(path)
    splits = {part: Split(images, labels, COLOUR) for part, (images, labels) in arrays.items()}
    train, val = (splits["train"].shuffled(), splits["val"].shuffled()) if "val" in splits else hold_out(splits["train"])
    return Splits(train, val, splits["test"].shuffled(), classes, Augmentation())


_FROM_PATH: dict[str, Callable[[Path], Splits]] = {"npz": read_npz, "folder": _folder}
