"""The experiments of the RL-Pruner paper; ``scripts/reproduce.py`` is their command line."""
