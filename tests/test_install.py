"""What an installation gives: the same package from every folder, and nothing but that package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("prune_gym", "envs", "agents", "benchmark", "scripts", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
OURS = """
import gymnasium
import prune_gym, prune_gym.envs.pruning, prune_gym.agents.run, prune_gym.benchmark.rows

root = Path(sys.argv[1])
assert Path(prune_gym.__file__) == root / "prune_gym" / "__init__.py", prune_gym.__file__
for name in ("envs", "agents", "benchmark"):
    assert Path(getattr(prune_gym, name).__file__) == root / name / "__init__.py"
assert gymnasium.spec("PruneGym/Digits-v0").kwargs == {"task": "digits"}
"""


def test_every_package_is_listed() -> None:
    """Setuptools installs the packages of pyproject.toml and no others."""
    listed = set(re.findall(r'^    "(prune_gym[\w.]*)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    found = {
        path.parent.relative_to(ROOT)
        for name in ("prune_gym", "envs", "agents", "benchmark")
        for path in (ROOT / name).rglob("*.py")
    }
    assert listed == {".".join(path.parts if path.parts[0] == "prune_gym" else ("prune_gym", *path.parts)) for path in found}
    assert all((ROOT / path / "__init__.py").is_file() for path in found)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in a folder called prune_gym."""
    clone = tmp_path_factory.mktemp("projects") / "prune_gym"
    clone.mkdir()
    for name in SOURCES:
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, clone / name, ignore=ignored) if source.is_dir() else shutil.copy(source, clone / name)
    return clone


@pytest.fixture(scope="module")
def python(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, str], None]:
    """Runs a program in a folder, in a new virtual environment with an editable install of the clone. What the project depends on
    comes from the environment of this test."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    executable = Path(sysconfig.get_path("scripts", vars=paths)) / "python"
    installed = [path for path in sys.path if Path(path).name == "site-packages"]
    (Path(sysconfig.get_path("purelib", vars=paths)) / "dependencies.pth").write_text("\n".join(installed))
    install = [executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-e", "."]
    subprocess.run(install, cwd=clone, check=True, timeout=600)

    def run(working_folder: Path, code: str) -> None:
        program = f"import sys\nfrom pathlib import Path\n{code}"
        done = subprocess.run(
            [executable, "-c", program, str(clone)], cwd=working_folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr

    return run


@pytest.mark.slow
def test_an_editable_install_works_in_the_parent_folder_of_the_clone(clone: Path, python: Callable[[Path, str], None]) -> None:
    python(clone.parent, OURS)


@pytest.mark.slow
def test_an_editable_install_works_in_the_clone_and_elsewhere(
    clone: Path, python: Callable[[Path, str], None], tmp_path: Path
) -> None:
    for folder in (clone, clone / "prune_gym", tmp_path):
        python(folder, OURS)


@pytest.mark.slow
def test_the_other_folders_of_the_checkout_are_not_importable(python: Callable[[Path, str], None], tmp_path: Path) -> None:
    code = """
from importlib.util import find_spec
assert find_spec("prune_gym") is not None
for name in ("envs", "agents", "benchmark", "scripts", "tests", "zoo", "command", "setup"):
    assert find_spec(name) is None, find_spec(name)
"""
    python(tmp_path, code)


@pytest.mark.slow
@pytest.mark.parametrize("init", [True, False])
def test_folders_of_the_same_names_are_left_alone(python: Callable[[Path, str], None], tmp_path: Path, init: bool) -> None:
    for name in ("envs", "agents", "benchmark"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"NAME = {name!r}")
        if init:
            (tmp_path / name / "__init__.py").touch()
    code = "from agents import mine\nimport envs.mine, benchmark.mine\nassert (mine.NAME, envs.mine.NAME) == ('agents', 'envs')"
    python(tmp_path, f"{code}\n{OURS}\n{code}")
    python(tmp_path, f"{OURS}\n{code}")
