"""Which demonstrations to show, and in which order. One file a method; this table makes them known."""

SELECTORS: dict[str, str] = {
    "random": "kshot.methods.selectors.random:Random",
    "diverse": "kshot.methods.selectors.diverse:Diverse",
    "best-of-n": "kshot.methods.selectors.best_of_n:BestOfN",
    "all-past": "kshot.methods.selectors.all_past:AllPast",
    "bm25": "kshot.methods.selectors.bm25:Bm25",
    "bm25-major": "kshot.methods.selectors.bm25_major:Bm25Major",
    "dense": "kshot.methods.selectors.dense:Dense",
    "gradient-matching": "kshot.methods.selectors.gradient_matching:GradientMatching",
    "llm-r": "kshot.methods.selectors.llm_r:LlmR",
    "less": "kshot.methods.selectors.less:Less",
}
# These are run when they are named: they ask a language model to choose, which costs many times their predictions, or
# are there to compare other methods with (bm25-major, less).
ON_REQUEST = ("best-of-n", "bm25-major", "gradient-matching", "less", "llm-r")
