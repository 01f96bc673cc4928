"""Ten to a thousand labelled examples and one language model: where should the examples go?"""

from typing import TYPE_CHECKING, Any

from kshot.core.version import __version__

if TYPE_CHECKING:
    from kshot.adapted.folder import load
    from kshot.adapted.model import AdaptedModel
    from kshot.core.steering import Steering, averaged
    from kshot.core.types import Example, GenerateRequest, Prompt, ScoreRequest, Segment, Task
    from kshot.engine.load_model import load_model
    from kshot.estimator import FewShotClassifier
    from kshot.verbs.adapt import Run, adapt
    from kshot.verbs.select import select
    from kshot.verbs.steer import steer

_WHERE = {
    "adapt": "kshot.verbs.adapt",
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
}

__all__ = [
    "__version__",
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
