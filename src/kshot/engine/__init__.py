"""The only place that runs the network: packed, prefix-sharing scoring."""
