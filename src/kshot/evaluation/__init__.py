"""How good a recipe is: metrics with their intervals, and the test-then-train loop that races recipes."""
