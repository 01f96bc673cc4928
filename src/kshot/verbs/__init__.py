"""One file a verb of the user."""
