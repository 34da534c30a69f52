"""What a stand-in of the W&B server keeps, and its answers to the GraphQL operations of wandb 0.31; no HTTP here."""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

ENTITY = "tester"
StreamFile = Literal["wandb-history.jsonl", "wandb-events.jsonl", "output.log"]


@dataclass
class Run:
    """What was received of one run.

    Attributes:
        name: The run's id, as in its address.
        project: The run's project.
        fields: The other variables of UpsertBucket that were ever set: ``displayName``, ``tags``, ``jobType``, ...
        config: The configuration, without W&B's own ``_wandb`` entry.
        summary: The last summary.
        lines: The streamed lines of each file by their number.
        files: The uploaded files by their path in the run; media start with ``media/``.
        sweep: The id of the sweep that the run belongs to.
        exit_code: What the run ended with; None while it goes on.
    """

    name: str
    project: str
    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    lines: dict[StreamFile, dict[int, str]] = field(
        default_factory=lambda: {"wandb-history.jsonl": {}, "wandb-events.jsonl": {}, "output.log": {}}
    )
    files: dict[str, bytes] = field(default_factory=dict)
    sweep: str | None = None
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """The logged rows in order, keyed as those of an offline run."""
        return [json.loads(line) for _, line in sorted(self.lines["wandb-history.jsonl"].items())]

    def rows(self, *names: str) -> list[dict[str, Any]]:
        """Return the rows that hold all of `names`."""
        return [row for row in self.history if all(name in row for name in names)]

    def column(self, name: str) -> list[Any]:
        """Return the values logged under `name`, in order."""
        return [row[name] for row in self.rows(name)]


@dataclass
class Artifact:
    """What was received of one artifact: the manifest lists its files by digest, `files` holds them by path."""

    kind: str
    name: str
    run: str
    client_id: str
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


@dataclass
class Sweep:
    """A sweep: the trials not yet handed out, and the parameters of those that were, by the id of their run."""

    name: str
    project: str
    config: dict[str, Any]
    pending: Iterator[dict[str, Any]]
    trials: dict[str, dict[str, Any]] = field(default_factory=dict)
    agents: list[str] = field(default_factory=list)


@dataclass
class Received:
    """All that was received: runs, artifacts and sweeps by id, and the sweep of each agent."""

    runs: dict[str, Run] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    sweeps: dict[str, Sweep] = field(default_factory=dict)
    agents: dict[str, str] = field(default_factory=dict)
    # (owner, its id, path) -> where the client is to put a file; set by the server, which knows its own address
    address: Callable[[str, str, str], str] = lambda owner, name, path: f"{owner}/{name}/{path}"


Variables = dict[str, Any]
Answer = Callable[[Received, Variables], dict[str, Any]]
ANSWERS: dict[str, Answer] = {}


def answers(*operations: str) -> Callable[[Answer], Answer]:
    """Register a function as the answer to `operations`."""

    def register(function: Answer) -> Answer:
        ANSWERS.update(dict.fromkeys(operations, function))
        return function

    return register


def sweep_trials(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parameters of a sweep's trials.

    A grid goes through all combinations, the last parameter fastest. Any other method draws from a generator seeded
    with 0, without end unless there is a ``run_cap``, and never looks at what earlier trials reached.
    """
    parameters = config["parameters"]
    drawn: Iterator[tuple[Any, ...]]
    if config["method"] == "grid":
        drawn = itertools.product(*(spec.get("values", [spec.get("value")]) for spec in parameters.values()))
    else:
        generator = random.Random(0)
        drawn = (tuple(draw(spec, generator) for spec in parameters.values()) for _ in itertools.count())
    for values in itertools.islice(drawn, config.get("run_cap")):
        yield dict(zip(parameters, values, strict=True))


def draw(spec: dict[str, Any], generator: random.Random) -> Any:
    """Draw one parameter: from its values, an integer between integers, log-uniformly if asked, else uniformly."""
    if "value" in spec or "values" in spec:
        return generator.choice(spec.get("values", [spec.get("value")]))
    low, high = spec["min"], spec["max"]
    if spec.get("distribution") == "log_uniform_values":
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    return (
        generator.randint(low, high) if isinstance(low, int) and isinstance(high, int) else generator.uniform(low, high)
    )


def project_of(name: str) -> dict[str, Any]:
    """Return a project as GraphQL tells it."""
    return {"id": f"project-{name}", "name": name, "entity": {"id": "entity", "name": ENTITY}}


def bucket(run: Run) -> dict[str, Any]:
    """Return a run as GraphQL tells it, with what a resumed run needs to go on where it ended."""
    history = run.lines["wandb-history.jsonl"]
    return {
        "id": f"bucket-{run.name}",
        "name": run.name,
        "displayName": run.fields.get("displayName") or run.name,
        "description": run.fields.get("description"),
        "notes": run.fields.get("notes"),
        "tags": run.fields.get("tags") or [],
        "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
        "summaryMetrics": json.dumps(run.summary),
        "sweepName": run.sweep,
        "project": project_of(run.project),
        "state": "running" if run.exit_code is None else "finished",
        "historyLineCount": len(history),
        "eventsLineCount": len(run.lines["wandb-events.jsonl"]),
        "logLineCount": len(run.lines["output.log"]),
        "historyTail": json.dumps([history[max(history)]] if history else []),
        "eventsTail": "[]",
        "wandbConfig": '{"t": 1}',  # without it the client takes the run for one that never started
    }


@answers("Viewer")
def viewer(received: Received, variables: Variables) -> dict[str, Any]:
    """Say who is logged in: everyone is the same user."""
    user = {"id": "user", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": {"edges": []}}
    return {"viewer": user}


@answers("ServerFeaturesQuery")
def server_features(received: Received, variables: Variables) -> dict[str, Any]:
    """Claim no optional feature."""
    return {"serverInfo": {"features": []}}


@answers("UpsertBucket")
def upsert_bucket(received: Received, variables: Variables) -> dict[str, Any]:
    """Create or change a run."""
    name = variables.get("name") or variables["id"].removeprefix("bucket-")
    inserted = name not in received.runs
    run = received.runs.setdefault(name, Run(name, variables.get("project") or "uncategorized"))
    run.fields |= {key: value for key, value in variables.items() if value is not None and key != "config"}
    run.sweep = variables.get("sweep") or run.sweep
    run.exit_code = None if inserted or variables.get("host") else run.exit_code
    config = json.loads(variables.get("config") or "{}")
    run.config |= {key: entry["value"] for key, entry in config.items() if key != "_wandb"}
    return {"upsertBucket": {"bucket": bucket(run), "inserted": inserted}}


@answers("RunResumeStatus")
def run_resume_status(received: Received, variables: Variables) -> dict[str, Any]:
    """Tell a run that may be resumed what there is of it."""
    run = received.runs.get(variables["name"])
    return {"model": project_of(variables["project"]) | {"bucket": bucket(run) if run else None}}


@answers("CreateRunFiles")
def create_run_files(received: Received, variables: Variables) -> dict[str, Any]:
    """Say where a run's files are to be put."""
    run = variables["run"]
    files = [{"name": path, "uploadUrl": received.address("run", run, path)} for path in variables["files"]]
    return {"createRunFiles": {"runID": f"bucket-{run}", "uploadHeaders": [], "files": files}}


@answers("XXHashDigestsEnabled")
def digest_algorithm(received: Received, variables: Variables) -> dict[str, Any]:
    """Keep to MD5 digests."""
    return {"entity": {"xxhashDigestsEnabled": False}}


@answers("ArtifactType")
def artifact_type(received: Received, variables: Variables) -> dict[str, Any]:
    """Tell the type of an artifact that exists under a name with an alias or a version."""
    name = variables["name"].split(":")[0]
    kinds = [artifact.kind for artifact in received.artifacts.values() if artifact.name == name]
    return {"project": {"artifact": {"artifactType": {"name": kinds[-1]}} if kinds else None}}


@answers("ClientIDMapping")
def client_id(received: Received, variables: Variables) -> dict[str, Any]:
    """Translate the client's name of an artifact into the server's."""
    known = {artifact.client_id: name for name, artifact in received.artifacts.items()}
    return {"clientIDMapping": {"serverID": known[variables["clientID"]]}}


@answers("CreateArtifact")
def create_artifact(received: Received, variables: Variables) -> dict[str, Any]:
    """Open an artifact."""
    asked = variables["input"]
    name = f"artifact{len(received.artifacts)}"
    received.artifacts[name] = Artifact(
        asked["artifactTypeName"], asked["artifactCollectionName"], asked.get("runName") or "", asked["clientID"]
    )
    return {
        "createArtifact": {"artifact": {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}}
    }


@answers("CreateArtifactManifest")
def create_artifact_manifest(received: Received, variables: Variables) -> dict[str, Any]:
    """Say where an artifact's manifest is to be put; it has the artifact's own id."""
    name = variables["artifactID"]
    file = {"id": name, "uploadUrl": received.address("manifest", name, "manifest.json"), "uploadHeaders": []}
    return {"createArtifactManifest": {"artifactManifest": {"id": name, "file": file}}}


@answers("CreateArtifactFiles")
def create_artifact_files(received: Received, variables: Variables) -> dict[str, Any]:
    """Say where an artifact's files are to be put."""
    edges: list[dict[str, Any]] = []
    for asked in variables["input"]["artifactFiles"]:
        owner, path = asked["artifactID"], asked["name"]
        place = {"storagePath": f"{owner}/{path}", "uploadUrl": received.address("artifact", owner, path)}
        edges.append({"node": place | {"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": owner}}})
    return {"createArtifactFiles": {"files": {"edges": edges}}}


@answers("CommitArtifact")
def commit_artifact(received: Received, variables: Variables) -> dict[str, Any]:
    """Close an artifact."""
    name = variables["artifactID"]
    received.artifacts[name].committed = True
    return {"commitArtifact": {"artifact": {"id": name, "digest": ""}}}


@answers("UpsertSweep")
def upsert_sweep(received: Received, variables: Variables) -> dict[str, Any]:
    """Create a sweep."""
    name = f"sweep{len(received.sweeps)}"
    project, config = variables.get("projectName") or "uncategorized", yaml.safe_load(variables["config"])
    received.sweeps[name] = Sweep(name, project, config, sweep_trials(config))
    return {"upsertSweep": {"sweep": {"name": name, "project": project_of(project)}, "configValidationWarnings": []}}


@answers("SweepWithRuns")
def sweep_with_runs(received: Received, variables: Variables) -> dict[str, Any]:
    """Tell a sweep's configuration and runs."""
    sweep = received.sweeps.get(variables["sweep"])
    if sweep is None:
        return {"project": {"sweep": None}}
    runs = [{"node": bucket(run)} for run in received.runs.values() if run.sweep == sweep.name]
    told = {"id": sweep.name, "name": sweep.name, "method": sweep.config["method"], "state": "RUNNING"}
    return {"project": {"sweep": told | {"config": yaml.safe_dump(sweep.config), "runs": {"edges": runs}}}}


@answers("CreateAgent")
def create_agent(received: Received, variables: Variables) -> dict[str, Any]:
    """Register an agent of a sweep."""
    agent = f"agent{len(received.agents)}"
    received.agents[agent] = variables["sweep"]
    received.sweeps[variables["sweep"]].agents.append(agent)
    return {"createAgent": {"agent": {"id": agent}}}


@answers("Heartbeat")
def heartbeat(received: Received, variables: Variables) -> dict[str, Any]:
    """Hand one trial to an agent that runs none, and end the agent when none is left."""
    sweep = received.sweeps[received.agents[variables["id"]]]
    busy = bool(json.loads(variables.get("runState") or "{}"))
    trial = None if busy else next(sweep.pending, None)
    commands: list[dict[str, Any]] = []
    if trial is not None:
        run = f"{sweep.name}-run{len(sweep.trials)}"
        sweep.trials[run] = trial
        arguments = {name: {"value": value} for name, value in trial.items()}
        commands = [{"type": "run", "run_id": run, "program": sweep.config.get("program"), "args": arguments}]
    elif not busy:
        commands = [{"type": "exit"}]
    return {"agentHeartbeat": {"agent": {"id": variables["id"]}, "commands": json.dumps(commands)}}
