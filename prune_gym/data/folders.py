"""Image files in folders, read into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from prune_gym.arguments import unknown

SHORTER_SIDE, SIZE = 256, 224  # what torchvision's networks are evaluated at


def read_folder(path: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], int]:
    """Images in ``path/PART/CLASS/*.png`` (or any other format torchvision's ``ImageFolder`` knows), and how many classes.

    Parts: ``train`` and ``test``, and ``val`` if there is one. Without ``test``, ``val`` is the test part, since it is then
    what results on the data set are reported on, as for ImageNet; whoever validates has to hold out training images.
    Classes are the folders of ``train`` in alphabetical order, and the other parts have no further ones.

    Images become (N, 3, H, W), uint8, labels (N,), int64, sorted by class and name. If all have one size they stay as they
    are; otherwise the shorter side of every image becomes 256 pixels and its central 224x224 are kept. All are held in
    memory, which takes 150 KB for an image of 224x224.

    Raises FileNotFoundError for a missing part or a class without images, ValueError, with the file, for one that is damaged.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    parts = {part: path / part for part in ("train", "val", "test") if (path / part).is_dir()}
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    if not {"train", "test"} <= parts.keys():
        raise FileNotFoundError(
            f"{path}: expected the folders train/ and test/ or val/ with one folder of images per class in each; "
            f"found {', '.join(parts) or 'none of them'}."
        )
    classes = _folders(parts["train"])
    files = {}
    for part, folder in parts.items():
        for name in _folders(folder):
            if name not in classes:
                raise unknown(f"{folder}: a class", name, classes)
        index = {name: i for i, name in enumerate(classes) if (folder / name).is_dir()}
        try:
            files[part] = make_dataset(folder, index, IMG_EXTENSIONS)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder}: {error}; add images or delete the folders of these classes.") from error
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside of the interpreter's lock
        sizes = set(pool.map(_size, [file for found in files.values() for file, _ in found]))
        size = sizes.pop() if len(sizes) == 1 else None
        arrays = {part: _read(found, size, pool) for part, found in files.items()}
    return arrays, len(classes)


def _folders(path: Path) -> list[str]:
    names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
    if not names:
        raise FileNotFoundError(f"{path}: expected one folder of images per class, found no folders.")
    return names


def _read(files: Sequence[tuple[str, int]], size: tuple[int, int] | None, pool: Executor) -> tuple[Tensor, Tensor]:
    """The images and labels of one part. ``size``: width and height of all of them, or None if they have to be resized."""
    width, height = size or (SIZE, SIZE)
    images = torch.empty(len(files), 3, height, width, dtype=torch.uint8)
    decoded = pool.map(partial(_pixels, resized=size is None), [file for file, _ in files])
    for image, pixels in zip(images, decoded, strict=True):
        image.copy_(pixels)
    return images, torch.tensor([label for _, label in files])


@contextmanager
def _opened(file: str) -> Iterator[Image.Image]:
    try:
        with Image.open(file) as image:
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all that Pillow's decoders raise
        raise ValueError(f"{file}: damaged, or not an image ({error}); replace or delete it.") from error


def _size(file: str) -> tuple[int, int]:
    """Width and height, without decoding."""
    with _opened(file) as image:
        return image.size


def _pixels(file: str, resized: bool) -> Tensor:
    """(3, H, W), uint8."""
    from torchvision.transforms import functional

    with _opened(file) as image:
        colour = image.convert("RGB")
    if resized:
        colour = functional.center_crop(functional.resize(colour, SHORTER_SIDE), SIZE)
    return functional.pil_to_tensor(colour)
