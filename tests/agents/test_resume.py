"""Runs that were killed and go on: the same bytes as an undisturbed one."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import train_agent
from filelock import FileLock

from prune_gym import models, tasks
from prune_gym.agents import RandomAgent, RLPrunerConfig, RunConfig, run, run_folder
from prune_gym.agents.run_folder import JOURNAL
from prune_gym.benchmark.command import run_command
from prune_gym.data import datasets as data
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.simulation.journal import Journal
from prune_gym.tasks import BaseTask
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import Recipe
from prune_gym.training.weights import save_weights

MODULE = import_module("prune_gym.agents.run")  # the package exports a function of this name
ROOT = Path(__file__).parents[2]
QUICK = {"sparsity": 0.3, "step_ratio": 0.1, "device": "cpu", "fidelity": "original"} | {
    "rl_pruner": RLPrunerConfig(stages=2, samples=3)
}
SAME = ("config.json", "steps.csv", "evaluations.csv", "summary.json", "pruned.safetensors", "channels.png", "progress.png")


class Killed(BaseException):
    pass


def same(a: Path, b: Path) -> None:
    for name in SAME:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert not (b / JOURNAL).exists()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("rl_pruner", marks=pytest.mark.slow),
        "rl_pruner with post-training",
        "ppo",
        pytest.param("random with post-training", marks=pytest.mark.slow),
    ],
)
def config(request):
    agent, _, trains = request.param.partition(" with ")
    posttraining = PostTraining(epochs=1 if trains else 0, period=2, batch_size=100)
    settings = {name: value for name, value in QUICK.items() if agent == "rl_pruner" or name != "rl_pruner"}
    return {**settings, "agent": agent, "evaluations": 31, "posttraining": posttraining}


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The run that nothing disturbed."""
    return run(RunConfig(out=tmp_path_factory.mktemp("whole") / "run", **config))


def test_killed_at_any_value_it_ends_the_same(config, whole, tmp_path, monkeypatch):
    append, left = Journal._append, [0]

    def dying(self, entry):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        append(self, entry)

    kills = 0
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_append", dying)
        for alive in (1, 5, 0, 7):
            left[0] = alive
            with pytest.raises(Killed):
                run(RunConfig(out=tmp_path / "killed", resume=True, **config))
            kills += 1
    result = run(RunConfig(out=tmp_path / "killed", resume=True, **config))
    assert result.summary == whole.summary
    same(whole.folder, result.folder)
    assert kills == 4


def test_nothing_is_computed_again(config, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "write_results", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(RunConfig(out=tmp_path / "killed", resume=True, **config))
    monkeypatch.undo()
    lines = (tmp_path / "killed" / JOURNAL).read_bytes()

    class Reached(BaseException):
        pass

    def finished(*_):
        assert (tmp_path / "killed" / JOURNAL).read_bytes() == lines
        raise Reached

    monkeypatch.setattr(MODULE, "write_results", finished)
    accuracies, evaluated = Evaluator.accuracies, []
    monkeypatch.setattr(Evaluator, "accuracies", lambda self, found: evaluated.extend(found) or accuracies(self, found))
    monkeypatch.setattr("prune_gym.training.distillation.train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr("prune_gym.simulation.scorer.unit_scores", lambda *_: pytest.fail("ranked again"))
    with pytest.raises(Reached):
        run(RunConfig(out=tmp_path / "killed", resume=True, **config))
    assert [a.channel_sparsity for a in evaluated] == [0]  # the original network, before the folder is opened
    monkeypatch.undo()
    same(whole.folder, run(RunConfig(out=tmp_path / "killed", resume=True, **config)).folder)


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run that the user interrupted in the middle."""
    config = RunConfig(out=tmp_path / "run", evaluations=25, seed=3, **QUICK)
    with pytest.raises(KeyboardInterrupt, match=r"go on with --out .*run --resume"):
        run(config, agent=lambda config, env: Stopping(env, seed=config.seed))
    return tmp_path / "run"


class Stopping(RandomAgent):
    stop = True

    def _on_evaluation(self, *arguments):
        if self.stop and self.num_timesteps > 7:
            raise KeyboardInterrupt
        return super()._on_evaluation(*arguments)


def test_the_folder_knows_the_settings(stopped, monkeypatch):
    monkeypatch.setattr(Stopping, "stop", False)
    result = run(RunConfig(out=stopped, resume=True), agent=lambda config, env: Stopping(env, seed=config.seed))
    assert (result.summary["seed"], result.summary["evaluations"]) == (3, 24)
    again = run(RunConfig(out=stopped, resume=True))  # it is complete
    assert again.summary == result.summary


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparsity": 0.6}, "sparsity: the run in .*run has 0.3, got 0.6; leave it out, or start another run"),
        ({"sparsity": 0.5}, "sparsity: the run in .*run has 0.3, got 0.5"),  # the default
        ({"min_width": {"stem": 2}}, "min_width: the run in .*run has 1.0, got {'stem': 2}"),
        ({"seed": 0}, "seed: the run in .*run has 3, got 0"),
        ({"evaluations": None}, "evaluations: the run in .*run has 25, got None"),
        ({"rl_pruner": RLPrunerConfig()}, "rl_pruner.samples: the run in .*run has 3, got 10"),
        ({"sparsity": 0.3, "seed": 3, "step_ratio": 0.05}, "step_ratio: the run in .*run has 0.1, got 0.05"),
    ],
)
def test_settings_that_were_given_must_agree(stopped, given, message):
    """Also those that equal their defaults."""
    before = {path.name: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match=message):
        run(RunConfig(out=stopped, resume=True, **given))
    assert {path.name: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before


def test_settings_that_agree_may_be_given(stopped, monkeypatch):
    monkeypatch.setattr(Stopping, "stop", False)
    config = RunConfig(out=stopped, evaluations=25, seed=3, resume=True, **QUICK)
    assert run(config, agent=lambda config, env: Stopping(env, seed=config.seed)).summary["seed"] == 3


def resumed(*arguments: str) -> None:
    run_command(train_agent.main, RunConfig, None, arguments=arguments, defaults=train_agent.defaults)


@pytest.mark.slow
def test_options_of_the_command_line_must_agree(tmp_path, capsys):
    """Whether they equal a default or not; those that are left out are the folder's."""
    out = str(tmp_path / "run")
    options = ["--agent", "uniform", "--seed", "1", "--sparsity", "0.3", "--device", "cpu", "--reward", "paper"]
    options += ["--posttraining.epochs", "0"]
    resumed(*options, "--reward-weights", "1", "0.5", "0", "--out", out)
    before = (tmp_path / "run" / "summary.json").read_bytes()
    for given in (
        ["--agent", "rl_pruner"],
        ["--seed", "0"],
        ["--sparsity", "0.5"],
        ["--device", "auto"],
        ["--reward", "accuracy"],
    ):
        with pytest.raises(SystemExit) as stopped:
            resumed("--out", out, "--resume", *given)
        message = f"{stopped.value} {capsys.readouterr().err}"
        assert f"{given[0][2:]}" in message
    resumed("--out", out, "--resume", "--seed", "1", "--reward-weights", "1", "0.5", "0")
    (tmp_path / "run" / "summary.json").unlink()
    resumed("--resume", "--out", out)
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    resumed("--resume", "--out", str(tmp_path / "new"), "--agent", "uniform", "--sparsity", "0.2", "--device", "cpu")
    assert (tmp_path / "new" / "summary.json").exists()


class Fraction:
    """A reward with a setting."""

    def __init__(self, share):
        self.share = share

    def __call__(self, before, after, baseline):
        return self.share * after.accuracy + (1 - self.share) * after.flops_reduction


def by_params(after, baseline):
    return after.params_reduction


def test_a_run_of_ones_own_task_reward_and_yardstick(tiny_task, own_tiny_task, tmp_path, monkeypatch):
    """It goes on when the same are passed, and ends as one that was not stopped; other ones, or none, are refused."""
    make = lambda config, env: Stopping(env, seed=config.seed)  # noqa: E731
    settings = {"sparsity": 0.5, "step_ratio": 0.125, "device": "cpu", "evaluations": 40}
    own = {"task": tiny_task, "reward": Fraction(0.25), "yardstick": by_params}
    monkeypatch.setattr(Stopping, "stop", False)
    whole = run(RunConfig(out=tmp_path / "whole", **settings), agent=make, **own)
    assert whole.summary["task"] == "tiny"
    assert whole.summary["yardstick"] == whole.summary["after"]["params_reduction"]
    after = whole.summary["after"]
    assert whole.summary["reward"] == pytest.approx(0.25 * after["val_accuracy"] + 0.75 * after["flops_reduction"])
    monkeypatch.setattr(Stopping, "stop", True)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(RunConfig(out=out, **settings), agent=make, **own)
    stored = json.loads((out / "config.json").read_text())
    assert [stored[name] for name in own] == ["own"] * 3
    assert stored["own"]["reward"].startswith(f"{__name__}.Fraction ")
    assert stored["own"]["yardstick"].startswith(f"{__name__}.by_params ")

    monkeypatch.setattr(Stopping, "stop", False)
    going_on = RunConfig(out=out, resume=True)
    for changes, message in (
        ({"task": None}, "task: the run pruned a Task of its program's own"),
        ({"reward": None}, r"reward: 'own' stands for a function; expected that of run\(config, reward=...\), got none"),
        ({"yardstick": None}, "yardstick: 'own' stands for a function"),
        (
            {"reward": Fraction(0.5)},
            r"reward: the run in .* has .*Fraction \w+, got .*Fraction \w+; give it what it was made with",
        ),
        ({"yardstick": lambda after, baseline: after.params_reduction}, "yardstick: the run in"),
    ):
        with pytest.raises(ValueError, match=message):
            run(going_on, agent=make, **own | changes)
    own_tiny_task.model.stem.weight.data[0] += 1
    with pytest.raises(ValueError, match=r"task: the run in .* has tiny"):
        run(going_on, agent=make, **own | {"task": own_tiny_task})
    with pytest.raises(ValueError, match=r"reward: the run in .* has own, got accuracy"):
        run(RunConfig(out=out, resume=True, reward="accuracy"), agent=make, task=tiny_task, yardstick=by_params)
    same(whole.folder, run(going_on, agent=make, **own).folder)
    assert run(going_on).summary == whole.summary  # it is finished


def test_a_run_by_name_does_not_go_on_with_ones_own(stopped, tiny_task):
    for own in ({"task": tiny_task}, {"reward": Fraction(0.5)}, {"yardstick": by_params}):
        (name,) = own
        with pytest.raises(ValueError, match=f"{name}: the run in .* has (digits|accuracy), got own"):
            run(RunConfig(out=stopped, resume=True), **own)


def test_a_finished_run_loses_none_of_the_users_files(tmp_path):
    result = run(RunConfig(out=tmp_path / "run", agent="uniform", **QUICK))
    (tmp_path / "run" / "weights").mkdir()
    (tmp_path / "run" / "weights" / "mine.txt").write_text("mine")
    (tmp_path / "run" / JOURNAL).write_text("my journal")
    assert run(RunConfig(out=tmp_path / "run", resume=True)).summary == result.summary
    assert (tmp_path / "run" / "weights" / "mine.txt").read_text() == "mine"
    assert (tmp_path / "run" / JOURNAL).read_text() == "my journal"


def test_a_damaged_checkpoint_is_named(stopped):
    content = bytearray((stopped / JOURNAL).read_bytes())
    content[len(content) // 2] ^= 1
    (stopped / JOURNAL).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{JOURNAL}: line \d+ is damaged"):
        run(RunConfig(out=stopped, resume=True), agent=lambda config, env: Stopping(env, seed=config.seed))
    assert (stopped / JOURNAL).read_bytes() == content
    (stopped / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: .*damaged"):
        run(RunConfig(out=stopped, resume=True))


def test_another_base_network_is_refused(stopped, monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNE_GYM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(tasks.TASKS, "digits", BaseTask("digits_resnet", data.digits, Recipe(epochs=1)))
    monkeypatch.setattr(tasks, "_loaded", {})
    before = {path.name: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    with pytest.raises(ValueError, match="written with another base network"):
        run(RunConfig(out=stopped, resume=True), agent=lambda config, env: Stopping(env, seed=config.seed))

    assert {path.name: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before
    assert list((stopped / "tensorboard").iterdir())


def test_other_data_is_refused(tmp_path, monkeypatch):
    def write(seed):
        rng = np.random.default_rng(seed)
        images, labels = rng.integers(0, 256, (40, 8, 8, 1), np.uint8), np.arange(40) % 10
        np.savez(tmp_path / "my.npz", x_train=images, y_train=labels, x_test=images[:20], y_test=labels[:20])

    write(0)
    save_weights(tmp_path / "weights.safetensors", models.create("digits_vgg"), {})
    mine = {"network": "digits_vgg", "data": f"npz:{tmp_path}/my.npz", "weights": tmp_path / "weights.safetensors"}
    config = RunConfig(out=tmp_path / "run", evaluations=25, **QUICK, **mine)
    make = lambda config, env: Stopping(env, seed=config.seed)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run(config, agent=make)
    write(1)
    with pytest.raises(ValueError, match="expected the journal of this run, but it was written with another data"):
        run(RunConfig(out=tmp_path / "run", resume=True), agent=make)
    write(0)
    monkeypatch.setattr(Stopping, "stop", False)
    assert run(RunConfig(out=tmp_path / "run", resume=True), agent=make).summary["evaluations"] == 24


def test_a_full_disk_is_named_and_what_was_done_is_kept(tmp_path, monkeypatch):
    config = {**QUICK, "evaluations": 31}
    whole = run(RunConfig(out=tmp_path / "whole", **config))
    write, left = os.write, [20]

    def full(file, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        message = rf"No space left on device; once fixed, go on with --out {tmp_path}/full --resume: '.*{JOURNAL}'"
        with pytest.raises(OSError, match=message) as raised:
            run(RunConfig(out=tmp_path / "full", **config))
    assert raised.value.errno == errno.ENOSPC
    assert (tmp_path / "full" / JOURNAL).read_bytes().count(b"\n") == 20
    same(whole.folder, run(RunConfig(out=tmp_path / "full", resume=True)).folder)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["damaged", "deleted"])
def test_trained_weights_that_are_lost(loss, tmp_path, monkeypatch):
    """A damaged file is named; what is not there is trained again, with the same result."""
    config = {**QUICK, "evaluations": 31, "posttraining": PostTraining(epochs=1, period=1, batch_size=100)}
    whole = run(RunConfig(out=tmp_path / "whole", **config))
    monkeypatch.setattr(MODULE, "write_results", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(RunConfig(out=tmp_path / "run", **config))
    monkeypatch.undo()
    files = list((tmp_path / "run" / ".journal_tensors").iterdir())
    assert files
    if loss == "damaged":
        for file in files:
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
        with pytest.raises(ValueError, match=r"_tensors/.*safetensors: damaged .*; delete it, and the network is trained again"):
            run(RunConfig(out=tmp_path / "run", resume=True))
    shutil.rmtree(tmp_path / "run" / ".journal_tensors")
    same(whole.folder, run(RunConfig(out=tmp_path / "run", resume=True)).folder)


def test_another_agent_is_refused(stopped):
    with pytest.raises(ValueError, match="written with another agent"):
        run(RunConfig(out=stopped, resume=True))


def test_a_run_that_goes_on_elsewhere_is_left_alone(stopped):
    lock = FileLock(stopped / f"{JOURNAL}.lock")
    with lock, pytest.raises(ValueError, match=rf"{JOURNAL}: another process is writing it"):
        run(RunConfig(out=stopped, resume=True), agent=lambda config, env: Stopping(env, seed=config.seed))
    assert (stopped / JOURNAL).exists()


def test_killed_in_its_last_moment(config, tmp_path, monkeypatch):
    def killed(self):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "remove", killed)
        with pytest.raises(Killed):
            run(RunConfig(out=tmp_path / "run", **config))
    assert (tmp_path / "run" / JOURNAL).exists()
    run(RunConfig(out=tmp_path / "run", resume=True, **config))
    assert not {JOURNAL, f"{JOURNAL}.lock", ".journal_tensors"} & {path.name for path in (tmp_path / "run").iterdir()}


def test_nested_settings_are_named_one_by_one(stopped):
    with pytest.raises(ValueError, match=r"rl_pruner.stages: the run in .*run has 2, got 5"):
        run(RunConfig(out=stopped, resume=True, rl_pruner=RLPrunerConfig(stages=5, samples=3)))


def test_resume_needs_a_folder_and_no_strangers(tmp_path):
    with pytest.raises(ValueError, match="resume: expected --out with the folder of the run"):
        RunConfig(resume=True)
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        run(RunConfig(out=tmp_path, resume=True))


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["rl_pruner", "ppo"])
def test_sigkill_at_ten_random_moments(agent, tmp_path):
    tasks.load("digits")
    command = [sys.executable, str(ROOT / "scripts" / "train_agent.py"), "--agent", agent, "--device", "cpu"]
    command += ["--sparsity", "0.3", "--step-ratio", "0.02", "--evaluations", "300"]
    if agent == "rl_pruner":
        command += ["--rl-pruner.stages", "2", "--posttraining.epochs", "1", "--posttraining.period", "3"]
    else:
        command += ["--posttraining.epochs", "0"]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    journal = tmp_path / "killed" / JOURNAL
    rng = random.Random(0)
    for lines in [0, *sorted(rng.sample(range(2, 300), 9))]:  # the first one while it starts
        process = subprocess.Popen([*command, "--out", str(tmp_path / "killed"), "--resume"], stderr=subprocess.DEVNULL)
        while lines and not (journal.exists() and journal.read_bytes().count(b"\n") >= lines):
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, "--out", str(tmp_path / "killed"), "--resume"], check=True, capture_output=True)
    same(tmp_path / "whole", tmp_path / "killed")
    assert json.loads((tmp_path / "killed" / "summary.json").read_text())["evaluations"] > 250


def test_before_the_settings_are_written_the_same_command_begins_again(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(run_folder, "write_atomically", full)
    with pytest.raises(OSError, match="once fixed, repeat the same command"):
        run(RunConfig(out=tmp_path / "run", evaluations=10, **QUICK))
