"""One file a method, one line in its room's table."""
