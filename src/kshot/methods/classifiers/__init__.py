"""Classifiers without a language model: what a prompt has to beat. One file a method."""

BASELINES: dict[str, str] = {
    "majority": "kshot.methods.classifiers.majority:Majority",
    "tfidf-lr": "kshot.methods.classifiers.tfidf:TfidfLogistic",
    "embedding-lr": "kshot.methods.classifiers.embedding:EmbeddingLogistic",
}
