"""A stand-in for the W&B server on a loopback port. For tests only: it keeps nothing and knows just what the client asks here.

Sweeps and their agents are served as by W&B, with parameters picked by W&B's own engine (the package `sweeps`). Online runs are
taken in too, and :attr:`StandInServer.trouble` makes the server fail in the ways that a real one does.
"""

import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import sweeps
import yaml

ENTITY = "tester"
KEY = "a" * 40
_STORAGE = "/storage/"
Json = dict[str, Any]


@dataclass
class Sweep:
    """One sweep, the runs that it has given out, and who works on which; one agent at a time."""

    config: Json
    runs: dict[str, sweeps.SweepRun] = field(default_factory=dict)
    at_work: dict[str, str] = field(default_factory=dict)
    """Run by agent."""

    def next_command(self, agent: str, running: Json) -> list[Json]:
        """What an agent is to do that says what it runs: go on, start or take over a run, or end."""
        if running:
            return []
        for lost in set(self.at_work) - {agent}:
            name = self.at_work[agent] = self.at_work.pop(lost)
            return [self._command("resume", name)]
        if done := self.at_work.pop(agent, None):
            self.runs[done].state = sweeps.RunState.finished
        run = sweeps.next_run(self.config, list(self.runs.values()))
        if run is None:
            return [{"type": "exit"}]
        run.name = f"run{len(self.runs)}"
        run.state = sweeps.RunState.running
        self.runs[run.name] = run
        self.at_work[agent] = run.name
        return [self._command("run", run.name)]

    def _command(self, kind: str, run: str) -> Json:
        return {"type": kind, "run_id": run, "program": self.config["program"], "args": self.runs[run].config}


class StandInServer:
    """The server; :func:`stand_in_server` starts and stops it.

    Attributes:
        url: for WANDB_BASE_URL.
        sweeps: by id.
        runs: what was last said of each online run when it was made or changed, by id.
        history: the rows of each online run, by id.
        preempting: the ids of runs that were marked as ones to go on with.
        uploads: files by name.
        errors: what went wrong here while it answered; there must be none.
        asked: the names of the GraphQL operations so far, and of the other requests.
        stops: whether it wants all runs to end, as for early stopping.
        trouble: None; an HTTP status to answer every request with; or "silent": answer nothing at all.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.sweeps: dict[str, Sweep] = {}
        self.runs: dict[str, Json] = {}
        self.history: dict[str, list[Json]] = {}
        self.preempting: set[str] = set()
        self.uploads: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.stops = False
        self.trouble: int | str | None = None
        self.over = threading.Event()
        self._changed = threading.Condition()

    def environment(self) -> dict[str, str]:
        """What leads a W&B client here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Until what clients have asked makes it true; an error after so many seconds."""
        with self._changed:
            assert self._changed.wait_for(condition, seconds), f"after {seconds} s only: {', '.join(self.asked)}"

    def answer(self, path: str, body: bytes) -> Json:
        """What the server says to a request."""
        with self._changed:
            what, answer = self._answer(path, body)
            self.asked.append(what)
            self._changed.notify_all()
        return answer

    def _answer(self, path: str, body: bytes) -> tuple[str, Json]:
        if path == "/graphql":
            asked = json.loads(body)
            match = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
            assert match is not None
            answer: Callable[[Json], Json] | None = getattr(self, f"_answer_{match[1]}", None)
            if answer is None:
                return match[1], {"errors": [{"message": f"{match[1]} is not known here"}]}
            return match[1], {"data": answer(asked.get("variables") or {})}
        if path.endswith("/file_stream"):
            files = json.loads(body).get("files") or {}
            rows = files.get("wandb-history.jsonl", {"content": []})["content"]
            self.history.setdefault(path.split("/")[-2], []).extend(map(json.loads, rows))
            self.preempting.update(path.split("/")[-2:-1] if json.loads(body).get("preempting") else [])
            return "file_stream", {"stopped": self.stops}
        if path.startswith(_STORAGE):
            self.uploads[path.removeprefix(_STORAGE)] = body
            return "upload", {}
        return path, {}

    def _answer_Viewer(self, _: Json) -> Json:
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer}

    def _answer_UpsertSweep(self, variables: Json) -> Json:
        config = yaml.safe_load(variables["config"])
        warnings = sweeps.schema_violations_from_proposed_config(config)
        name = f"sweep{len(self.sweeps)}"
        self.sweeps[name] = Sweep(config)
        project = {"id": "1", "name": variables["projectName"], "entity": {"id": "1", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": warnings}}

    def _answer_SweepWithRuns(self, variables: Json) -> Json:
        name = variables["sweep"]
        sweep = {"id": name, "name": name, "config": yaml.safe_dump(self.sweeps[name].config), "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _answer_CreateAgent(self, variables: Json) -> Json:
        return {"createAgent": {"agent": {"id": f"{variables['sweep']}:{self.asked.count('CreateAgent')}"}}}

    def _answer_UpsertBucket(self, variables: Json) -> Json:
        name = variables["name"]
        self.runs.setdefault(name, {}).update({key: value for key, value in variables.items() if value is not None})
        project = {"id": "1", "name": variables["project"], "entity": {"id": "1", "name": ENTITY}}
        bucket = {"id": name, "name": name, "displayName": name, "config": "{}", "project": project, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _answer_CreateRunFiles(self, variables: Json) -> Json:
        files = [self._upload(name) for name in variables["files"]]
        return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}

    def _answer_CreateArtifact(self, variables: Json) -> Json:
        name = variables["input"]["artifactCollectionName"]
        sequence = {"id": name, "latestArtifact": None}
        return {"createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": sequence}}}

    def _answer_CreateArtifactManifest(self, variables: Json) -> Json:
        manifest = {"id": "1", "file": self._upload(f"{variables['artifactID']}/manifest")}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    _answer_UpdateArtifactManifest = _answer_CreateArtifactManifest

    def _answer_CreateArtifactFiles(self, variables: Json) -> Json:
        specs = variables["input"]["artifactFiles"]
        files = [self._upload(f"{spec['artifactID']}/{spec['name']}") for spec in specs]
        return {"createArtifactFiles": {"files": {"edges": [{"node": file} for file in files]}}}

    def _answer_CommitArtifact(self, variables: Json) -> Json:
        return {"commitArtifact": {"artifact": {"id": variables["artifactID"], "digest": ""}}}

    def _upload(self, name: str) -> Json:
        url = f"{self.url}{_STORAGE}{name}"
        artifact = {"id": name.partition("/")[0]}
        return {"id": name, "name": name, "artifact": artifact, "storagePath": name, "uploadUrl": url, "uploadHeaders": []}

    def _answer_Heartbeat(self, variables: Json) -> Json:
        agent = variables["id"]
        commands = self.sweeps[agent.partition(":")[0]].next_command(agent, json.loads(variables["runState"]))
        return {"agentHeartbeat": {"agent": {"id": agent}, "commands": json.dumps(commands)}}


@contextmanager
def stand_in_server() -> Iterator[StandInServer]:
    """The server, from here to the end of the block, on a free port of 127.0.0.1."""
    http = _Http(("127.0.0.1", 0), _Handler)
    server = http.stand_in
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
        assert server.errors == []
    finally:
        server.over.set()
        http.shutdown()
        thread.join()
        http.server_close()


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def server_activate(self) -> None:
        super().server_activate()
        self.stand_in = StandInServer(self.server_port)

    def handle_error(self, *_: Any) -> None:
        """A client that has closed the connection is none."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, _Http)
        server = self.server.stand_in
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if server.trouble == "silent":
            server.over.wait()
            self.close_connection = True
            return
        if isinstance(server.trouble, int):
            self._send(server.trouble, {"error": "no more"})
            return
        try:
            self._send(200, server.answer(self.path, body))
        except Exception as error:  # ours: the client has asked what was not expected
            server.errors.append(f"{self.path}: {error!r}: {body[:1000]!r}")
            self._send(400, {})

    do_PUT = do_POST

    def _send(self, status: int, answer: Json) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
