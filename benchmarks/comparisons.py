"""What the benchmark `compose` compares: each method with its natural control, on tasks that have what it needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """A recipe with a method, and the one without it that it is to be measured against.

    Attributes:
        method: As it is called on the page.
        question: What the difference says.
    """

    method: str
    recipe: str
    control: str
    tasks: tuple[str, ...]
    question: str


EXPLAINED = ("math/multiarith", "math/singleeq", "math/addsub")
CLASSES = ("classification/trec", "classification/sst2", "classification/tweet_emotion")
WORKED = ("bbh/boolean_expressions", "bbh/navigate", "bbh/object_counting")
PASSAGES = ("qa/xquad_en", "grounding/fakepedia_base", "grounding/counterfact_hard")
EDITED = ("grounding/fever_edit", "grounding/counterfact_hard", "grounding/fakepedia_base")
SITUATIONS = ("qa/copa", "qa/social_iqa", "qa/piqa")
NAMED = ("intent/banking77", "intent/snips", "intent/atis_intent")
_KEPT = "random:k=8,composer=notes(from_contexts=true"

COMPARISONS = (
    Comparison(
        "skills",
        "skills:k=4",
        "random:k=4,fresh=true",
        EXPLAINED,
        "Do demonstrations of the skills that a question needs help more than others drawn for it?",
    ),
    Comparison("adapt-mi", "adapt-mi", "random:k=4", EXPLAINED, "Do skill shots help where the answer is doubtful?"),
    Comparison(
        "missing-skills",
        "missing-skills:k=4",
        "random:k=4",
        EXPLAINED,
        "Do demonstrations of the skills that the model lacks help more than any?",
    ),
    Comparison("lars", "lars:k=4", "dense:k=4", EXPLAINED, "Does a latent skill find better ones than likeness?"),
    Comparison("ease", "ease:k=4", "best-of-n:n=40,k=4", CLASSES, "Does a bandit search better than chance?"),
    Comparison(
        "evolution", "evolution:k=4", "best-of-n:n=40,k=4", CLASSES, "Does evolution search better than chance?"
    ),
    Comparison("dpp", "dpp:k=4", "dense:k=4", CLASSES, "Does diversity help beside likeness?"),
    Comparison(
        "mmd", "mmd:k=4", "random:k=4", CLASSES, "Does a set that stands for the past help more than a drawn one?"
    ),
    Comparison(
        "optimal-transport",
        "optimal-transport:k=4",
        "random:k=4",
        CLASSES,
        "Does a set that is near to the past help more than a drawn one?",
    ),
    Comparison(
        "value",
        "value:k=4",
        "random:k=4",
        CLASSES,
        "Do examples that help most alone make a better set than drawn ones?",
    ),
    Comparison("max-entropy", "max-entropy:k=4", "random:k=4", CLASSES, "Do examples that the model doubts help most?"),
    Comparison(
        "recycled",
        "zero-shot:composer=recycled",
        "zero-shot",
        PASSAGES,
        "Do questions made from the passage itself help to answer the one that is asked?",
    ),
    Comparison(
        "schema",
        "zero-shot:composer=schema(extractor=rules)",
        "dense:k=1",
        EXPLAINED,
        "Does an example of the same kind of problem, and its schema, help more than the most alike one?",
    ),
    Comparison(
        "notes, two steps",
        f"{_KEPT})",
        f"{_KEPT},steps=1)",
        EDITED,
        "Does it help to ask first whether a note is about the question?",
    ),
    Comparison(
        "notes",
        f"{_KEPT})",
        "random:k=8",
        EDITED,
        "How near do notes that are looked up come to being told which one belongs to the question?",
    ),
    Comparison(
        "elaborated",
        "random:k=4,composer=elaborated",
        "random:k=4",
        SITUATIONS,
        "Does it help to let the model say more of the situation first?",
    ),
    Comparison(
        "reason-first",
        "random:k=4,composer=reason-first(max_tokens=96)",
        "random:k=4",
        (*WORKED, "math/multiarith"),
        "Does a reason before the answer help?",
    ),
    Comparison(
        "label-first",
        "random:k=4,composer=label-first",
        "random:k=4",
        (*WORKED, "math/multiarith"),
        "Do reasons after the answers of demonstrations help?",
    ),
    Comparison(
        "verbalised, natural",
        "random:k=8,composer=verbalised(words=natural)",
        "random:k=8",
        NAMED,
        "Do labels help that are written as words?",
    ),
    Comparison(
        "verbalised, letters",
        "random:k=8,composer=verbalised(words=letters)",
        "random:k=8",
        CLASSES,
        "What is lost where labels mean nothing?",
    ),
    Comparison(
        "instruction",
        "zero-shot:composer=instruction",
        "zero-shot",
        CLASSES,
        "Does an instruction that the past prefers help?",
    ),
    Comparison(
        "instruction, joint",
        "random:k=8,composer=instruction(joint=8)",
        "random:k=8",
        CLASSES,
        "Does it help beside demonstrations?",
    ),
)
