"""Which reward teaches an agent to prune well? Agents x rewards x seeds on tables, into a store, and a report of it.

The same command goes on where it stopped; with other --rewards it plays those alone, and adds them to the report.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from playing import PlayingConfig, plan_of, play_all, show

from prune_gym.agents.pictures import png
from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.report.drawing import to_png
from prune_gym.benchmark.report.standings import fields_of
from prune_gym.benchmark.results import add_results
from prune_gym.benchmark.rewards.habits import add_habits, habits_picture
from prune_gym.benchmark.rewards.study import StudyConfig, agents_of, learning_curves, lessons, markdown, picture
from prune_gym.benchmark.store import Store
from prune_gym.files import write_atomically


@dataclass(frozen=True)
class RewardStudyConfig(PlayingConfig, StudyConfig):
    """What is played, and where the report goes."""

    out: Path = Path("results/rewards")
    """Folder of the results, the table and the pictures; results that it holds are kept."""


def main(config: RewardStudyConfig) -> None:
    """Play what is missing, and report."""
    if config.dry_run:
        show(config)
        return
    failed = play_all(config)
    report(config)
    if failed:
        sys.exit(failed)


def report(config: RewardStudyConfig) -> None:
    """Add the store's plays to the results, and write the table and the pictures."""
    folder = config.out.expanduser()
    habits = add_habits(folder, Store(config.store))
    for field in fields_of(add_results(folder, Store(config.store))):
        found = lessons(field, agents_of(field))
        agents = [agent for agent in agents_of(field) if any(agent in lesson.standings for lesson in found)]
        text = markdown(found, agents)
        print(text)
        write_atomically(folder / f"{field.world}_{field.budget}.md", text)
        write_atomically(folder / f"{field.world}_{field.budget}.png", png(picture(found, agents)))
        for agent in agents:
            write_atomically(folder / f"{field.world}_{field.budget}_{agent}.png", to_png(learning_curves(field, found, agent)))
            picture_of_habits = habits_picture(habits, agent, field.problems, field.budget)
            write_atomically(folder / f"{field.world}_{field.budget}_{agent}_habits.png", png(picture_of_habits))


if __name__ == "__main__":
    run_command(main, RewardStudyConfig, __doc__, "the same command goes on", defaults=plan_of(RewardStudyConfig))
