"""Layouts: how what is said is written for a model, and made to fit."""
