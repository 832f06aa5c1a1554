"""How networks are trained: base networks, and pruned ones with the original as their teacher."""
