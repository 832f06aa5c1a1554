"""What a pruned network is worth: the importance of units, the accuracy of architectures, latency and memory."""
