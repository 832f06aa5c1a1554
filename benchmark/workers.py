"""Who plays: processes of this machine or a Ray cluster. A play that fails, or takes its process along, takes no other along."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any

from prune_gym.benchmark.play import Play, Record, play
from prune_gym.benchmark.processes import die_with_parent
from prune_gym.training.train import one_thread

KILLED = "Its process was killed, perhaps because the memory was full."
RETRIES = 2  # of a play whose process is lost


@dataclass(frozen=True)
class Failure:
    """A play that gave no record, and why: a traceback, or a sentence."""

    play: Play
    why: str


Result = tuple[Play, Record | Failure]


def attempt(one: Play, made: Mapping[str, Any] | None = None) -> Record | Failure:
    """Play with one thread; what is raised comes back as text, since not every exception travels between processes. ``made`` is
    the provenance."""
    try:
        with one_thread():
            return play(one, made)
    except (Exception, SystemExit):
        return Failure(one, traceback.format_exc())


def local(plays: Iterable[Play], processes: int, made: Mapping[str, Any]) -> Iterator[Result]:
    """Play in so many processes; results come as they are known, and no more plays are taken than are being played.

    If a process is killed, those that were being played are played again, one at a time; one that loses every process that it is
    given has failed.
    """
    waiting = iter(plays)
    while suspects := (yield from _until_killed(waiting, processes, made)):
        for each in suspects:
            for _ in range(RETRIES):
                if not (yield from _until_killed(iter([each]), 1, made)):
                    break
            else:
                yield each, Failure(each, KILLED)


def _until_killed(plays: Iterator[Play], processes: int, made: Mapping[str, Any]) -> Generator[Result, None, list[Play]]:
    """Play until all are played, or a process is killed; gives those that were being played then, none at the end."""
    playing: list[Play] = []
    running: dict[Future[Record | Failure], Play] = {}
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=die_with_parent)
    try:
        while True:
            for each in islice(plays, processes - len(running)):
                playing.append(each)  # before submit, which raises if a process was killed in the meantime
                running[pool.submit(attempt, each, made)] = each
            if not running:
                return []
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                result = finished.result()
                playing.remove(running[finished])
                yield running.pop(finished), result
    except BrokenProcessPool:
        return playing
    finally:
        pool.shutdown(cancel_futures=True)


def on_cluster(plays: Iterable[Play], address: str, made: Mapping[str, Any]) -> Iterator[Result]:
    """Play on the CPUs of a Ray cluster, where this version of the package must be installed; what a lost machine was playing is
    played elsewhere. Raises ImportError without Ray, ConnectionError if there is no cluster."""
    import ray  # an extra

    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(attempt)
    waiting = iter(plays)
    running: dict[Any, Play] = {}  # by the reference to its result
    try:
        while True:
            cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
            running |= {remote.remote(each, made): each for each in islice(waiting, max(0, cpus - len(running)))}
            if not running:
                return
            finished, _ = ray.wait(list(running), num_returns=1)
            for reference in finished:
                each = running.pop(reference)
                try:
                    yield each, ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield each, Failure(each, str(error))
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
