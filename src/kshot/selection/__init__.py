"""Which demonstrations to show, and in which order. One file a method; this table makes them known."""

SELECTORS: dict[str, str] = {
    "random": "kshot.selection.random:Random",
    "diverse": "kshot.selection.diverse:Diverse",
    "best-of-n": "kshot.selection.best_of_n:BestOfN",
    "all-past": "kshot.selection.all_past:AllPast",
    "bm25": "kshot.selection.bm25:Bm25",
    "bm25-major": "kshot.selection.bm25_major:Bm25Major",
    "dense": "kshot.selection.dense:Dense",
    "gradient-matching": "kshot.selection.gradient_matching:GradientMatching",
    "llm-r": "kshot.selection.llm_r:LlmR",
    "less": "kshot.selection.less:Less",
}
# These are run when they are named: they ask a language model to choose, which costs many times their predictions, or
# are there to compare other methods with (bm25-major, less).
ON_REQUEST = ("best-of-n", "bm25-major", "gradient-matching", "less", "llm-r")
