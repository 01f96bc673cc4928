"""Whether the model hub can be asked at all: without this look, an unknown name costs a minute of retries."""

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit


def only_local(source: str | Path) -> bool:
    """Return whether a model must come from this machine: it is a folder, or the hub's name cannot be resolved."""
    if Path(source).is_dir():
        return True
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return True
    return False
