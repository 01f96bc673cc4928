"""Benchmarks of speed, each one command: `kshot bench NAME`."""
