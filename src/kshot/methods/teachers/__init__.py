"""Whom a model learns to answer like. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Teacher

TEACHERS = Room(
    "teacher",
    Teacher,
    {
        "demonstrations": "kshot.methods.teachers.context_distillation:Demonstrations",
        "focus": "kshot.methods.teachers.gradient_pruning:Focus",
        "prompt": "kshot.methods.teachers.prompt:Prompt",
        "self-training": "kshot.methods.teachers.pseudo_labels:PseudoLabels",
        "preferences": "kshot.methods.teachers.preferences:Preferences",
        "history": "kshot.methods.teachers.history:History",
        "grpo": "kshot.methods.teachers.grpo:Grpo",
        "calibrated": "kshot.methods.teachers.on_policy:Calibrated",
        "unlearn": "kshot.methods.teachers.bidirectional:Unlearn",
        "hard-negatives": "kshot.methods.teachers.hard_negatives:HardNegatives",
        "missing-skills": "kshot.methods.teachers.skill_targeted:SkillTargeted",
    },
)
