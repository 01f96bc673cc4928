"""Checks for methods of one's own: `kshot.testing.check_part`."""

from kshot.testing.check_part import check_part

__all__ = ["check_part"]
