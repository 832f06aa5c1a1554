"""Tasks of experiments: a known task or any network and data, with as many images as the experiment takes; fingerprints of what
results depend on."""

from __future__ import annotations

import hashlib
from pathlib import Path

from prune_gym import tasks
from prune_gym.tasks import Task


def settings_digest(task: Task, *settings: object) -> str:
    """A fingerprint of a task's network and data, and of settings."""
    return hashlib.blake2b(f"{task.fingerprints} {settings}".encode(), digest_size=4).hexdigest()


def load_task(
    name: str,
    network: str | None = None,
    data: str | None = None,
    weights: Path | None = None,
    train_images: int | None = None,
    val_images: int | None = None,
    seed: int = 0,
) -> Task:
    """The known task of this name, or a task of this name that is made of network, data and weights; so many of its training and
    validation images are drawn with ``seed``, all of them for None. Raises like :func:`prune_gym.tasks.load` and
    :func:`prune_gym.tasks.make`.
    """
    whole = tasks.load(name, progress=True) if network is None else tasks.make(network, data or "", weights)
    train = whole.train if train_images is None else whole.train.sample(train_images, seed)
    val = whole.val if val_images is None else whole.val.sample(val_images, seed)
    return Task(name, whole.model, train, val, whole.test, whole.augmentation)
