"""Reports: pure functions of a saved record."""
