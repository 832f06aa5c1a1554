"""From a model to its channel graph: trace, labels, operators, the program that a trace records, and what widths cost."""
