"""A stand-in for the model hub's HTTP, for huggingface_hub's own client: it keeps what is pushed in memory.

The shapes are those that the client's source (huggingface_hub 2.4) sends and reads:

- POST /api/repos/create {name, organization, visibility} -> {url}                        hf_api.create_repo
- POST /api/validate-yaml {content, repoType} -> {}                                        hf_api._validate_yaml
- POST /api/models/ID/preupload/REV {files: [{path, sample, size}]}
      -> {files: [{path, uploadMode: regular | lfs, shouldIgnore}]}              _commit_api._fetch_upload_modes
- POST /ID.git/info/lfs/objects/batch {operation, objects: [{oid, size}], hash_algo}
      -> {objects: [{oid, size, actions: {upload: {href}}}]}                               lfs.post_lfs_batch_info
- PUT href, the bytes                                                                      lfs._upload_single_part
- POST /api/models/ID/commit/REV, lines {key: header | file | lfsFile | deletedFile, value}
      -> {commitUrl, commitOid}                                                            _commit_api._send_commit
- GET /api/models/ID/revision/REV -> {id, sha, siblings: [{rfilename}]}                    hf_api.model_info
- GET /api/models/ID/tree/REV?recursive -> [{type: file, path, size, oid}]                 hf_api.list_repo_tree
- HEAD, GET /ID/resolve/SHA/PATH with ETag, X-Repo-Commit, Content-Length                  file_download
- 401 or 404 with X-Error-Code: RepoNotFound                                               utils.hf_raise_for_status
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_a-token-that-may-write"


class Hub:
    """What the stand-in keeps: `files` by repository, which are `private` or `gated`, the `cards` it has checked."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.gated = set[str]()
        self.large: dict[str, bytes] = {}
        self.cards: list[str] = []
        self.url = ""

    def answer(self, method: str, path: str, body: bytes, token: str | None) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        if method != "PUT" and token != TOKEN:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|revision|tree)/(.+)", path):
            return self._of_repository(*found.groups()[:2], body)
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            return self._file(*found.groups())
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.files.setdefault(name, {})
            self.private.setdefault(name, asked.get("visibility") == "private")
            return _json({"url": f"{self.url}/{name}"})
        if path == "/api/validate-yaml":
            self.cards.append(json.loads(body)["content"])
            return _json({})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return _json({"transfer": "basic", "objects": objects})
        if method == "PUT" and path.startswith("/lfs/"):
            self.large[path.removeprefix("/lfs/")] = body
            return 200, {}, b""
        return 404, {}, b"{}"

    def _of_repository(self, name: str, what: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if name not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        files = self.files[name]
        if what == "preupload":
            rows = [
                {"path": f["path"], "uploadMode": _mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return _json({"files": rows})
        if what == "commit":
            self._commit(files, [json.loads(line) for line in body.splitlines()])
            return _json({"commitUrl": f"{self.url}/{name}/commit/{_sha(files)}", "commitOid": _sha(files)})
        if what == "tree":
            rows = [{"type": "file", "path": p, "size": len(b), "oid": _oid(b)} for p, b in files.items()]
            return _json(rows)
        return _json({"id": name, "sha": _sha(files), "siblings": [{"rfilename": p} for p in files]})

    def _commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]

    def _file(self, name: str, path: str) -> tuple[int, dict[str, str], bytes]:
        files = self.files.get(name, {})
        if name in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if path not in files:
            return 404, {"X-Error-Code": "EntryNotFound" if files else "RepoNotFound"}, b"{}"
        return 200, {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": _sha(files)}, files[path]


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".safetensors", ".jsonl")) else "regular"


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _sha(files: dict[str, bytes]) -> str:
    return _oid("".join(f"{path} {_oid(data)}\n" for path, data in sorted(files.items())).encode())


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    """Serve a stand-in on this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            status, headers, data = hub.answer(self.command, unquote(urlsplit(self.path).path), body, token)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)  # seconds to its end
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
