"""Work that is spread over processes, each of which computes with one thread."""

from __future__ import annotations

import multiprocessing
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
    given up.

    Raises what ``function`` raises, and ChildProcessError if a process is killed.
    """
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,))
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
