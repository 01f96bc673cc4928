"""One answer of the answers of several recipes. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Combiner

COMBINERS = Room(
    "combiner",
    Combiner,
    {
        "average": "kshot.methods.combiners.average:Average",
        "mix": "kshot.methods.combiners.mix:Mix",
        "cascade": "kshot.methods.combiners.cascade:Cascade",
        "new-labels": "kshot.methods.combiners.new_labels:NewLabels",
        "taught": "kshot.methods.combiners.taught:Taught",
        "adapt-mi": "kshot.methods.combiners.adapt_mi:AdaptMi",
    },
    on_request=("adapt-mi", "taught"),
)
