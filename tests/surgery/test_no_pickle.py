"""Nothing goes through pickle: a file that is made to execute code does not."""

from __future__ import annotations

import ast
import pickle
from pathlib import Path

import export as export_script
import pytest
import torch

import prune_gym
from prune_gym import base_networks, tasks

ROOT = Path(__file__).parents[2]


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.fixture(params=["pickle", "torch.save"])
def bomb(request, tmp_path):
    """A file that makes another one when it is unpickled, and the place of that one."""
    path, mark = tmp_path / "bomb", tmp_path / "exploded"
    if request.param == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save({"weight": Bomb(mark)}, path)
    return path, mark


def test_the_bomb_explodes_where_it_is_unpickled(bomb):
    path, mark = bomb
    if path.read_bytes().startswith(b"PK"):
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert mark.exists()


def test_a_bomb_is_no_pruned_network(bomb):
    path, mark = bomb
    with pytest.raises(prune_gym.PrunedFileError, match=r"damaged, or not a safetensors file"):
        prune_gym.load_pruned(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pruned.safetensors", "summary.json"])
def test_a_bomb_in_a_run_folder(bomb, tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "summary.json").write_text((ROOT / "results" / "main_job" / "summary.json").read_text())
    (folder / name).write_bytes(bomb[0].read_bytes())
    with pytest.raises(ValueError, match=rf"{name}.*damaged"):
        export_script.export_run(export_script.ExportConfig(folder, device="cpu"))
    assert not bomb[1].exists()


def test_a_bomb_among_the_base_networks(bomb, tmp_path, monkeypatch):
    (shipped,) = base_networks.FOLDER.glob("digits-????????????????.safetensors")
    monkeypatch.setattr(base_networks, "FOLDER", tmp_path / "nothing")
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / shipped.name).write_bytes(bomb[0].read_bytes())
    with pytest.raises(ValueError, match=r"damaged.* It is the cached base network of task 'digits'"):
        tasks.load("digits")
    assert not bomb[1].exists()


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.export.load", "torch.jit.load", "torch.hub.load", "np.load", "numpy.load", "th.load", "eval", "exec",
    "onnx.hub.load",
}  # fmt: skip


def unsafe(source: str) -> list[str]:
    """What in a program could execute a file that it loads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
            case ast.ImportFrom(module=str(module), names=names):
                found += [module] if module.split(".")[0] in FORBIDDEN_MODULES else []
                found += [f"{module}.{a.name}" for a in names if f"{module}.{a.name}" in FORBIDDEN_CALLS]
            case ast.Call(func=func, keywords=keywords):
                if any(ast.unparse(keyword) == "allow_pickle=False" for keyword in keywords):
                    continue  # NumPy then refuses whatever could execute
                found += [ast.unparse(func)] if ast.unparse(func) in FORBIDDEN_CALLS else []
    return found


def test_no_source_loads_what_could_execute():
    assert unsafe("import pickle\nfrom torch import load\nx = torch.load(f)\neval('1')\nmodel.eval()") == [
        "pickle", "torch.load", "torch.load", "eval",
    ]  # fmt: skip
    assert unsafe("np.load(f)\nnp.load(f, allow_pickle=True)\nnp.load(f, allow_pickle=False)") == ["np.load", "np.load"]
    files = [path for folder in ("prune_gym", "envs", "agents", "benchmark", "scripts") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 40
    found = {str(path.relative_to(ROOT)): unsafe(path.read_text()) for path in files}
    assert {path: names for path, names in found.items() if names} == {}
