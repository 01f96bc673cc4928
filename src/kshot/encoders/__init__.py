"""Sentence encoders, and their training."""
