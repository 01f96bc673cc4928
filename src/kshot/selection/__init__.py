"""Which demonstrations to show, and in which order. One file a method; this table makes them known."""

SELECTORS: dict[str, str] = {
    "random": "kshot.selection.random:Random",
    "diverse": "kshot.selection.diverse:Diverse",
    "best-of-n": "kshot.selection.best_of_n:BestOfN",
    "all-past": "kshot.selection.all_past:AllPast",
    "bm25": "kshot.selection.bm25:Bm25",
    "dense": "kshot.selection.dense:Dense",
}
# These ask a language model to choose, which costs many times their predictions: they are run when they are named.
ON_REQUEST = ("best-of-n",)
