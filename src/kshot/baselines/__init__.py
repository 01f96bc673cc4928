"""Classifiers without a language model: what a prompt has to beat. One file a method."""

BASELINES: dict[str, str] = {
    "majority": "kshot.baselines.majority:Majority",
    "tfidf-lr": "kshot.baselines.tfidf:TfidfLogistic",
    "embedding-lr": "kshot.baselines.embedding:EmbeddingLogistic",
}
