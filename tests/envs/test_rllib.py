"""RLlib, whose workers make environments from an id in processes of their own."""

from __future__ import annotations

import pytest

ray = pytest.importorskip("ray")
algorithms = pytest.importorskip("ray.rllib.algorithms.ppo")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Tabular-Digits-v0", "Layerwise-Digits-v0"])
def test_ppo_with_remote_workers(name: str) -> None:
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        settings = {"macs_reduction": 0.75, "reward": "accuracy"}
        config = algorithms.PPOConfig().environment(f"prune_gym:PruneGym/{name}", env_config=settings)
        config = config.env_runners(num_env_runners=2, num_envs_per_env_runner=2, rollout_fragment_length=15)
        algorithm = config.training(train_batch_size=60, minibatch_size=30, num_epochs=2).build_algo()
        found = [algorithm.train()["env_runners"] for _ in range(2)]
        algorithm.stop()
    finally:
        ray.shutdown()
    assert all(each["num_env_steps_sampled"] == 60 for each in found)
    assert 0 < found[-1]["episode_return_mean"] < 15
