"""What a run leaves on disk: every score once, every prediction, and the record."""
