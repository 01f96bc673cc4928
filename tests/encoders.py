"""A BERT of two layers made here, as sentence-transformers loads it."""

import json
import string
from pathlib import Path


def make_tiny_encoder(folder: Path, words: tuple[str, ...] = (), *, dim: int = 32, max_tokens: int = 64) -> str:
    """Write an encoder whose words are `words`, other ones letter by letter, and return its folder."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = string.ascii_lowercase + string.digits + string.punctuation
    vocabulary = [*marks, *letters, *(f"##{c}" for c in letters), *words]
    part = folder / "part"
    part.mkdir(parents=True)
    (part / "vocab.txt").write_text("\n".join(vocabulary))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dim,
        max_position_embeddings=max_tokens,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        BertModel(config).save_pretrained(part)
    BertTokenizerFast(str(part / "vocab.txt"), model_max_length=max_tokens).save_pretrained(part)
    transformer = Transformer(str(part))
    model = SentenceTransformer(modules=[transformer, Pooling(dim), Normalize()], device="cpu")
    model.save_pretrained(str(folder / "encoder"), create_model_card=False)
    assert json.loads((folder / "encoder" / "modules.json").read_text())
    return str(folder / "encoder")
