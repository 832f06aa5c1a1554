"""Agents of one's own by name: registered in a program, or brought along by an installed package."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import train_agent

from prune_gym.agents import RandomAgent, RunConfig, UniformAgent, register_agent, run
from prune_gym.agents.plugins import Agents
from prune_gym.agents.registry import AGENTS, make_agent
from prune_gym.agents.run_folder import read_config
from prune_gym.agents.sb3 import PPOConfig
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.comparison import ComparisonConfig, evaluate
from prune_gym.benchmark.table import comparison_table
from prune_gym.tasks import Task

QUICK: dict[str, Any] = {"sparsity": 0.5, "step_ratio": 0.25, "device": "cpu"}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Names are the process's, so a test takes its own back."""
    before = dict(AGENTS._makers)
    yield
    AGENTS._makers.clear()
    AGENTS._makers.update(before)


def make_random(config: RunConfig, env: gymnasium.Env) -> RandomAgent:
    return RandomAgent(env, seed=config.seed)


# ------------------------------------------------------------------------------------------------ registered in a program


def test_a_registered_agent_is_one_like_the_others(tiny_task: Task, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"agent: expected one of .*; got 'mine'"):
        RunConfig(agent="mine")
    known = list(AGENTS)
    assert register_agent("mine")(make_random) is make_random
    assert list(AGENTS) == [*known, "mine"]
    assert len(AGENTS) == len(known) + 1
    assert "mine" in AGENTS
    result = run(RunConfig(agent="mine", evaluations=6, out=tmp_path / "run", **QUICK), task=tiny_task)
    same = run(RunConfig(agent="random", evaluations=6, out=tmp_path / "same", **QUICK), task=tiny_task)
    assert result.summary == same.summary | {"agent": "mine"}
    assert json.loads((result.folder / "config.json").read_text())["agent"] == "mine"
    with pytest.raises(ValueError, match="ppo: these settings have no effect on 'mine'"):
        run(RunConfig(agent="mine", ppo=PPOConfig(gamma=0.5), **QUICK), task=tiny_task)


def test_a_comparison_takes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"agents: expected one of .*; got 'mine'"):
        ComparisonConfig(agents=("mine",))
    register_agent("mine")(lambda config, env: UniformAgent(env))
    config = ComparisonConfig(tasks=("digits",), macs_reductions=(0.2,), agents=("mine",), seeds=1, evaluations=10)
    (settings,) = config.runs()
    row = {name: str(value) for name, value in evaluate(settings).items()}
    assert (row["agent"], row["evaluations"]) == ("mine", "4")
    with_another = [row, row | {"agent": "of_another_program"}, row | {"agent": "uniform"}]
    assert comparison_table(with_another).splitlines()[0].endswith("| evaluations | uniform | mine | of_another_program |")


def test_another_process_says_that_it_does_not_know_it(tiny_task: Task) -> None:
    """As one that a comparison started, if the name was given under ``if __name__ == "__main__"``."""
    register_agent("mine")(make_random)
    sent = pickle.dumps(RunConfig(agent="mine", **QUICK))
    del AGENTS._makers["mine"]
    config = pickle.loads(sent)
    with pytest.raises(ValueError, match="agent: 'mine' is not registered in this process; call register_agent in a module"):
        make_agent(config, config.environment(tiny_task))


def test_a_run_goes_on_where_its_agent_is_registered(
    tiny_task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(RandomAgent):
        stops = True

        def _on_evaluation(self, *arguments: Any) -> bool:
            if self.stops and self.num_timesteps > 3:
                raise KeyboardInterrupt
            return super()._on_evaluation(*arguments)

    register_agent("mine")(lambda config, env: Interrupted(env, seed=config.seed))
    settings: dict[str, Any] = {"agent": "mine", "evaluations": 8, **QUICK}
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(RunConfig(out=folder, **settings), task=tiny_task)
    Interrupted.stops = False
    whole = run(RunConfig(out=tmp_path / "whole", **settings), task=tiny_task)
    maker = AGENTS._makers.pop("mine")
    before = {path: path.read_bytes() for path in folder.glob("*") if path.is_file()}
    unknown = (
        r"config.json: the run's agent is 'mine', which is not registered in this process; go on in the program that "
        "registers it, or install the package that has it"
    )
    with pytest.raises(ValueError, match=unknown):
        run(RunConfig(out=folder, resume=True), task=tiny_task)
    with pytest.raises(SystemExit, match=rf"error: .*{unknown}"):
        run_command(
            train_agent.main, RunConfig, None, arguments=["--out", str(folder), "--resume"], defaults=train_agent.defaults
        )
    assert {path: path.read_bytes() for path in folder.glob("*") if path.is_file()} == before
    assert read_config(folder, agent="rl_pruner").evaluations == 8  # as an export does, to which the agent does not matter
    register_agent("mine")(maker)
    assert run(RunConfig(out=folder, resume=True), task=tiny_task).summary == whole.summary


class Maker:
    def __call__(self, config: RunConfig, env: gymnasium.Env) -> RandomAgent:
        return RandomAgent(env)


@pytest.mark.parametrize("maker", [make_random, lambda config, env: RandomAgent(env), partial(make_random), Maker(), RandomAgent])
def test_whatever_can_be_called_is_taken(maker: Any) -> None:
    register_agent("mine")(maker)
    assert AGENTS["mine"] is maker


@pytest.mark.parametrize(
    ("name", "maker", "error", "message"),
    [
        ("ppo", make_random, ValueError, "name: 'ppo' is the name of another agent, made by prune_gym.agents.registry"),
        ("taken", make_random, ValueError, r"name: 'taken' is the name of another agent, made by .*<lambda>; choose another one"),
        ("my-agent", make_random, ValueError, "name: expected letters, digits and _, and no digit .*, got 'my-agent'"),
        ("2nd", make_random, ValueError, "name: expected letters, digits and _, .*, got '2nd'"),
        ("", make_random, ValueError, "name: expected letters, digits and _, .*, got ''"),
        ("../x", make_random, ValueError, "name: expected letters"),
        (make_random, make_random, TypeError, r'name: expected a name, got <function .*>; write @register_agent\("NAME"\)'),
        (None, make_random, TypeError, "name: expected a name, got None"),
        ("mine", 3, TypeError, r"mine: expected a function \(config, env\) that makes an agent, got 3"),
        ("mine", "ppo", TypeError, "mine: expected a function .*, got 'ppo'"),
    ],
)
def test_what_is_refused(name: Any, maker: Any, error: type[Exception], message: str) -> None:
    register_agent("taken")(lambda config, env: RandomAgent(env))
    known = dict(AGENTS._makers)
    with pytest.raises(error, match=message):
        register_agent(name)(maker)
    assert AGENTS._makers == known


def test_a_function_that_is_defined_anew_takes_the_place_of_the_first() -> None:
    """As in a cell of a notebook that is run twice; two that happen to have no name of their own are not the same."""

    def cell(namespace: dict[str, Any]) -> Callable[..., Any]:
        exec("def make(config, env): ...", namespace)
        return namespace["make"]

    first, second, other = (cell({"__name__": name}) for name in ("notebook", "notebook", "other"))
    agents = Agents({})
    agents.add("mine", first)
    agents.add("mine", second)
    assert agents["mine"] is second
    with pytest.raises(ValueError, match=r"'mine' is the name of another agent, made by notebook\.make"):
        agents.add("mine", other)
    for maker in (lambda config, env: RandomAgent(env), lambda config, env: UniformAgent(env)):
        with pytest.raises(ValueError, match="'mine' is the name of another agent"):
            agents.add("mine", maker)


# ------------------------------------------------------------------------------------------------ of an installed package

MODULE = """
from prune_gym.agents import RandomAgent, register_agent
LOADED = True

@register_agent("packaged")
def make(config, env):
    return RandomAgent(env, seed=config.seed)

NUMBER = 5
"""


def install(folder: Path, package: str, points: str, module: str = MODULE) -> None:
    """A package as pip leaves it."""
    (folder / f"{package}.py").write_text(module)
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[prune_gym.agents]\n{points}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    return tmp_path / "site"


def test_an_agent_of_an_installed_package_is_loaded_when_it_is_made(site: Path, tiny_task: Task, tmp_path: Path) -> None:
    """Its module may register it, too."""
    known = list(AGENTS)
    install(site, "pruning_extras", "packaged = pruning_extras:make\n")
    config = RunConfig(agent="packaged", evaluations=4, out=tmp_path / "run", **QUICK)
    assert list(AGENTS) == [*known, "packaged"]
    assert "pruning_extras" not in sys.modules
    assert run(config, task=tiny_task).summary["agent"] == "packaged"
    assert sys.modules.pop("pruning_extras").LOADED
    assert list(AGENTS) == [*known, "packaged"]


def test_a_name_of_an_installed_package_is_taken(site: Path) -> None:
    install(site, "pruning_extras", "packaged = pruning_extras:make\nppo = pruning_extras:make")
    with pytest.raises(ValueError, match="name: 'packaged' is the name of another agent, the entry point pruning_extras:make"):
        register_agent("packaged")(make_random)
    assert AGENTS["ppo"].__module__ == "prune_gym.agents.registry"  # the project's own agents come first


@pytest.mark.parametrize(
    ("point", "error", "message"),
    [
        ("mine = broken:make", ImportError, r"'broken:make' of broken, which cannot be loaded \(ZeroDivisionError: .*\); repair"),
        (
            "mine = missing:make",
            ImportError,
            r"'missing:make' of broken, which cannot be loaded \(ModuleNotFoundError: .*missing",
        ),
        ("mine = json:makes", ImportError, r"'json:makes' of broken, which cannot be loaded \(AttributeError: "),
        ("mine = sys:maxsize", TypeError, r"'sys:maxsize' of broken; expected a function \(config, env\) .*, got \d+"),
        (
            "my-agent = json:loads",
            ImportError,
            r".* cannot be loaded \(ValueError: name: expected letters, .* got 'my-agent'\); repair",
        ),
    ],
)
def test_a_package_that_does_not_work_is_named(
    point: str, error: type[Exception], message: str, site: Path, tiny_task: Task, tmp_path: Path
) -> None:
    """When its agent is wanted; the others work as before, and nothing is written."""
    install(site, "broken", point, "1 / 0")
    name = point.partition(" ")[0]
    config = RunConfig(agent=name, out=tmp_path / "run", **QUICK)
    with pytest.raises(error, match=f"^agent: '{name}' is the entry point {message}"):
        run(config, task=tiny_task)
    assert not (tmp_path / "run").exists()
    assert "random" in list(AGENTS)


def test_two_packages_with_one_name_are_named(site: Path, tiny_task: Task) -> None:
    for package in ("one", "two"):
        install(site, package, f"mine = {package}:make")
    with pytest.raises(
        ValueError, match=r"agent: 'mine' is the entry point '(one|two):make' of .* and .*; uninstall all but one"
    ):
        run(RunConfig(agent="mine", **QUICK), task=tiny_task)


def test_the_command_line_takes_it(site: Path) -> None:
    install(site, "pruning_extras", "packaged = pruning_extras:make")
    taken: list[RunConfig] = []
    run_command(taken.append, RunConfig, None, arguments=["--agent", "packaged"])
    assert taken[0].agent == "packaged"


@pytest.mark.slow
def test_a_process_of_its_own_finds_it(site: Path) -> None:
    """Without an import; nor is sb3-contrib imported, which it does not need."""
    install(site, "pruning_extras", "packaged = pruning_extras:make")
    program = """
import sys
from prune_gym.agents import RunConfig
from prune_gym.agents.registry import make_agent
from prune_gym.envs import TabularEnv

config = RunConfig(agent="packaged")
assert "pruning_extras" not in sys.modules
print(type(make_agent(config, TabularEnv("digits"))).__name__)
assert "pruning_extras" in sys.modules and "sb3_contrib" not in sys.modules
"""
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "RandomAgent\n", done.stderr


@pytest.mark.slow
def test_processes_of_a_comparison_find_it(site: Path, tmp_path: Path) -> None:
    """Those of packages, and those that the main program registers."""
    install(site, "pruning_extras", "packaged = pruning_extras:make")
    program = tmp_path / "program.py"
    program.write_text("""
from pathlib import Path
from prune_gym.agents import RandomAgent, register_agent
from prune_gym.benchmark.comparison import ComparisonConfig, compare

@register_agent("mine")
def make(config, env):
    return RandomAgent(env, seed=config.seed)

if __name__ == "__main__":
    agents = ("packaged", "mine", "random")
    config = ComparisonConfig(("digits",), (0.2,), agents=agents, seeds=1, evaluations=8, out=Path("out.csv"))
    rows = {row["agent"]: row["test_accuracy"] for row in compare(config).rows}
    assert set(rows) == set(agents) and len(set(rows.values())) == 1, rows
""")
    environment = os.environ | {"PYTHONPATH": str(site)}
    subprocess.run([sys.executable, str(program)], cwd=tmp_path, env=environment, check=True)


def test_the_help_names_every_agent(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run_command(train_agent.main, RunConfig, None, arguments=["--help"])
    text = capsys.readouterr().out.replace("│", " ").split()
    for name in AGENTS:
        assert name in text or f"{name}," in text
