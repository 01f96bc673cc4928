"""Recipes at work on a stream, predicting each query from its own past."""
