"""A stand-in for the W&B server on the loopback: it answers what wandb 0.31 asks for and keeps what it receives.

It serves online runs (resumed ones too), media, tables and other artifacts, ``wandb sync``, and sweeps with their
agents. Every key is let in, nothing is ranked, sampled or deleted. What it does not know is refused and noted.
"""

import gzip
import json
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, get_args
from urllib.parse import quote, unquote, urlsplit

from .wandb_answers import ANSWERS, ENTITY, Received, Run, StreamFile

KEY = "0123456789" * 4  # as long as a real one, and no one's

FOLDERS = {
    "HOME": "home",
    "XDG_CONFIG_HOME": "home/config",
    "XDG_CACHE_HOME": "home/cache",
    "XDG_DATA_HOME": "home/data",
    "NETRC": "home/netrc",
    "MPLCONFIGDIR": "home/matplotlib",
    "WANDB_DIR": "",
    "WANDB_CONFIG_DIR": "home/wandb-config",
    "WANDB_CACHE_DIR": "home/wandb-cache",
    "WANDB_DATA_DIR": "home/wandb-data",
    "WANDB_ARTIFACT_DIR": "home/wandb-artifacts",
}
SETTINGS = {
    "WANDB_MODE": "offline",
    "WANDB_API_KEY": KEY,
    "WANDB_ENTITY": ENTITY,
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    "WANDB_INIT_TIMEOUT": "60",
    "WANDB_X_DISABLE_STATS": "true",
    "WANDB_X_GRAPHQL_RETRY_MAX": "1",
    "WANDB_X_FILE_STREAM_RETRY_MAX": "1",
    "WANDB_X_FILE_TRANSFER_RETRY_MAX": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "OMP_NUM_THREADS": "1",
}


def offline_environment(directory: Path | str) -> dict[str, str]:
    """Return the whole environment of a process whose W&B is offline and writes below `directory` only.

    It is the caller's without the variables of W&B and of proxies: nothing in the user's home is read, errors are
    reported to no one, failed requests are repeated once. ``python`` is the interpreter that runs the tests.
    """
    directory = Path(directory).resolve()
    (directory / "home").mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not re.match(r"(?i)wandb_|.*_proxy$", name)}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"}
    return kept | path | SETTINGS | {name: str(directory / folder) for name, folder in FOLDERS.items()}


class StandInServer(Received):
    """The server as a context manager; it listens at `url` while the context is open.

    Args:
        failing: What to refuse, to see what the client makes of it: names of GraphQL operations, ``"file_stream"`` and
            ``"upload"``.
        request_limit: After how many requests all others are refused, so that a client that repeats itself comes to
            an end.

    Attributes:
        operations: What was asked, in order: names of GraphQL operations, ``"file_stream"`` and ``"upload"``.
        unanswered: What was asked and is not known here, with the reason; empty after a good session.
    """

    def __init__(self, *, failing: frozenset[str] | set[str] = frozenset(), request_limit: int = 2000) -> None:
        super().__init__()
        self.failing = failing
        self.request_limit = request_limit
        self.operations: list[str] = []
        self.unanswered: list[str] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self.address = lambda *parts: f"{self.url}/upload/{'/'.join(quote(part, safe='') for part in parts)}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def environment(self, directory: Path | str) -> dict[str, str]:
        """Return the whole environment of a process that logs to this server and writes below `directory` only."""
        return offline_environment(directory) | {"WANDB_BASE_URL": self.url, "WANDB_MODE": "online"}

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON of the answer to one request."""
        with self._lock:
            parts = [unquote(part) for part in path.strip("/").split("/")]
            try:
                match method, parts:
                    case "POST", ["graphql"]:
                        return self._graphql(json.loads(body))
                    case "POST", ["files", _, project, run, "file_stream"]:
                        return self._enter("file_stream") or self._stream(project, run, json.loads(body))
                    case "PUT", ["upload", owner, name, file]:
                        return self._enter("upload") or self._keep(owner, name, file, body)
            # a field is missing or is not what it is taken for
            except (AttributeError, LookupError, TypeError, ValueError) as error:
                return self._refuse(f"{method} {path}: {error!r}")
            return self._refuse(f"{method} {path}")

    def _enter(self, operation: str) -> tuple[int, dict[str, Any]] | None:
        self.operations.append(operation)
        over = len(self.operations) > self.request_limit
        return (400, {"errors": [{"message": f"{operation} fails"}]}) if over or operation in self.failing else None

    def _refuse(self, asked: str) -> tuple[int, dict[str, Any]]:
        self.unanswered.append(asked)
        return 400, {"errors": [{"message": f"not answered here: {asked}"}]}

    def _graphql(self, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        operation = asked.get("operationName") or (found[1] if found else "")
        refused = self._enter(operation)
        if refused is None and operation not in ANSWERS:
            return self._refuse(operation)
        return refused or (200, {"data": ANSWERS[operation](self, asked.get("variables") or {})})

    def _stream(self, project: str, name: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run = self.runs.setdefault(name, Run(name, project))
        files = message.get("files") or {}
        for file in get_args(StreamFile):
            part = files.get(file, {"offset": 0, "content": []})
            run.lines[file].update(enumerate(part["content"], start=part["offset"]))  # lines sent twice are kept once
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if message.get("complete"):
            run.exit_code = message.get("exitcode")
        return 200, {"exitcode": None, "limits": {}}

    def _keep(self, owner: str, name: str, path: str, content: bytes) -> tuple[int, dict[str, Any]]:
        if owner == "manifest":
            self.artifacts[name].manifest = json.loads(content)
        else:
            (self.runs if owner == "run" else self.artifacts)[name].files[path] = content
        return 200, {}


def handler_for(server: StandInServer) -> type[BaseHTTPRequestHandler]:
    """Return the handler that passes requests on to `server`."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # seconds that a silent client may hold a thread

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status, answer = server.respond(self.command, urlsplit(self.path).path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815  the base class looks these names up

        def log_message(self, format: str, *values: Any) -> None:  # noqa: A002  the base class's name
            """Say nothing."""

    return Handler
