"""Whether passages hold the answers that are to be learnt from them."""

from kshot.core.types import Example, Task


def holds_answer(example: Example) -> bool:
    """Return whether an example's context has one of its right answers in it, whatever their case."""
    context = (example.context or "").casefold()
    return any(answer.strip().casefold() in context for answer in example.accepted if answer.strip())


def remark_on_answers(name: str, task: Task) -> str | None:
    """Return what a user should know where answers are texts and no context has its own in it; None elsewhere.

    Answers can rest on a passage and be worded in another way: so it is said, and nothing is refused.

    Args:
        name: Of the method, for the message.
        task: What is learnt.
    """
    asked = [e for e in task.train if e.context]
    if not task.is_open or not asked or any(map(holds_answer, asked)):
        return None
    return (
        f"{name} learns to answer from contexts; none of the {len(asked)} contexts has its answer in it, such as "
        f"'{asked[0].output[:40]}' of example '{asked[0].id}'. Check that each row has its own context"
    )
