"""Measure a finished system: cases, and a report of what came out. One file an evaluator."""
