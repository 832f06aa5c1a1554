"""One run: an agent on a task, and the folder that holds everything about it."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure
from tqdm import tqdm

from prune_gym.agents.config import RunConfig
from prune_gym.agents.own import Own
from prune_gym.agents.progress import SearchProgress, announcement
from prune_gym.agents.recorder import ComputeBudget, EvaluationBudget, SearchRecorder
from prune_gym.agents.registry import AgentMaker, make_agent
from prune_gym.agents.results import SUMMARY, read_summary, write_results
from prune_gym.agents.run_folder import CONFIG, JOURNAL, check_free, continued, make_folder, write_config, write_json
from prune_gym.agents.search_agent import steps_to_the_target
from prune_gym.agents.search_log import silent_logger
from prune_gym.agents.work import check_pays
from prune_gym.envs.pruning import PruningEnv
from prune_gym.simulation.journal import Journal, remove_journal
from prune_gym.simulation.result_cache import ResultCache
from prune_gym.simulation.rewards import Reward
from prune_gym.simulation.yardsticks import Yardstick
from prune_gym.surgery.pruned_file import check_savable
from prune_gym.tasks import Task
from prune_gym.training.train import deterministic


@dataclass(frozen=True)
class RunResult:
    """What a run found; ``summary`` is the content of summary.json."""

    folder: Path
    summary: dict[str, Any]


def prepare(
    config: RunConfig,
    progress: bool = False,
    agent: AgentMaker = make_agent,
    cache: ResultCache | None = None,
    own: Own | None = None,
) -> tuple[PruningEnv, BaseAlgorithm, int]:
    """The environment, the agent on it, and how many networks it may score.

    Raises ValueError if that is less than an episode, TypeError if ``agent`` makes no agent.
    """
    own = own or Own()
    task = config.load_task(progress) if own.task is None else own.task
    env = config.environment(task, cache, own.reward, own.yardstick)
    budget = config.budget(env)
    steps = env.steps_left
    algorithm = agent(config, env)
    if not isinstance(algorithm, BaseAlgorithm):
        raise TypeError(f"agent: expected it to make a SearchAgent or an algorithm of SB3, got {type(algorithm).__name__}.")
    check_pays(budget, steps_to_the_target(algorithm, steps))
    algorithm.set_logger(silent_logger())  # a run has one of its own
    return env, algorithm, budget


def search(
    env: PruningEnv, algorithm: BaseAlgorithm, evaluations: int, progress: bool = False, compute: float | None = None
) -> SearchRecorder:
    """The loop that all agents go through: learn for exactly so many evaluations, or until these took ``compute`` MACs. What it
    found is in the environment's ``best``."""
    recorder = SearchRecorder(env)
    budgets: list[BaseCallback] = [EvaluationBudget(evaluations)]
    if compute is not None:
        budgets.append(ComputeBudget(env, compute))
    with tqdm(total=evaluations, desc="search", unit="network", disable=not progress) as bar:
        timesteps = evaluations * getattr(algorithm, "steps_per_evaluation", 1)
        algorithm.learn(timesteps, CallbackList([recorder, SearchProgress(env, bar), *budgets]))
    return recorder


@deterministic()
def run(
    config: RunConfig,
    progress: bool = False,
    agent: AgentMaker = make_agent,
    *,
    task: Task | None = None,
    reward: Reward | None = None,
    yardstick: Yardstick | None = None,
) -> RunResult:
    """Let an agent prune, and write config, steps, pictures, the pruned network and at last ``summary.json``.

    The pruned network is the best one at the target that the agent scored, by the yardstick.

    Everything that takes long is noted in the folder's journal as soon as it is known, so a run that was interrupted or
    killed at any moment goes on with ``resume=True`` and ends with the same bytes; see
    :mod:`prune_gym.simulation.journal`. It goes on with the settings in its folder; those that ``config`` was given must
    agree with them.

    Args:
        config: the settings.
        progress: whether to say what will happen, and to show a progress bar with the best network so far.
        agent: a function of the settings and the environment that makes an agent of your own: an algorithm of
            Stable-Baselines3, or a :class:`prune_gym.agents.SearchAgent`.
        task: a task of your own, in place of one by name.
        reward: a function (before, after, baseline) of scores to float, or a formula, in place of one by name.
        yardstick: a function (after, baseline) of scores to float, in place of one by name.

    The folder notes what describes ``task``, ``reward`` and ``yardstick``; to go on, pass the same again.

    Raises FileExistsError if the folder already holds a run, TypeError or ValueError for a bad argument or a
    network that cannot be saved; then nothing is written.
    A run that fails later leaves its folder, and goes on as one that was killed; OSError, for a full disk, says how.
    """
    if not isinstance(config, RunConfig):
        raise TypeError(f"config: expected a RunConfig, got {type(config).__name__}.")
    if not callable(agent):
        raise TypeError(
            f"agent: expected a function (config, env) that makes an agent, got {agent!r}; an agent by name is a setting, "
            "RunConfig(agent=...)."
        )
    own = Own(task, reward, yardstick)
    descriptions = own.describe()
    config = config.with_own(descriptions)
    clock = {"start": time.perf_counter()}
    if config.resume:
        config = continued(config, descriptions)
        summary_file = Path(config.out or "").expanduser() / SUMMARY
        if summary_file.exists():
            remove_journal(summary_file.with_name(JOURNAL))  # in case it was killed in its last moment
            return RunResult(summary_file.parent, read_summary(summary_file.parent))
    else:
        check_free(config.out)
    folder: Path | None = None
    journal = Journal()
    try:
        env, algorithm, evaluations = prepare(config, progress, agent, journal, own)
        check_savable(env.task.model, env.graph)  # rather than when all is done
        clock["task"] = time.perf_counter()
        name = config.agent if agent is make_agent else type(algorithm).__name__
        folder = make_folder(config, env.task.name, name)
        write_config(folder, config, descriptions, name)
        journal.open(folder / JOURNAL, {"settings": config.settings(), "agent": name} | env.simulator.identity)
        events = folder / "tensorboard"
        if events.exists():  # of a run that was killed; all is logged again
            shutil.rmtree(events)
        logger = configure(str(events), ["tensorboard"])
        algorithm.set_logger(logger)
        if progress:
            env.reset()
            print(announcement(config, name, algorithm, env, evaluations, folder), flush=True)
            clock["announcement"] = time.perf_counter()
        recorder = search(env, algorithm, evaluations, progress, config.compute)
        logger.close()
        clock["search"] = time.perf_counter()
        summary = write_results(folder, config, name, env, recorder)
        algorithm.save(folder / "agent.zip")
        clock["write"] = time.perf_counter()
        timings = {later: round(clock[later] - clock[earlier], 3) for earlier, later in pairwise(clock)}
        write_json(folder / "timings.json", {"seconds": timings})
        write_json(folder / SUMMARY, summary)  # it marks the run as complete
        journal.remove()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written" if folder is None else _how_to_go_on(folder)) from None
    except OSError as error:  # a full disk, say: what the folder holds is whole
        if folder is None or error.errno is None:
            raise
        raise OSError(error.errno, f"{error.strerror}; once fixed, {_how_to_go_on(folder)}", error.filename) from error
    finally:
        journal.close()
    return RunResult(folder, summary)


def _how_to_go_on(folder: Path) -> str:
    return f"go on with --out {folder} --resume" if (folder / CONFIG).exists() else "repeat the same command"
