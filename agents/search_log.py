"""What every agent logs of its search, whatever library it comes from: the same TensorBoard tags, by evaluations."""

from __future__ import annotations

from stable_baselines3.common.logger import Logger

from prune_gym.envs.pruning import PruningEnv
from prune_gym.scoring.evaluation import Score


def silent_logger() -> Logger:
    """One that writes nothing. Without a logger, Stable-Baselines3 makes a temporary folder for every search."""
    return Logger(None, [])


def log_step(logger: Logger, env: PruningEnv, score: Score, reward: float, evaluations: int) -> None:
    """Log the network that a step led to, and the best one so far, after so many evaluations."""
    logger.record("search/reward", reward)
    logger.record("search/accuracy", score.accuracy)
    logger.record("search/macs_reduction", score.flops_reduction)
    logger.record("search/params_reduction", score.params_reduction)
    logger.record("search/channel_sparsity", score.channel_sparsity)
    if env.best is not None:
        logger.record("search/best_yardstick", env.best.yardstick)
    logger.dump(evaluations)
