"""Ten to a thousand labelled examples and one language model: where should the examples go?"""

from typing import TYPE_CHECKING, Any

from kshot.core.version import __version__

if TYPE_CHECKING:
    from kshot.adapted.folder import load
    from kshot.adapted.model import AdaptedModel
    from kshot.core.lessons import Lesson
    from kshot.core.script import Piece, Script
    from kshot.core.steering import Steering, averaged
    from kshot.core.types import Example, GenerateRequest, Prompt, Question, ScoreRequest, Segment, Task
    from kshot.engine.load_model import load_model
    from kshot.estimator import FewShotClassifier
    from kshot.evaluators.evaluator import Case, Evaluator
    from kshot.methods.contracts import (
        Artefact,
        Classifier,
        Combiner,
        Composer,
        Generator,
        Loop,
        Made,
        Selector,
        Steerer,
        Teacher,
        Tuner,
    )
    from kshot.methods.gates.gate import Gate
    from kshot.methods.judges.judge import Judge
    from kshot.studies.experiment import Cell, Claim, Curve, Experiment, Findings, Plot
    from kshot.studies.task_family import Study
    from kshot.verbs.adapt import Run, adapt
    from kshot.verbs.distil import distil
    from kshot.verbs.generate import Generated, generate
    from kshot.verbs.select import select
    from kshot.verbs.steer import steer
    from kshot.verbs.train_networks import ExperimentResult, experiment
    from kshot.verbs.unlearn import Unlearnt, unlearn

_WHERE = {
    "Artefact": "kshot.methods.contracts",
    "Case": "kshot.evaluators.evaluator",
    "Evaluator": "kshot.evaluators.evaluator",
    "Study": "kshot.studies.task_family",
    "Cell": "kshot.studies.experiment",
    "Claim": "kshot.studies.experiment",
    "Curve": "kshot.studies.experiment",
    "Experiment": "kshot.studies.experiment",
    "Findings": "kshot.studies.experiment",
    "Plot": "kshot.studies.experiment",
    "Lesson": "kshot.core.lessons",
    "Piece": "kshot.core.script",
    "Question": "kshot.core.types",
    "Script": "kshot.core.script",
    "Classifier": "kshot.methods.contracts",
    "Combiner": "kshot.methods.contracts",
    "Composer": "kshot.methods.contracts",
    "Gate": "kshot.methods.gates.gate",
    "Generator": "kshot.methods.contracts",
    "Judge": "kshot.methods.judges.judge",
    "Loop": "kshot.methods.contracts",
    "Made": "kshot.methods.contracts",
    "Selector": "kshot.methods.contracts",
    "Steerer": "kshot.methods.contracts",
    "Teacher": "kshot.methods.contracts",
    "Tuner": "kshot.methods.contracts",
    "adapt": "kshot.verbs.adapt",
    "distil": "kshot.verbs.distil",
    "Generated": "kshot.verbs.generate",
    "generate": "kshot.verbs.generate",
    "select": "kshot.verbs.select",
    "Steering": "kshot.core.steering",
    "averaged": "kshot.core.steering",
    "steer": "kshot.verbs.steer",
    "Run": "kshot.verbs.adapt",
    "AdaptedModel": "kshot.adapted.model",
    "load": "kshot.adapted.folder",
    "Example": "kshot.core.types",
    "FewShotClassifier": "kshot.estimator",
    "GenerateRequest": "kshot.core.types",
    "Prompt": "kshot.core.types",
    "ScoreRequest": "kshot.core.types",
    "Segment": "kshot.core.types",
    "Task": "kshot.core.types",
    "load_model": "kshot.engine.load_model",
    "ExperimentResult": "kshot.verbs.train_networks",
    "experiment": "kshot.verbs.train_networks",
    "Unlearnt": "kshot.verbs.unlearn",
    "unlearn": "kshot.verbs.unlearn",
}

__all__ = [
    "AdaptedModel",
    "Artefact",
    "Case",
    "Cell",
    "Claim",
    "Classifier",
    "Combiner",
    "Composer",
    "Curve",
    "Evaluator",
    "Example",
    "Experiment",
    "ExperimentResult",
    "FewShotClassifier",
    "Findings",
    "Gate",
    "GenerateRequest",
    "Generated",
    "Generator",
    "Judge",
    "Lesson",
    "Loop",
    "Made",
    "Piece",
    "Plot",
    "Prompt",
    "Question",
    "Run",
    "ScoreRequest",
    "Script",
    "Segment",
    "Selector",
    "Steerer",
    "Steering",
    "Study",
    "Task",
    "Teacher",
    "Tuner",
    "Unlearnt",
    "__version__",
    "adapt",
    "averaged",
    "distil",
    "experiment",
    "generate",
    "load",
    "load_model",
    "select",
    "steer",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kshot' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """Return what a user may name, also what is imported only then."""
    return list(__all__)
