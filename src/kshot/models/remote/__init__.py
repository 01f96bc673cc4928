"""Language models behind an API: how they are reached, and how a label set's probabilities are read from them."""
