"""As much of a W&B server as a run talks to: it answers, and keeps what it was sent."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """Serves at `url` while it is a context; a W&B client that is given this as WANDB_BASE_URL is online.

    `history` holds the lines of each run's history, `runs` what was said of each run when it was opened.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self.artifacts: list[str] = []
        self.is_silent = False  # true: it takes what comes and never answers
        self.falls_silent_once_opened = False  # so does it then when a run has been opened
        self._quit = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if server.is_silent:
                    server._quit.wait()
                answer = server.answer(self.path, body)
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_PUT = do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # a client that was killed says no goodbye
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._quit.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        """The answer to a GraphQL query, to lines of a run's files, or to an uploaded file."""
        if path == "/graphql":
            said = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", said["query"])[1]
            return {"data": getattr(self, operation, lambda _: {})(said.get("variables") or {})}
        if path.endswith("/file_stream"):
            said = json.loads(body)
            run = path.split("/")[-2]
            files = said.get("files") or {}
            if chunk := files.get("wandb-history.jsonl"):
                lines = self.history.setdefault(run, [])
                lines[chunk["offset"] :] = map(json.loads, chunk["content"])
            if chunk := files.get("wandb-summary.json"):
                self.summaries[run] = json.loads(chunk["content"][0])
        return {}

    # ---- GraphQL, by the operations' names

    def Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}}

    def UpsertBucket(self, said: dict[str, Any]) -> dict[str, Any]:
        self.runs.setdefault(said["name"], []).append(said)
        if self.falls_silent_once_opened:
            threading.Timer(0.1, lambda: setattr(self, "is_silent", True)).start()
        project = {"id": "p", "name": said["project"], "entity": {"id": "e", "name": "me"}}
        return {"upsertBucket": {"bucket": self._bucket(said["name"]) | {"project": project}, "inserted": True}}

    def RunResumeStatus(self, said: dict[str, Any]) -> dict[str, Any]:
        bucket = self._bucket(said["name"]) if said["name"] in self.runs else None
        return {"model": {"id": "p", "name": said["project"], "entity": {"id": "e", "name": "me"}, "bucket": bucket}}

    def CreateRunFiles(self, said: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in said["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def CreateArtifact(self, said: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append(said["input"]["artifactCollectionName"])  # and its files are known here already
        return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {}}}}

    def _bucket(self, run: str) -> dict[str, Any]:
        lines = self.history.get(run, [])
        tail = [json.dumps(line) for line in lines[-1:]]
        return {
            "id": "r", "name": run, "displayName": run, "config": "{}", "tags": [], "wandbConfig": '{"t":{}}',
            "summaryMetrics": json.dumps(self.summaries.get(run, {})), "historyLineCount": len(lines),
            "historyTail": json.dumps(tail), "eventsTail": "[]", "eventsLineCount": 0, "logLineCount": 0,
        }  # fmt: skip
