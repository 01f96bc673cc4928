"""llama.cpp reads an adapter beside its base: its own server, in this process."""

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np

from kshot.core.errors import ModelError
from kshot.core.json_text import from_json, to_json
from kshot.core.types import FloatArray
from kshot.export.target import NotReadError

_QUIET = -1  # llama.cpp's verbosity
_TIMEOUT_S = 600


class LlamaCppReading:
    """Reads texts with a GGUF model and an adapter.

    Args:
        base: The model.
        lora: The adapter.
        n_context: The most tokens of a prompt with its answer.

    Raises:
        NotReadError: The package xllamacpp is missing, or llama.cpp cannot load the files.
    """

    def __init__(self, base: Path, lora: Path, *, n_context: int):
        try:
            import xllamacpp  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise NotReadError(
                "llama.cpp reads it by the package 'xllamacpp'; install it with: pip install 'kshot[llama-cpp]'"
            ) from None
        native: Any = xllamacpp  # whose names pyright does not see
        params = native.CommonParams()
        params.model.path = str(base)
        params.n_ctx, params.warmup, params.verbosity = n_context, False, _QUIET
        params.n_parallel = 1
        params.cpuparams.poll = 0  # no thread waits at full speed for another: others may be at work here
        params.cpuparams.n_threads = int(os.environ.get("OMP_NUM_THREADS") or -1)  # -1: llama.cpp's own choice
        params.lora_adapters = [native.CommonAdapterLoraInfo(str(lora), 1.0)]
        try:
            self._server = native.Server(params)
        except RuntimeError as error:
            raise NotReadError(
                f"llama.cpp must load {base.name} with {lora.name}; it says: {error} Give the GGUF file of the model "
                "that was adapted."
            ) from None
        self.name = f"llama.cpp (xllamacpp {version('xllamacpp')})"

    def log_probs(self, prompt: str, answers: Sequence[str], *, spells_first_token: bool = False) -> FloatArray:
        """Return the log-probability in nats of each answer after a prompt, `[n_answers]`; as `WholeText`.

        A grammar of token ids makes the server write the answer, and it says how likely it found each token before.
        """
        first = self._ids(prompt, special=not spells_first_token)
        found = []
        for answer in answers:
            ids = self._ids(answer, special=False)
            body = {
                "prompt": first,
                "max_tokens": len(ids),
                "logprobs": 1,
                "temperature": 0,
                "grammar": "root ::= " + " ".join(f"<[{token}]>" for token in ids),
            }
            (choice,) = self._post("/v1/completions", body)["choices"]
            rows = (choice["logprobs"] or {}).get("content", [])
            if [row["id"] for row in rows] != ids:
                raise ModelError(
                    f"llama.cpp must write the tokens {ids} and say how likely they are; it has written "
                    f"{[row['id'] for row in rows]}. Use another version of xllamacpp."
                )
            found.append(sum(row["logprob"] for row in rows))
        return np.array(found)

    def _ids(self, text: str, *, special: bool) -> list[int]:
        return self._post("/tokenize", {"content": text, "add_special": special, "parse_special": True})["tokens"]

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        address = self._server.listening_address
        asked = Request(address + path, to_json(body).encode(), {"Content-Type": "application/json"})
        try:
            with urlopen(asked, timeout=_TIMEOUT_S) as answer:
                return from_json(answer.read())
        except HTTPError as error:
            raise ModelError(f"llama.cpp must answer; it says: {error.read().decode('utf-8', 'replace')}") from None
