"""Retrievers that learn from the language model which examples help: candidates, scores, reward, distillation."""
