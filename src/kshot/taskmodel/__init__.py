"""The language model on its task."""
