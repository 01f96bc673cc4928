"""What is handed to other software."""
