"""Which demonstrations to show, and in which order. One file a method; this table makes them known."""

SELECTORS: dict[str, str] = {
    "random": "kshot.selection.random:Random",
    "all-past": "kshot.selection.all_past:AllPast",
    "bm25": "kshot.selection.bm25:Bm25",
    "dense": "kshot.selection.dense:Dense",
}
