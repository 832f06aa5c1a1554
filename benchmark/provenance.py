"""What a result was made with, and where from."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("prune_gym", "torch", "numpy", "gymnasium", "stable_baselines3", "sb3_contrib", "cma", "optuna")


def provenance() -> dict[str, Any]:
    """Versions of the packages, of Python, the kind of machine, and the commit of a checkout, with ``+`` behind it if files that
    git knows differ from it; without a checkout no ``commit``."""
    made: dict[str, Any] = {"versions": {name: found for name in PACKAGES if (found := _version(name))}}
    made |= {"python": platform.python_version(), "machine": platform.machine()}
    commit = _git("rev-parse", "--short=12", "HEAD")
    return made | ({"commit": commit + "+" * bool(_git("status", "--porcelain", "--untracked-files=no"))} if commit else {})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # an extra
        return None


def _git(*arguments: str) -> str:
    """What git says about the folder that this package lies in; nothing without git, or where there is no checkout."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return ""
    found = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""
