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
from filelock import FileLock

from prune_gym import models, tasks
from prune_gym.agents import RandomAgent, RLPrunerConfig, RunConfig, run
from prune_gym.agents.run import JOURNAL
from prune_gym.data import datasets as data
from prune_gym.scoring.evaluation import Evaluator
from prune_gym.simulation.journal import Journal
from prune_gym.tasks import BaseTask
from prune_gym.training.distillation import PostTraining
from prune_gym.training.train import Recipe
from prune_gym.training.weights import save_weights

MODULE = import_module("prune_gym.agents.run")  # the package exports a function of this name
ROOT = Path(__file__).parents[2]
QUICK = {"sparsity": 0.3, "step_ratio": 0.1, "device": "cpu", "rl_pruner": RLPrunerConfig(stages=2, samples=3)}
SAME = ("config.json", "steps.csv", "summary.json", "pruned.safetensors", "channels.png", "progress.png")


class Killed(BaseException):
    pass


def same(a: Path, b: Path) -> None:
    for name in SAME:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert not (b / JOURNAL).exists()


@pytest.fixture(
    params=[
        pytest.param("rl_pruner", marks=pytest.mark.slow),
        "rl_pruner with post-training",
        "ppo",
        pytest.param("random with post-training", marks=pytest.mark.slow),
    ]
)
def config(request):
    agent, _, trains = request.param.partition(" with ")
    posttraining = PostTraining(epochs=1 if trains else 0, period=2, batch_size=100)
    return {**QUICK, "agent": agent, "evaluations": 31, "posttraining": posttraining}


def test_killed_at_any_value_it_ends_the_same(config, tmp_path, monkeypatch):
    whole = run(RunConfig(out=tmp_path / "whole", **config))
    append, left = Journal._append, [0]

    def dying(self, entry):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        append(self, entry)

    kills = 0
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_append", dying)
        for alive in (1, 2, 5, 9, 0, 12):
            left[0] = alive
            with pytest.raises(Killed):
                run(RunConfig(out=tmp_path / "killed", resume=True, **config))
            kills += 1
    result = run(RunConfig(out=tmp_path / "killed", resume=True, **config))
    assert result.summary == whole.summary
    same(whole.folder, result.folder)
    assert kills == 6


def test_nothing_is_computed_again(config, tmp_path, monkeypatch):
    whole = run(RunConfig(out=tmp_path / "whole", **config))
    monkeypatch.setattr(MODULE, "_write_results", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        run(RunConfig(out=tmp_path / "killed", resume=True, **config))
    monkeypatch.undo()
    lines = (tmp_path / "killed" / JOURNAL).read_bytes()

    class Reached(BaseException):
        pass

    def finished(*_):
        assert (tmp_path / "killed" / JOURNAL).read_bytes() == lines
        raise Reached

    monkeypatch.setattr(MODULE, "_write_results", finished)
    accuracies, evaluated = Evaluator.accuracies, []
    monkeypatch.setattr(Evaluator, "accuracies", lambda self, found: evaluated.extend(found) or accuracies(self, found))
    monkeypatch.setattr("prune_gym.training.distillation.train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr("prune_gym.simulation.simulator.unit_scores", lambda *_: pytest.fail("ranked again"))
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

    def act(self, action):
        if self.stop and self.num_timesteps > 7:
            raise KeyboardInterrupt
        return super().act(action)


def test_the_folder_knows_the_settings(stopped, monkeypatch):
    monkeypatch.setattr(Stopping, "stop", False)
    result = run(RunConfig(out=stopped, resume=True), agent=lambda config, env: Stopping(env, seed=config.seed))
    assert (result.summary["seed"], result.summary["evaluations"]) == (3, 24)
    again = run(RunConfig(out=stopped, resume=True))  # it is complete
    assert again.summary == result.summary


def test_other_settings_are_refused(stopped):
    with pytest.raises(ValueError, match=r"sparsity: the run in .*run has 0.3, got 0.6; leave it out, or start another run"):
        run(RunConfig(out=stopped, resume=True, sparsity=0.6))
    assert (stopped / JOURNAL).exists()


def test_a_damaged_checkpoint_is_named(stopped):
    content = bytearray((stopped / JOURNAL).read_bytes())
    content[len(content) // 2] ^= 1
    (stopped / JOURNAL).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{JOURNAL}: line \d+ is damaged"):
        run(RunConfig(out=stopped, resume=True), agent=lambda config, env: Stopping(env, seed=config.seed))
    assert (stopped / JOURNAL).read_bytes() == content
    (stopped / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: damaged, or of another version"):
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
        message = rf"No space left on device; when that is mended, go on with --out {tmp_path}/full --resume: '.*{JOURNAL}'"
        with pytest.raises(OSError, match=message) as raised:
            run(RunConfig(out=tmp_path / "full", **config))
    assert raised.value.errno == errno.ENOSPC
    assert (tmp_path / "full" / JOURNAL).read_bytes().count(b"\n") == 20
    same(whole.folder, run(RunConfig(out=tmp_path / "full", resume=True)).folder)


@pytest.mark.parametrize("loss", ["damaged", "deleted"])
def test_trained_weights_that_are_lost(loss, tmp_path, monkeypatch):
    """A damaged file is named; what is not there is trained again, with the same result."""
    config = {**QUICK, "evaluations": 31, "posttraining": PostTraining(epochs=1, period=1, batch_size=100)}
    whole = run(RunConfig(out=tmp_path / "whole", **config))
    monkeypatch.setattr(MODULE, "_write_results", lambda *_: (_ for _ in ()).throw(Killed))
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
    command += ["--sparsity", "0.3", "--step-ratio", "0.02", "--rl-pruner.stages", "2", "--evaluations", "300"]
    if agent == "rl_pruner":
        command += ["--posttraining.epochs", "1", "--posttraining.period", "3", "--posttraining.batch-size", "200"]
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


@pytest.mark.slow
def test_two_runs_at_once_share_the_cache(tmp_path):
    """Both find an empty cache, make the base network, and end as a run on its own does."""
    command = [sys.executable, str(ROOT / "scripts" / "train_agent.py"), "--device", "cpu", "--agent", "random"]
    command += ["--evaluations", "20"]
    environment = os.environ | {"PRUNE_GYM_CACHE": str(tmp_path / "cache")}
    runs = [
        subprocess.Popen([*command, "--out", str(tmp_path / name)], env=environment, stdout=subprocess.DEVNULL) for name in "ab"
    ]
    assert [process.wait() for process in runs] == [0, 0]
    subprocess.run([*command, "--out", str(tmp_path / "alone")], check=True, env=environment, capture_output=True)
    for name in "ab":
        same(tmp_path / "alone", tmp_path / name)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def test_before_the_settings_are_written_the_same_command_begins_again(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(MODULE, "write_atomically", full)
    with pytest.raises(OSError, match="when that is mended, repeat the same command"):
        run(RunConfig(out=tmp_path / "run", evaluations=10, **QUICK))
