"""The adapted model, and the folder that it is written to and read from."""
