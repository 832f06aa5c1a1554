"""Work that is spread over processes, each of which computes with one thread."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import torch
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(function: Callable[[Item], Result], items: Sequence[Item], processes: int) -> Iterator[Result]:
    """The results in the order in which they are known, under a progress bar. What was not begun when the caller stops asking is
    given up; all is when the caller's process ends, even if it is killed.

    Raises what ``function`` raises, and ChildProcessError if a process is killed.
    """
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_prepare)
    try:
        for finished in tqdm(as_completed([pool.submit(function, item) for item in items]), total=len(items), unit="run"):
            yield finished.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "processes: a run was killed, perhaps because the memory was full. The rows that were finished are kept; give the "
            "same command again, with fewer processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare() -> None:
    die_with_parent()
    torch.set_num_threads(1)


def die_with_parent() -> None:
    """End this process as soon as the one that started it is gone, even if that was killed: it would go on for nobody, and hold
    its locks against the next command."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
