"""Ten to a thousand labelled examples and one language model: where should the examples go?"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kshot.adaptation import Run, adapt
    from kshot.adapted import AdaptedModel
    from kshot.core.steering import Steering, averaged
    from kshot.core.types import Example, GenerateRequest, Prompt, ScoreRequest, Segment, Task
    from kshot.engine.load import load_model
    from kshot.estimator import FewShotClassifier
    from kshot.loading import load
    from kshot.selecting import select
    from kshot.steered import steer

_WHERE = {
    "adapt": "kshot.adaptation",
    "select": "kshot.selecting",
    "Steering": "kshot.core.steering",
    "averaged": "kshot.core.steering",
    "steer": "kshot.steered",
    "Run": "kshot.adaptation",
    "AdaptedModel": "kshot.adapted",
    "load": "kshot.loading",
    "Example": "kshot.core.types",
    "FewShotClassifier": "kshot.estimator",
    "GenerateRequest": "kshot.core.types",
    "Prompt": "kshot.core.types",
    "ScoreRequest": "kshot.core.types",
    "Segment": "kshot.core.types",
    "Task": "kshot.core.types",
    "load_model": "kshot.engine.load",
}

__all__ = [
    "AdaptedModel",
    "Example",
    "FewShotClassifier",
    "GenerateRequest",
    "Prompt",
    "Run",
    "ScoreRequest",
    "Segment",
    "Steering",
    "Task",
    "adapt",
    "averaged",
    "load",
    "load_model",
    "select",
    "steer",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'kshot' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
