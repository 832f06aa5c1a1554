"""Imports point in one direction only, along the story of the data: every module imports from its own layer and those below."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (  # from the bottom to the top; packages of one layer do not import each other
    ("arguments", "files", "fingerprint", "version"),
    ("data", "models"),
    ("graph",),
    ("surgery",),
    ("scoring",),
    ("training",),
    ("base_networks",),
    ("tasks",),
    ("simulation",),
    ("tables",),
    ("envs",),
    ("agents",),
    ("testing",),
    ("benchmark",),
    ("scripts",),
)
HEIGHTS = {name: height for height, layer in enumerate(LAYERS) for name in layer}
# the lowest layers that may import these libraries
LIBRARIES = {"gymnasium": "envs", "stable_baselines3": "agents", "sb3_contrib": "agents", "tyro": "agents"}
# The face of the package: it names the public objects of all layers, and registers the environments.
FACE = ("prune_gym/__init__.py", "prune_gym/registration.py")


def sources() -> dict[str, str]:
    """The layer of every module of the project, by its path in the checkout."""
    found = {}
    for folder in ("prune_gym", "envs", "agents", "benchmark", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name not in FACE:
                found[name] = name.removeprefix("prune_gym/").split("/")[0].removesuffix(".py")
    return found


def imported_modules(source: str) -> set[str]:
    """Everything that a program imports, by absolute name, wherever the statement stands: ``from a import b`` imports ``a.b``.

    The names that are given to ``import_module`` count, too; a relative import gives a name that begins with a dot.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names, level=level):
                found |= {"." * level + ".".join(filter(None, (module, alias.name))) for alias in names}
            case ast.Call(
                func=ast.Name(id="import_module") | ast.Attribute(attr="import_module"), args=[ast.Constant(value=name), *_]
            ):
                found.add(str(name))
    return found


def violations(layer: str, source: str) -> list[str]:
    """The imports of a module in this layer that point to a layer above it, or beside it."""
    height, found = HEIGHTS[layer], []
    for name in sorted(imported_modules(source)):
        top, _, rest = name.partition(".")
        below = rest.split(".")[0]
        if top in LIBRARIES:
            allowed = height >= HEIGHTS[LIBRARIES[top]]
        elif top == "prune_gym" and height < HEIGHTS["envs"] and below not in HEIGHTS:
            allowed = False  # the face of the package, which stands above its parts
        elif top == "prune_gym":
            allowed = below not in HEIGHTS or below == layer or HEIGHTS[below] < height
        else:
            allowed = top != ""  # a relative import would hide what it imports
        if not allowed:
            found.append(name)
    return found


def test_every_module_has_a_layer() -> None:
    found = sources()
    assert set(found.values()) == set(HEIGHTS)
    assert len(found) > 70


@pytest.mark.parametrize("path", sources())
def test_imports_point_down(path: str) -> None:
    assert violations(sources()[path], (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("layer", "source", "expected"),
    [
        ("graph", "from prune_gym.data.splits import Split\nimport prune_gym.arguments\nimport torch", []),
        ("graph", "from prune_gym.graph.labels import LabelBook", []),
        ("graph", "from prune_gym.surgery.mask import mask", ["prune_gym.surgery.mask.mask"]),
        ("models", "from prune_gym import data", ["prune_gym.data"]),
        ("data", "import prune_gym.models.vgg", ["prune_gym.models.vgg"]),
        ("files", "from prune_gym.arguments import unknown", ["prune_gym.arguments.unknown"]),
        ("scoring", "def f():\n    from prune_gym import simulation, tasks", ["prune_gym.simulation", "prune_gym.tasks"]),
        ("tasks", "if TYPE_CHECKING:\n    import prune_gym.envs", ["prune_gym.envs"]),
        ("simulation", "import gymnasium.spaces\nimport stable_baselines3", ["gymnasium.spaces", "stable_baselines3"]),
        ("simulation", "from prune_gym import compact\nimport prune_gym", ["prune_gym", "prune_gym.compact"]),
        ("envs", "import gymnasium, prune_gym\nfrom prune_gym import compact, tasks", []),
        ("envs", "import importlib\nimportlib.import_module('prune_gym.agents')", ["prune_gym.agents"]),
        ("agents", "from . import run\nfrom ..benchmark import rows", ["..benchmark.rows", ".run"]),
        ("benchmark", "from prune_gym.agents import run\nimport stable_baselines3", []),
        ("agents", "from prune_gym.benchmark.rows import Rows\nimport tyro", ["prune_gym.benchmark.rows.Rows"]),
        ("scripts", "from prune_gym.benchmark.rows import Rows\nimport tyro\nfrom playing import show", []),
    ],
)
def test_what_counts_as_a_violation(layer: str, source: str, expected: list[str]) -> None:
    assert violations(layer, source) == expected


def test_scripts_are_imported_by_none() -> None:
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} | {"scripts"}
    for path, layer in sources().items():
        if layer != "scripts":
            names = {name.split(".")[0] for name in imported_modules((ROOT / path).read_text())}
            assert not names & scripts, path
