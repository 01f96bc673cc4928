"""Names of kinds of tasks as people write them: in any case, with hyphens, and by other words that are suggested."""

from kshot.core.errors import UserError, did_you_mean
from kshot.core.types import KINDS, Kind

OTHER_NAMES: dict[str, Kind] = {
    **dict.fromkeys(("multi_class", "multiclass", "binary", "sentiment", "intent"), "classification"),
    **dict.fromkeys(("multilabel", "tagging", "label_set"), "multi_label"),
    **dict.fromkeys(("mc", "mcq", "mcqa", "multi_choice", "multichoice"), "multiple_choice"),
    **dict.fromkeys(("qna", "q&a", "q_a", "question_answering", "squad"), "qa"),
    **dict.fromkeys(("text", "text_generation", "summarization", "translation", "chat", "seq2seq"), "generation"),
}


def known_kind(name: object) -> Kind | None:
    """Return the kind that a name is, whatever its case and whether words are joined by hyphens; None for another."""
    return next((kind for kind in KINDS if kind == _bare(name)), None)


def meant_kind(name: object) -> str:
    """Return the kind that a name is another word for, or the name itself: to be looked for among the kinds."""
    return OTHER_NAMES.get(_bare(name), _bare(name))


def kind_of_flag(name: object) -> Kind:
    """Return the kind that --kind names.

    Raises:
        UserError: There is no such kind.
    """
    kind = known_kind(name)
    if kind is None:
        raise UserError(
            f"--kind must be one of the kinds of tasks; got '{name}'.{did_you_mean(meant_kind(name), KINDS)}"
        )
    return kind


def _bare(name: object) -> str:
    return str(name).strip().lower().replace("-", "_").replace(" ", "_")
