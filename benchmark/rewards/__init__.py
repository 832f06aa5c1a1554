"""The reward laboratory: what a reward makes the best player do, and what it teaches agents that have to learn."""
