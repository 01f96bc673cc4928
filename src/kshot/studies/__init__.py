"""Families of made-up tasks with a known best answer, and experiments that train small networks. One file a study."""

from kshot.core.plugins import Room
from kshot.studies.experiment import Experiment
from kshot.studies.task_family import Study

STUDIES = Room(
    "study",
    Study,
    {
        "label-frequencies": "kshot.studies.label_frequencies:LabelFrequencies",
        "boolean": "kshot.studies.boolean:Boolean",
        "prism": "kshot.studies.prism:Prism",
    },
)
"""Families of tasks of which the best answer is known: recipes are held against it."""

EXPERIMENTS = Room(
    "experiment",
    Experiment,
    {
        "distribution": "kshot.studies.class_distribution:ClassDistribution",
        "induction": "kshot.studies.induction:Induction",
        "boolean": "kshot.studies.boolean_networks:BooleanNetworks",
        "prism": "kshot.studies.prism_networks:PrismNetworks",
        "supportive": "kshot.studies.supportive_documents:SupportiveDocuments",
    },
)
"""Networks that are trained from scratch; one that has the name of a family has its functions."""
