"""The base networks that come with the package, two of each task: trained weights, as :func:`prune_gym.tasks.load` makes them.

A training rounds differently on another processor, and its network is then another one. These files let everyone prune the very
networks that the tables (:mod:`prune_gym.tables`) are of. Their names hold a digest of the recipe, so that a task
whose recipe changes does not find them.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
