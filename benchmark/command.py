"""What every command does with its command line: a dataclass says what it takes, and mistakes become one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

Config = TypeVar("Config")


def run_command(
    main: Callable[[Config], object],
    config: type[Config],
    description: str | None,
    interrupted: str = "nothing was written",
    arguments: Sequence[str] | None = None,
    defaults: Callable[[Sequence[str]], Config | None] = lambda arguments: None,
) -> None:
    """Call ``main`` with the ``config`` that the arguments give, by default those of the command line. ``defaults`` may give the
    settings that hold where the arguments say nothing.

    Mistakes, missing files and full disks end the process with one line instead of a traceback; so does Ctrl-C, with what it
    was raised with, else with ``interrupted``.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        held = defaults(given)
        default = tyro.MISSING_NONPROP if held is None else held
        main(tyro.cli(config, description=description, args=given, default=default))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        sys.exit(f"interrupted; {str(stop) or interrupted}")
