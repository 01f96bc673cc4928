"""llama.cpp's own server in this process, by the package xllamacpp: a server that others have written."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from kshot.core.errors import missing_extra


@contextmanager
def llama_server(
    gguf: Path, *, slots: int = 1, context: int = 4096, threads: int = 2, settings: dict[str, Any] | None = None
) -> Iterator[str]:
    """Start a server of a GGUF file on a free port of 127.0.0.1, and stop it at the end.

    Args:
        gguf: The model.
        slots: How many requests it runs at once.
        context: Tokens that a prompt with its answer may have in each slot.
        threads: It computes with so many.
        settings: More of llama.cpp's own, by their names in `CommonParams`.

    Yields:
        Its base URL, which ends in "/v1".

    Raises:
        UserError: xllamacpp is not installed.
    """
    try:
        xllamacpp: Any = import_module("xllamacpp")  # its names are made when it is built
    except ImportError as error:
        raise missing_extra("xllamacpp", "llama-cpp", "llama.cpp's server") from error
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_parallel, params.n_ctx = slots, slots * context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.warmup, params.verbosity = False, -1
    for name, value in (settings or {}).items():
        setattr(params, name, value)
    server = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1"
    finally:
        del server  # stops it
