"""``import prune_gym``: what it names, what it costs, and the environments that it registers."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import FunctionType, ModuleType

import gymnasium
import pytest

import prune_gym
from prune_gym import tasks
from prune_gym.registration import ENVIRONMENTS, LIVE, register

FUNCTIONS = [
    "allocate",
    "compact",
    "compensate",
    "importance",
    "load_pruned",
    "load_task",
    "mask",
    "save_pruned",
    "trace",
    "verify",
]
MODULES = ["agents", "benchmark", "envs", "models", "tasks"]
CLASSES = [
    *(
        "Architecture",
        "ChannelGraph",
        "ChannelGroup",
        "Cost",
        "FormError",
        "PostTraining",
        "PrunedFileError",
        "PrunedNetwork",
        "Score",
        "Split",
    ),
    *("Task", "UnknownOperatorError", "VerificationError"),
]


@pytest.mark.parametrize(("names", "kind"), [(FUNCTIONS, FunctionType), (MODULES, ModuleType), (CLASSES, type)])
def test_every_public_name(names: list[str], kind: type) -> None:
    for name in names:
        found = getattr(prune_gym, name)
        assert isinstance(found, kind), name
        assert found.__name__ == {"load_task": "load"}.get(name, f"prune_gym.{name}" if kind is ModuleType else name)


def test_the_names_are_told() -> None:
    assert prune_gym.__all__ == sorted(FUNCTIONS + MODULES + CLASSES)
    assert set(prune_gym.__all__) <= set(dir(prune_gym))
    assert prune_gym.__version__ == version("prune_gym")


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(AttributeError, match="module 'prune_gym' has no attribute 'trase'"):
        _ = prune_gym.trase  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'trase'"):
        from prune_gym import trase  # type: ignore[attr-defined]  # noqa: F401


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING name the objects that are imported at run time."""
    tree = ast.parse(inspect.getsource(prune_gym))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        for alias in statement.names:
            joint = "." if statement.module == "prune_gym" else ":"
            seen[alias.asname or alias.name] = f"{statement.module}{joint}{alias.name}"
    assert seen == prune_gym._SOURCES
    assert list(prune_gym._SOURCES) == prune_gym.__all__


def run(code: str, *options: str, folder: Path | None = None) -> str:
    """What a program prints in a new process."""
    done = subprocess.run([sys.executable, *options, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("order", ["gymnasium, prune_gym", "prune_gym, gymnasium", "prune_gym.registration, gymnasium"])
def test_importing_registers_the_environments_and_loads_no_pytorch(order: str) -> None:
    code = f"""
import sys, {order}
assert {set(ENVIRONMENTS)} <= set(gymnasium.registry)
print(sorted(name for name in sys.modules if name.split(".")[0] in ("prune_gym", "torch", "stable_baselines3", "scipy")))
"""
    assert run(code, "-W", "error") == "['prune_gym', 'prune_gym.registration', 'prune_gym.version']"


@pytest.mark.slow
def test_a_process_that_imports_gymnasium_alone_finds_the_environments_by_their_long_id() -> None:
    code = """
import gymnasium, sys
assert "prune_gym" not in sys.modules
print(gymnasium.make("prune_gym:PruneGym/Digits-v0").spec.id)
"""
    tasks.load("digits")  # its network is trained once, in this process
    assert run(code) == "PruneGym/Digits-v0"


@pytest.mark.slow
def test_what_takes_long_to_import_waits_until_it_is_needed() -> None:
    code = """
import sys
import prune_gym.agents, prune_gym.envs
from prune_gym import tasks
tasks.load("digits")
print([name for name in ("torchvision", "torch._dynamo", "cma", "optuna", "sb3_contrib") if name in sys.modules])
"""
    assert run(code) == "[]"


def test_registering_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, task in LIVE.items():
        spec = gymnasium.spec(name)
        assert (spec.entry_point, spec.kwargs) == ("prune_gym.envs.pruning:PruningEnv", {"task": task})
    before = dict(gymnasium.registry)
    register()
    assert {name: id(spec) for name, spec in gymnasium.registry.items()} == {name: id(spec) for name, spec in before.items()}
    monkeypatch.delitem(gymnasium.registry, "PruneGym/Digits-v0")
    register()
    assert gymnasium.spec("PruneGym/Digits-v0").kwargs == {"task": "digits"}


@pytest.mark.slow
def test_a_spec_makes_its_environment_in_a_process_that_knows_no_id() -> None:
    """What Gymnasium sends to the workers of a vector environment."""
    spec = gymnasium.spec("PruneGym/Digits-v0").to_json()
    code = f"""
import gymnasium, sys
from gymnasium.envs.registration import EnvSpec, load_env_creator
assert "PruneGym/Digits-v0" not in gymnasium.registry
print(load_env_creator(EnvSpec.from_json({spec!r}).entry_point).__name__)
"""
    assert run(code) == "PruningEnv"
