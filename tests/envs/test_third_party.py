"""Code that knows nothing of this project plays its environments: PPO in one file, in the way of CleanRL."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from torch import Tensor, nn
from torch.distributions import Normal

import prune_gym  # noqa: F401  # registers the environments


def make(name: str) -> gymnasium.Env:
    """The usual stack of wrappers for continuous actions."""
    env = gymnasium.make(name)
    env = wrappers.RecordEpisodeStatistics(wrappers.FlattenObservation(env))
    env = wrappers.NormalizeObservation(wrappers.ClipAction(env))
    env = wrappers.TransformObservation(env, lambda x: np.clip(x, -10, 10), env.observation_space)
    env = wrappers.NormalizeReward(env, gamma=0.99)
    return wrappers.TransformReward(env, lambda x: float(np.clip(x, -10, 10)))


class Agent(nn.Module):
    def __init__(self, observations: int, actions: int):
        super().__init__()
        self.critic = nn.Sequential(nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, 1))
        self.mean = nn.Sequential(nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, actions))
        self.log_std = nn.Parameter(torch.zeros(1, actions))

    def forward(self, x: Tensor, action: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        policy = Normal(self.mean(x), self.log_std.exp().expand(len(x), -1))
        action = policy.sample() if action is None else action
        return action, policy.log_prob(action).sum(1), self.critic(x)[:, 0]


@pytest.mark.parametrize("name", ["PruneGym/Tabular-Digits-v0", "PruneGym/Tabular-Layerwise-Digits-ResNet-v0"])
def test_ppo_in_one_file(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        envs = gymnasium.vector.SyncVectorEnv([lambda: make(name) for _ in range(4)])
        agent = Agent(*(int(np.prod(s.shape)) for s in (envs.single_observation_space, envs.single_action_space)))  # type: ignore[arg-type]
        optimizer = torch.optim.Adam(agent.parameters(), 3e-4, eps=1e-5)
        returns: list[float] = []
        observation = torch.as_tensor(envs.reset(seed=0)[0], dtype=torch.float32)
        done = torch.zeros(4)
        for _ in range(2):
            seen, actions, logs, rewards, dones, values = ([] for _ in range(6))
            for _ in range(32):
                with torch.no_grad():
                    action, log, value = agent(observation)
                seen.append(observation)
                dones.append(done)
                following, reward, terminated, truncated, info = envs.step(action.numpy())
                for kept, each in ((actions, action), (logs, log), (values, value), (rewards, torch.as_tensor(reward))):
                    kept.append(each)
                if "episode" in info:
                    returns += info["episode"]["r"][info["_episode"]].tolist()
                observation = torch.as_tensor(following, dtype=torch.float32)
                done = torch.as_tensor(terminated | truncated, dtype=torch.float32)
            with torch.no_grad():
                next_value, advantages, last = agent(observation)[2], torch.zeros(32, 4), torch.zeros(4)
                for t in reversed(range(32)):
                    ahead, goes_on = (next_value, 1 - done) if t == 31 else (values[t + 1], 1 - dones[t + 1])
                    last = rewards[t] + 0.99 * ahead * goes_on - values[t] + 0.99 * 0.95 * goes_on * last
                    advantages[t] = last
            x, a, old, target = (torch.cat(list(each)) for each in (seen, actions, logs, advantages + torch.stack(values)))
            before = [parameter.clone() for parameter in agent.parameters()]
            for rows in torch.randperm(128).split(32):
                _, log, value = agent(x[rows], a[rows])
                ratio, gain = (log - old[rows]).exp(), advantages.flatten()[rows]
                gain = (gain - gain.mean()) / (gain.std() + 1e-8)
                loss = torch.max(-gain * ratio, -gain * ratio.clamp(0.8, 1.2)).mean() + 0.5 * ((value - target[rows]) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
            assert all(not torch.equal(now, then) for now, then in zip(agent.parameters(), before, strict=True))
    assert len(returns) > 4
    assert all(0 < each <= 20 for each in returns)
    envs.close()
