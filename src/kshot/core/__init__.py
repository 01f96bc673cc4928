"""The words everything else is written in: types, errors, seeds. No torch here."""
