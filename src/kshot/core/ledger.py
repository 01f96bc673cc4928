"""What was spent, and when it is too much."""


class BudgetSpentError(Exception):
    """The budget is spent; raised between packs, when what was scored is stored."""
