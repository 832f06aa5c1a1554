"""Measurements of speed and memory; ``scripts/benchmark_speed.py`` is their command line."""
