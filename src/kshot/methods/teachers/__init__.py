"""Who teaches what a tuner's lessons are about. One file a method; this table makes them known."""

TEACHERS: dict[str, str] = {
    "demonstrations": "kshot.methods.teachers.context_distillation:Demonstrations",
}
