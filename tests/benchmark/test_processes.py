"""Processes of this machine: none outlives the command that started it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

COMMAND = """
import sys, time
from pathlib import Path
from filelock import FileLock
from prune_gym.benchmark.processes import in_processes

def work(lock):
    with FileLock(lock):
        Path(lock).with_suffix(".held").touch()
        time.sleep(600)

if __name__ == "__main__":
    list(in_processes(work, sys.argv[1:], 2))
"""


@pytest.mark.slow
def test_workers_of_a_killed_command_give_up_their_locks(tmp_path: Path) -> None:
    """As one that the memory was too small for; the same command can be given again at once."""
    locks = [tmp_path / f"{name}.lock" for name in "ab"]
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    command = subprocess.Popen([sys.executable, str(script), *map(str, locks)], stderr=subprocess.DEVNULL)
    try:
        start = time.monotonic()
        while not all(lock.with_suffix(".held").exists() for lock in locks):
            assert command.poll() is None
            assert time.monotonic() < start + 120
            time.sleep(0.1)
        with pytest.raises(Timeout):
            FileLock(locks[0], timeout=0).acquire()
    finally:
        command.kill()
        command.wait()
    for lock in locks:
        with FileLock(lock, timeout=30):
            pass
