"""What ``scripts/benchmark_speed.py`` measures with."""
