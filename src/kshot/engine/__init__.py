"""The only place that runs the network: scoring, writing, training, gradients, activations."""
