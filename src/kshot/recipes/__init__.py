"""Recipes: parts in slots, read from names with settings."""
