"""From an architecture to a network: cut it down, zero it, write it to a file, export it."""
