"""More examples, made from those that are known. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Generator

GENERATORS = Room(
    "generator",
    Generator,
    {
        "word-edits": "kshot.methods.generators.word_edits:WordEdits",
        "rephrase": "kshot.methods.generators.rephrase:Rephrase",
        "ensemble": "kshot.methods.generators.ensemble:Ensemble",
        "skills": "kshot.methods.generators.skill_questions:SkillQuestions",
        "tailored": "kshot.methods.generators.tailored:Tailored",
        "flips": "kshot.methods.generators.flips:Flips",
        "guideline": "kshot.methods.generators.guideline:Guideline",
        "personalised": "kshot.methods.generators.personalised:Personalised",
        "lessons": "kshot.methods.generators.trajectory_lessons:Lessons",
    },
)
