"""Families of made-up tasks with a known best answer. One file a study."""

from kshot.core.plugins import Room
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
