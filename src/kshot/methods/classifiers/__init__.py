"""Classifiers without a language model: what a prompt has to beat. One file a method."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Classifier

CLASSIFIERS = Room(
    "classifier",
    Classifier,
    {
        "majority": "kshot.methods.classifiers.majority:Majority",
        "tfidf-lr": "kshot.methods.classifiers.tfidf:TfidfLogistic",
        "embedding-lr": "kshot.methods.classifiers.embedding:EmbeddingLogistic",
        "forecast": "kshot.methods.classifiers.forecast:Forecast",
        "decisions": "kshot.methods.classifiers.decision_service:DecisionService",
    },
    on_request=("decisions", "forecast"),
)
