"""Work on a task in rounds: notes, demonstrations. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Loop

_HERE = "kshot.methods.loops"
LOOPS = Room(
    "loop",
    Loop,
    {
        "hints": f"{_HERE}.hints:Hints",
        "mental-models": f"{_HERE}.mental_models:MentalModels",
        "notes": f"{_HERE}.notes:Notes",
        "refine": f"{_HERE}.refine:Refine",
        "rewrite": f"{_HERE}.rewrite:Rewrite",
        "skills-from-context": f"{_HERE}.skills_from_context:SkillsFromContext",
        "teaching": f"{_HERE}.teaching:Teaching",
        "tutoring": f"{_HERE}.tutoring:Tutoring",
    },
)
