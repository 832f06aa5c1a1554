"""What a benchmark's results say: standings, curves, and a page to look at."""
