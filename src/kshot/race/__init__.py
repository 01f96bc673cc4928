"""Recipes over one stream: measured, dropped, ranked, and written down."""
