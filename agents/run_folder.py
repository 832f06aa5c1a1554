"""The folder of a run: a new one, or that of a run that goes on with the settings in it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from itertools import count
from pathlib import Path
from typing import Any

from prune_gym.agents.config import RunConfig
from prune_gym.agents.registry import AGENTS
from prune_gym.files import is_temporary, read_json, to_json, write_atomically

CONFIG, JOURNAL = "config.json", "journal.txt"
NESTED = {field.name: field.default_factory for field in fields(RunConfig) if field.default_factory is not MISSING}


def check_free(out: Path | None) -> None:
    """Raise FileExistsError if ``out`` is anything but an empty folder or a new one."""
    folder = None if out is None else out.expanduser()
    if folder is not None and folder.exists() and (not folder.is_dir() or not all(map(is_temporary, folder.iterdir()))):
        raise FileExistsError(f"out: {folder} is not an empty folder, it may hold a run; choose another or delete it.")


def make_folder(config: RunConfig, task: str, agent: str) -> Path:
    """The run folder, new unless the run goes on; two runs that start at once never get the same one by default."""
    if config.out is not None:
        if not config.resume:
            check_free(config.out)
        folder = config.out.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    base = Path("runs") / f"{task}_{agent}_seed{config.seed}_{time.strftime('%Y%m%d-%H%M%S')}"
    for number in count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise AssertionError("count() does not end")


def write_config(folder: Path, config: RunConfig, own: Mapping[str, str], agent: str) -> None:
    """Note the settings, what the run was given without a name, and the agent, unless they are noted already."""
    if not (folder / CONFIG).exists():
        write_json(folder / CONFIG, config.settings() | {"own": dict(own), "made_by": agent})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object of a run for people to read. Raises TypeError or ValueError for what JSON cannot hold."""
    write_atomically(path, to_json(path.name, content, indent=2) + "\n")


def read_config(folder: Path, **changes: Any) -> RunConfig:
    """The settings of the run in a folder, with changes.

    Raises FileNotFoundError, or ValueError for a damaged file and for an agent that is not registered; it names the file and the
    setting.
    """
    path = Path(folder).expanduser() / CONFIG
    stored = read_stored(path)
    agent = changes.get("agent", stored.get("agent"))
    if isinstance(agent, str) and agent not in AGENTS:
        raise ValueError(
            f"{path}: the run's agent is {agent!r}, which is not registered in this process; go on in the program that registers "
            "it, or install the package that has it."
        )
    try:
        settings = {name: stored[name] for name in RunConfig().settings()}
        nested = {name: kind(**settings[name]) for name, kind in NESTED.items()}
        return RunConfig(**settings | nested | changes)
    except KeyError as error:
        raise ValueError(f"{path}: damaged, or of another version; it does not have the setting {error}.") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: damaged, or of another version or machine ({error}).") from error


def read_stored(path: Path) -> dict[str, Any]:
    """The settings in the file of a run as they were written, ``own`` and ``made_by`` among them; some may be missing.

    Raises FileNotFoundError, or ValueError, which names the file, for a damaged one and for one that holds other settings.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; expected the folder of a run, made by train_agent.py.")
    stored = read_json(path, "the settings of a run")
    expected = RunConfig().settings().keys() | {"own", "made_by"}
    if not isinstance(stored.get("own"), dict) or not stored.keys() <= expected:
        more = f", such as {min(stored.keys() - expected)!r}" if stored.keys() - expected else ""
        raise ValueError(f"{path}: damaged, or of another version; expected the settings of a run and nothing else{more}.")
    return stored


def continued(config: RunConfig, own: Mapping[str, str]) -> RunConfig:
    """The settings of the run in ``config.out``, if there is one.

    What was given besides must agree with them: ``config.given``, and ``own``, what describes the run's own task, reward and
    yardstick. Raises ValueError if it does not, FileExistsError if the folder holds something else.
    """
    folder = Path(config.out or "").expanduser()
    if not (folder / CONFIG).exists():
        check_free(folder)
        return config
    stored = replace(read_config(folder), out=folder, resume=True)
    theirs, ours = _flat(stored.settings()), _flat(config.settings())
    descriptions = read_stored(folder / CONFIG)["own"]
    for key, value in ours.items():
        setting = key.partition(".")[0]
        if setting in config.given and _ordered(value) != _ordered(theirs[key]):
            raise ValueError(f"{key}: the run in {folder} has {theirs[key]}, got {value}; leave it out, or start another run.")
    for name, description in own.items():
        if descriptions.get(name) != description:
            raise ValueError(
                f"{name}: the run in {folder} has {descriptions.get(name)}, got {description}; give it what it was made with, or "
                "start another run."
            )
    return stored


def _ordered(value: Any) -> Any:
    """Of names or patterns the first one that fits counts, so their order matters."""
    return list(value.items()) if isinstance(value, dict) else value


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """One entry for every setting, as on the command line."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": item for inner, item in value.items()} if key in NESTED else {key: value}
    return flat
