"""Compare agents at the same MACs and evaluations, over several seeds: results as CSV, a Markdown table from them.

Every agent may score as many architectures as one episode of RL-Pruner does and is judged by the best network at the target
that it scored; the table shows its test accuracy, and what its evaluations took in 1e12 MACs. Rows that the CSV holds are not
computed again, so an interrupted comparison goes on where it stopped.
"""

from __future__ import annotations

from prune_gym.benchmark.command import run_command
from prune_gym.benchmark.comparison import ComparisonConfig, compare
from prune_gym.benchmark.table import comparison_table


def main(config: ComparisonConfig) -> None:
    """Compute what is missing and print the table."""
    print(comparison_table(compare(config).rows))


if __name__ == "__main__":
    run_command(main, ComparisonConfig, __doc__, "rows that were finished are kept; the same command goes on")
