"""PuRL: masks, rewards and states against a restatement on the model itself; and its agent learns."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.monitor import Monitor
from torch import nn

from prune_gym.agents.purl import make_purl
from prune_gym.data.splits import Split
from prune_gym.envs import PruningEnv, PuRLEnv, purl
from prune_gym.envs.purl import ALPHAS
from prune_gym.graph.program import Program
from prune_gym.scoring.recalibration import Recalibration
from prune_gym.surgery.slicing import named_tensors
from prune_gym.tasks import Task
from prune_gym.training.train import accuracy


@pytest.fixture(scope="module")
def env(tiny_task: Task) -> PuRLEnv:
    return PuRLEnv(tiny_task, target_sparsity=0.5, device="cpu")


def test_layers_are_the_weights_in_the_order_of_the_forward_pass(env: PuRLEnv) -> None:
    names = ("stem", "inner", "outer", "expand", "depthwise", "grouped", "hidden", "classifier")
    assert env.layers == tuple(f"{name}.weight" for name in names)
    assert len(ALPHAS) == env.action_space.n == 23  # type: ignore[attr-defined]
    assert (ALPHAS[0], ALPHAS[7], ALPHAS[-1]) == (0.0, 0.7, 2.2)


@pytest.mark.parametrize("actions", [[0] * 8, [5] * 8, [22] * 8, [3, 0, 17, 9, 1, 12, 6, 2]])
def test_an_episode_by_hand(tiny_task: Task, env: PuRLEnv, actions: list[int]) -> None:
    """Thresholds on the model's own weights; batch norms take statistics by the rule of the fidelity "recalibrated"."""
    model, zeros = copy.deepcopy(tiny_task.model), 0
    total = sum(model.get_parameter(name).numel() for name in env.layers)
    calibration = Recalibration(tiny_task.graph, named_tensors(tiny_task.model, tiny_task.graph), _images(tiny_task))
    baseline = accuracy(tiny_task.model, tiny_task.val)
    observation, info = env.reset()
    np.testing.assert_allclose(observation, [0, baseline, 0], rtol=1e-6)
    for step, (name, action) in enumerate(zip(env.layers, actions, strict=True)):
        with torch.no_grad():
            weight = model.get_parameter(name)
            gone = weight.abs() < 0.1 * action * weight.std()
            weight[gone] = 0
        zeros += int(gone.sum())
        if zeros:
            tensors = {key: tensor.detach() for key, tensor in named_tensors(model, tiny_task.graph).items()}
            model.load_state_dict(calibration.recalibrated(tensors, tiny_task.graph.full()))
        expected, sparsity = accuracy(model, tiny_task.val), zeros / total
        observation, reward, terminated, truncated, info = env.step(action)
        np.testing.assert_allclose(observation, [(step + 1) / 8, expected, sparsity], rtol=1e-6)
        assert reward == pytest.approx(-5 * (max(1 - expected / baseline, 0) + max(1 - sparsity / 0.5, 0)))
        assert (terminated, truncated) == (step == 7, False)
        assert info == {"accuracy": expected, "sparsity": sparsity, "evaluations": step + 1}


def _images(task: Task) -> torch.Tensor:
    return task.train.sample(120).inputs()


def test_the_best_network_is_the_most_accurate_one_at_the_target(tiny_task: Task) -> None:
    env = PuRLEnv(tiny_task, target_sparsity=0.3, device="cpu")
    ends = []
    for action in (2, 4, 6, 8, 10):
        env.reset()
        for _ in env.layers:
            _, _, _, _, info = env.step(action)
        ends.append((info["accuracy"] if info["sparsity"] >= 0.3 else -1.0, info["sparsity"], ALPHAS[action]))
    found = max(ends, key=lambda end: end[0])
    assert env.best is not None
    assert (env.best.accuracy, env.best.sparsity, env.best.alphas[0]) == found
    assert accuracy(env.network(env.best.alphas), tiny_task.val) == env.best.accuracy
    assert env.evaluations == 40


def test_thresholds_that_come_again_are_not_computed_again(env: PuRLEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    def episode() -> list[Any]:
        env.reset()
        return [env.step(7) for _ in env.layers]

    first = episode()
    monkeypatch.setattr(env, "_masked", lambda alphas: pytest.fail("computed again"))
    for one, other in zip(first, episode(), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:] == other[1:]


def test_zeros_are_counted_once_for_a_threshold(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count is what a GPU waits for."""
    env = PuRLEnv(tiny_task, target_sparsity=0.5, device="cpu")
    counted: list[tuple[str, float]] = []
    is_zeroed = env._is_zeroed

    def note(name: str, alpha: float) -> torch.Tensor:
        counted.append((name, alpha))
        return is_zeroed(name, alpha)

    monkeypatch.setattr(env, "_is_zeroed", note)
    monkeypatch.setattr(env, "_accuracy", lambda alphas: 0.5)  # which zeroes weights
    for _ in range(2):
        env.reset()
        for _ in env.layers:
            env.step(7)
    assert counted == [(name, 0.7) for name in env.layers]


def test_what_all_networks_share_is_made_once(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    for owner, name in ((Split, "to"), (Program, "at"), (purl, "written_tensors")):
        whole = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, name=name, whole=whole: (made.append(name), whole(*args))[1])
    env = PuRLEnv(tiny_task, target_sparsity=0.5, device="cpu")
    env.reset()
    env.step(7)
    del made[:]  # what evaluation and recalibration need
    for action in range(7):
        env.step(action)
    assert not set(made) & {"to", "written_tensors"}
    assert made.count("at") == 7  # of recalibration


class Tokens(nn.Module):
    """(N, 1, 12, 12) -> (N, 5): a standardised convolution, a table of positions and an embedding that are added, a layer with
    scales of two dimensions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 6, 4, stride=4)
        self.position = nn.Parameter(torch.randn(9, 6))
        self.embedding = nn.Embedding(9, 6)
        self.scale = nn.Parameter(torch.ones(1, 6))
        self.mixer = nn.Parameter(torch.randn(6, 6))
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.patches.weight - self.patches.weight.mean((1, 2, 3), keepdim=True)
        x = nn.functional.conv2d(x, weight, self.patches.bias, stride=4).flatten(2).mT
        x = x + self.position + self.embedding(torch.arange(9, device=x.device))
        return self.head((x @ self.mixer * self.scale).relu().mean(1))


def test_layers_multiply(tiny_task: Task) -> None:
    task = Task("tokens", Tokens(), tiny_task.train, tiny_task.val, tiny_task.test)
    assert PuRLEnv(task, device="cpu").layers == ("patches.weight", "mixer", "head.weight")


def test_bad_arguments(tiny_task: Task, env: PuRLEnv) -> None:
    for settings, error, message in (
        ({"task": 3}, TypeError, "task: expected a name or"),
        ({"target_sparsity": 1.0}, ValueError, r"target_sparsity: expected a number in \(0, 1\)"),
        ({"target_accuracy": 0.0}, ValueError, r"target_accuracy: expected a number in \(0, 1\]"),
        ({"device": "tpu"}, ValueError, "device: "),
    ):
        with pytest.raises(error, match=message):
            PuRLEnv(**({"task": tiny_task} | settings))  # type: ignore[arg-type]
    env.reset()
    env.step(np.array(3))  # as agents give them
    for action in (-1, 23, 0.5, np.array(0.5)):
        with pytest.raises((TypeError, ValueError), match="action: expected an integer"):
            env.step(action)  # type: ignore[arg-type]


def test_its_agent_wants_its_game(tiny_task: Task) -> None:
    with pytest.raises(TypeError, match="env: expected a PuRLEnv, got PruningEnv"):
        make_purl(PruningEnv(tiny_task, sparsity=0.4, device="cpu"))


@pytest.mark.slow
def test_its_agent_learns() -> None:
    """The last ten of 55 episodes are worth more than the first ten, which are random, and one meets 60% with little loss."""
    env = PuRLEnv("digits", target_sparsity=0.6, device="cpu")
    agent = make_purl(Monitor(env), seed=0)
    returns: list[float] = []

    def note(local: dict[str, Any], _: dict[str, Any]) -> bool:
        if local["dones"][0]:
            returns.append(local["infos"][0]["episode"]["r"])
        return True

    agent.learn(55 * len(env.layers), note)
    assert np.mean(returns[-10:]) > np.mean(returns[:10]) + 3
    assert env.best is not None
    assert env.best.accuracy > 0.95
