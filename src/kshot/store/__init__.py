"""What is on disk: files written whole, scores, arrays."""
