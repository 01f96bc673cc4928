"""Measure a finished system: cases, and a report of what came out. One file an evaluator."""

from kshot.core.plugins import Room
from kshot.evaluators.evaluator import Evaluator

EVALUATORS = Room(
    "evaluator",
    Evaluator,
    {
        "letter-case": "kshot.evaluators.letter_case:LetterCase",
        "confidence": "kshot.evaluators.confidence:Confidence",
        "context-use": "kshot.evaluators.context_use:ContextUse",
        "context-ablation": "kshot.evaluators.context_ablation:ContextAblation",
        "twins": "kshot.evaluators.twins:Twins",
        "edits": "kshot.evaluators.edits:Edits",
        "pairs": "kshot.evaluators.both_intents:Pairs",
        "distribution": "kshot.evaluators.distributions:Distribution",
        "flips": "kshot.evaluators.context_flips:ContextFlips",
        "verbalisers": "kshot.evaluators.verbalisers:Verbalisers",
        "rubrics": "kshot.evaluators.rubrics:Rubrics",
        "instructions": "kshot.evaluators.instructions:Instructions",
        "tutoring": "kshot.evaluators.tutors:Tutors",
    },
)
