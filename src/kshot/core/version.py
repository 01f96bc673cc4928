"""The version of kshot."""

__version__ = "0.1.0"
