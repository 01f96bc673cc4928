"""Which demonstrations to show. One file a method; this table makes them known."""

from kshot.core.plugins import Room
from kshot.methods.contracts import Selector

# On request: they ask a language model to choose, which costs many times their predictions, are there to compare
# other methods with (bm25-major, dpp, less, mmd, optimal-transport), or need fields that few tasks have (skills).
SELECTORS = Room(
    "selector",
    Selector,
    {
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
        "dpp": "kshot.methods.selectors.dpp:Dpp",
        "ease": "kshot.methods.selectors.ease:Ease",
        "evolution": "kshot.methods.selectors.evolution:Evolution",
        "lars": "kshot.methods.selectors.lars:Lars",
        "max-entropy": "kshot.methods.selectors.max_entropy:MaxEntropy",
        "missing-skills": "kshot.methods.selectors.missing_skills:MissingSkills",
        "mmd": "kshot.methods.selectors.mmd:Mmd",
        "optimal-transport": "kshot.methods.selectors.optimal_transport:OptimalTransport",
        "skills": "kshot.methods.selectors.skills:Skills",
        "value": "kshot.methods.selectors.value:Value",
    },
    on_request=(
        "best-of-n",
        "bm25-major",
        "dpp",
        "ease",
        "evolution",
        "gradient-matching",
        "lars",
        "less",
        "llm-r",
        "max-entropy",
        "missing-skills",
        "mmd",
        "optimal-transport",
        "skills",
        "value",
    ),
)
