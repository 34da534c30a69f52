import json
import struct
import subprocess
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from wandb.proto import wandb_internal_pb2 as pb

from .wandb_answers import sweep_trials
from .wandb_files import OfflineRun, read_records, read_run, read_runs
from .wandb_server import KEY, StandInServer, offline_environment

HEADER = b":W&B\x00\x00\x00"
BLOCK = 32768


def chunk(kind, content):
    return struct.pack("<IHB", 0, len(content), kind) + content


def log(*records):
    """Write records as the LevelDB format describes it: never a chunk's header across the end of a block."""
    data = HEADER
    for record in records:
        kind, rest = 1, record
        while True:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                continue
            part, rest = rest[: left - 7], rest[left - 7 :]
            first = kind == 1
            kind = (1 if first else 4) if not rest else (2 if first else 3)
            data += chunk(kind, part)
            if not rest:
                break
    return data


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([5, 0, 9], id="one block"),
        pytest.param([BLOCK - 7 - 7 - 3, 4], id="3 bytes of padding"),
        pytest.param([BLOCK - 7 - 7 - 7, 4], id="a chunk without content at the block's end"),
        pytest.param([BLOCK - 7 - 7, 4], id="block filled to the last byte"),
        pytest.param([100, 3 * BLOCK, 100], id="first, middle, middle, last"),
    ],
)
def test_records_are_read_back_wherever_the_blocks_cut_them(sizes):
    records = [bytes((index * 37 + i) % 251 for i in range(size)) for index, size in enumerate(sizes)]
    assert list(read_records(log(*records))) == records


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b":W&C\x00\x00\x00" + chunk(1, b"a"), id="another header"),
        pytest.param(log(b"a" * 50)[:-1], id="cut content"),
        pytest.param(HEADER + chunk(1, b"")[:5], id="cut chunk header"),
        pytest.param(HEADER + chunk(2, b"a"), id="first without last"),
        pytest.param(HEADER + chunk(4, b"a"), id="last without first"),
        pytest.param(HEADER + chunk(2, b"a") + chunk(1, b"b"), id="full inside another"),
        pytest.param(HEADER + chunk(7, b"a"), id="unknown kind"),
    ],
)
def test_a_broken_log_is_an_error(data):
    with pytest.raises(ValueError, match="Expected `data` to"):
        list(read_records(data))


def write_run(folder: Path, *records: pb.Record) -> Path:
    (folder / "files/media/images").mkdir(parents=True)
    path = folder / "run-abc.wandb"
    path.write_bytes(log(*(record.SerializeToString() for record in records)))
    return path


def test_a_log_becomes_rows_summary_config_and_metrics(tmp_path):
    run, row, typed, summary, config, metric, glob = (pb.Record() for _ in range(7))
    run.run.run_id, run.run.project = "abc", "birds"
    for key, value in {"_wandb": "{}", "lr": "0.1", "old": "1"}.items():
        run.run.config.update.add(key=key, value_json=value)
    row.history.item.add(nested_key=["interp/score"], value_json="0.5")
    row.history.item.add(nested_key=["grid", "filenames"], value_json='["media/images/a.png", "media/images/b.png"]')
    row.history.item.add(nested_key=["grid", "size", "width"], value_json="8")
    typed.history.item.add(key="a", number=2.5)
    typed.history.item.add(key="b", integer=3)
    typed.history.item.add(key="c", text="x")
    typed.history.item.add(key="d", json="[1, NaN]")
    typed.history.item.add(key="e", none=0)
    summary.summary.update.add(nested_key=["interp/score", "max"], value_json="0.5")
    summary.summary.update.add(nested_key=["interp/score", "last"], value_json="0.2")
    summary.summary.remove.add(nested_key=["interp/score", "last"])
    summary.summary.remove.add(nested_key=["never", "there"])
    config.config.update.add(key="net", value_json='{"depth": 3}')
    config.config.remove.add(key="old")
    metric.metric.name, metric.metric.step_metric, metric.metric.options.step_sync = "interp/score", "epoch", True
    metric.metric.summary.max = metric.metric.summary.last = True
    glob.metric.glob_name, glob.metric.options.hidden = "hidden/*", True
    path = write_run(tmp_path / "offline-run-1-abc", run, row, typed, summary, config, metric, glob)
    picture = path.parent / "files/media/images/a.png"
    picture.write_bytes(b"a")

    result = read_run(tmp_path)

    assert (result.path, result.run_id, result.project) == (path, "abc", "birds")
    assert result.rows("grid") == [
        {
            "interp/score": 0.5,
            "grid": {"filenames": ["media/images/a.png", "media/images/b.png"], "size": {"width": 8}},
        }
    ]
    assert result.column("interp/score") == [0.5]
    assert repr(result.history[1]) == "{'a': 2.5, 'b': 3, 'c': 'x', 'd': [1, nan], 'e': None}"
    assert result.summary == {"interp/score": {"max": 0.5}}
    assert result.config == {"lr": 0.1, "net": {"depth": 3}}
    assert result.metrics == {
        "interp/score": {"step_metric": "epoch", "step_sync": True, "hidden": False, "summary": ("max", "last")},
        "hidden/*": {"step_metric": None, "step_sync": False, "hidden": True, "summary": ()},
    }
    assert result.media == {"media/images/a.png": picture}
    assert result.missing_media() == ["media/images/b.png"]


def test_one_run_is_asked_for_and_many_are_listed_by_time(tmp_path):
    later, earlier = pb.Record(), pb.Record()
    later.run.run_id, earlier.run.run_id = "b", "a"
    write_run(tmp_path / "offline-run-2-b", later)
    write_run(tmp_path / "offline-run-1-a", earlier)
    assert [run.run_id for run in read_runs(tmp_path)] == ["a", "b"]
    with pytest.raises(ValueError, match="Expected `path` to hold one run"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match="Expected `path` to hold one run"):
        read_run(tmp_path / "nothing")


def post(server, path, body, method="POST"):
    request = urllib.request.Request(server.url + path, data=json.dumps(body).encode(), method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def ask(server, operation, **variables):
    return post(server, "/graphql", {"query": f"query {operation} {{ x }}", "variables": variables})


def test_lines_that_are_streamed_twice_are_kept_once_and_in_order():
    message = {"files": {"wandb-history.jsonl": {"offset": 1, "content": ['{"a": 2}', '{"a": 3}']}}}
    first = {"files": {"wandb-history.jsonl": {"offset": 0, "content": ['{"a": 1}', '{"a": 2}']}}}
    with StandInServer() as server:
        for body in (message, first, message, {"complete": True, "exitcode": 3}):
            assert post(server, "/files/tester/p/run0/file_stream", body)[0] == 200
    assert server.runs["run0"].column("a") == [1, 2, 3]
    assert server.runs["run0"].exit_code == 3


def test_what_the_server_does_not_know_is_refused_and_noted():
    with StandInServer() as server:
        assert ask(server, "DeleteEverything")[0] == 400
        assert ask(server, "Heartbeat", id="nobody")[0] == 400
        assert post(server, "/elsewhere", {})[0] == 400
        assert post(server, "/upload/run/nobody/file.txt", {}, method="PUT")[0] == 400
    assert [asked.split(":")[0] for asked in server.unanswered] == [
        "DeleteEverything",
        "POST /graphql",
        "POST /elsewhere",
        "PUT /upload/run/nobody/file.txt",
    ]


def test_failing_operations_fail_and_are_no_surprise():
    with StandInServer(failing={"UpsertBucket"}) as server:
        assert ask(server, "UpsertBucket", name="a", project="p")[0] == 400
        assert ask(server, "Viewer")[0] == 200
    assert (server.runs, server.unanswered) == ({}, [])


def test_a_client_that_repeats_itself_is_stopped():
    with StandInServer(request_limit=3) as server:
        assert [ask(server, "Viewer")[0] for _ in range(5)] == [200, 200, 200, 400, 400]


def test_an_agent_gets_one_trial_at_a_time_and_ends_after_the_last():
    config = "{method: grid, program: train.py, parameters: {lr: {values: [0.1, 0.2]}, n: {value: 7}}}"

    def commands(**running):
        answer = ask(server, "Heartbeat", id=agent, runState=json.dumps(running))[1]["data"]
        return json.loads(answer["agentHeartbeat"]["commands"])

    with StandInServer() as server:
        name = ask(server, "UpsertSweep", config=config)[1]["data"]["upsertSweep"]["sweep"]["name"]
        agent = ask(server, "CreateAgent", sweep=name)[1]["data"]["createAgent"]["agent"]["id"]
        first = commands()[0]
        assert (first["type"], first["program"]) == ("run", "train.py")
        assert first["args"] == {"lr": {"value": 0.1}, "n": {"value": 7}}
        assert commands(**{first["run_id"]: True}) == []
        assert commands()[0]["args"]["lr"] == {"value": 0.2}
        assert commands() == [{"type": "exit"}]
    assert list(server.sweeps[name].trials.values()) == [{"lr": 0.1, "n": 7}, {"lr": 0.2, "n": 7}]


def test_trials_that_are_drawn_stay_in_their_ranges_and_repeat():
    parameters = {
        "lr": {"min": 1e-4, "max": 1e-1, "distribution": "log_uniform_values"},
        "k": {"min": 1, "max": 3},
        "alpha": {"min": 0.5, "max": 1.5},
        "name": {"values": ["a", "b"]},
        "fixed": {"value": None},
    }
    config = {"method": "bayes", "run_cap": 200, "parameters": parameters}
    drawn = list(sweep_trials(config))
    assert drawn == list(sweep_trials(config))
    assert len(drawn) == 200
    assert {trial["k"] for trial in drawn} == {1, 2, 3}
    assert {trial["name"] for trial in drawn} == {"a", "b"}
    assert {trial["fixed"] for trial in drawn} == {None}
    assert all(1e-4 <= trial["lr"] <= 1e-1 and 0.5 <= trial["alpha"] <= 1.5 for trial in drawn)
    below = sum(trial["lr"] < 10**-2.5 for trial in drawn)  # the middle of the range in logarithms
    assert 70 < below < 130


def test_a_child_process_sees_nothing_of_the_users_wandb(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_SWEEP_ID", "wandb_mode", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "the user's")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environment = offline_environment(tmp_path)
    assert "the user's" not in environment.values()
    assert (environment["WANDB_MODE"], environment["WANDB_API_KEY"], len(KEY)) == ("offline", KEY, 40)
    assert environment["LANG"] == "C.UTF-8"
    folders = ("HOME", "NETRC", *(name for name in environment if name.endswith("_DIR") and name.startswith("WANDB")))
    assert len(folders) == 7
    assert all(Path(environment[name]).is_relative_to(tmp_path) for name in folders)


LOGGING = """
    import sys
    import torch
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    logger = WandbLogger(project="birds", save_dir=".", id="abc", name="first")
    logger.log_hyperparams({"lr": 0.1, "net": {"depth": 3}})
    logger.experiment.define_metric("interp/score", step_metric="trainer/global_step", summary="max,last")
    start = int(sys.argv[1])
    for step, score in enumerate([0.25, 0.75, 0.5], start=start):
        logger.log_metrics({"interp/score": score, "bad": float("nan"), "epoch": step}, step=10 * step)
    image = torch.linspace(0, 1, 48).reshape(3, 4, 4)
    logger.log_image("interp/grid", [image], step=10 * step, caption=["a bird"])
    logger.experiment.log({"nested": {"a": 1, "b": {"c": "x"}}, "histogram": wandb.Histogram([1.0, 2.0])})
    logger.log_table("table", columns=["image", "n"], data=[[wandb.Image(image), 3]], step=10 * step)
    wandb.finish()
"""


def run(command, directory, environment):
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def log_run(directory, environment, start=0):
    script = directory / "log.py"
    script.write_text(textwrap.dedent(LOGGING))
    run(["python", str(script), str(start)], directory, environment)


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> OfflineRun:
    directory = tmp_path_factory.mktemp("offline")
    log_run(directory, offline_environment(directory))
    return read_run(directory / "wandb")


def as_text(rows):
    """NaN is not equal to itself, its text is."""
    return [json.dumps(row, sort_keys=True) for row in rows]


@pytest.mark.slow
def test_an_online_run_through_lightning_is_received_and_can_be_resumed(tmp_path):
    with StandInServer() as server:
        log_run(tmp_path, server.environment(tmp_path))
        log_run(tmp_path, server.environment(tmp_path), start=3)
    assert server.unanswered == []
    (received,) = server.runs.values()
    assert (received.name, received.project, received.fields["displayName"]) == ("abc", "birds", "first")
    assert received.config == {"lr": 0.1, "net": {"depth": 3}}
    assert received.column("interp/score") == [0.25, 0.75, 0.5] * 2
    assert [row["trainer/global_step"] for row in received.rows("interp/score")] == [0, 10, 20, 30, 40, 50]
    assert received.column("_step") == list(range(12))
    assert received.summary["interp/score"] == {"max": 0.75, "last": 0.5}
    assert received.exit_code == 0
    grids = [name for grid in received.column("interp/grid") for name in grid["filenames"]]
    assert len(grids) == 2
    assert all(received.files[name].startswith(b"\x89PNG") for name in grids)
    assert [artifact.committed for artifact in server.artifacts.values()] == [True, True]
    for artifact in server.artifacts.values():
        assert set(artifact.files) == set(artifact.manifest["contents"])
        assert sorted(name.rsplit(".", 1)[1] for name in artifact.files) == ["json", "png"]


@pytest.mark.slow
def test_a_synced_run_arrives_as_it_was_read_from_its_file(offline):
    folder = offline.path.parent
    marker = Path(f"{offline.path}.synced")
    with StandInServer() as server:
        run(["wandb", "sync", str(folder)], folder, server.environment(folder.parents[1]))
    try:
        assert marker.exists()
    finally:
        marker.unlink(missing_ok=True)
    assert server.unanswered == []
    received = server.runs["abc"]
    assert len(offline.history) == 6
    assert as_text(received.history) == as_text(offline.history)
    assert received.config == offline.config == {"lr": 0.1, "net": {"depth": 3}}
    assert received.summary["interp/score"] == offline.summary["interp/score"] == {"max": 0.75, "last": 0.5}
    assert offline.missing_media() == []
    assert set(offline.media) > {name for grid in offline.column("interp/grid") for name in grid["filenames"]}
    for name, file in offline.media.items():
        assert received.files[name] == file.read_bytes(), name
    assert [artifact.committed for artifact in server.artifacts.values()] == [True]


@pytest.mark.slow
def test_a_sync_that_is_refused_leaves_no_marker_though_it_returns_zero(offline):
    folder = offline.path.parent
    with StandInServer(failing={"UpsertBucket"}) as server:
        assert "UpsertBucket fails" in run(
            ["wandb", "sync", str(folder)], folder, server.environment(folder.parents[1])
        )
    assert not Path(f"{offline.path}.synced").exists()


@pytest.mark.slow
def test_the_reader_agrees_with_the_viewer_of_wandb(offline):
    command = ["wandb", "leet", "inspect", str(offline.path), "--json"]
    done = subprocess.run(
        command,
        env=offline_environment(offline.path.parents[2]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line)["history"]["item"] for line in done.stdout.splitlines() if '"type":"history"' in line]

    def flat(value, name=""):
        if isinstance(value, dict):
            return {key: leaf for inner in value for key, leaf in flat(value[inner], f"{name}.{inner}").items()}
        return {name[1:]: "NaN" if repr(value) == "nan" else value}

    assert len(rows) == 6
    assert [flat(row) for row in offline.history] == rows


TRIAL = """
    import argparse
    import wandb

    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float)
    parser.add_argument("--n", type=int)
    arguments = parser.parse_args()
    with wandb.init(config=vars(arguments)) as run:
        run.log({"score": arguments.lr * arguments.n})
"""
SWEEP = """
    project: birds
    program: trial.py
    method: grid
    metric: {name: score, goal: maximize}
    parameters:
      lr: {values: [0.5, 0.25]}
      n: {values: [2, 4]}
    command: ["${env}", python, "${program}", "${args}"]
"""


@pytest.mark.slow
def test_an_agent_runs_two_trials_of_a_sweep(tmp_path):
    (tmp_path / "trial.py").write_text(textwrap.dedent(TRIAL))
    (tmp_path / "sweep.yaml").write_text(textwrap.dedent(SWEEP))
    with StandInServer() as server:
        environment = server.environment(tmp_path)
        run(["wandb", "sweep", "sweep.yaml"], tmp_path, environment)
        (sweep,) = server.sweeps.values()
        run(["wandb", "agent", "--count", "2", f"tester/birds/{sweep.name}"], tmp_path, environment)
    assert server.unanswered == []
    assert (sweep.project, sweep.config["metric"], len(sweep.agents)) == (
        "birds",
        {"name": "score", "goal": "maximize"},
        1,
    )
    assert list(sweep.trials.values()) == [{"lr": 0.5, "n": 2}, {"lr": 0.5, "n": 4}]
    for name, parameters in sweep.trials.items():
        trial = server.runs[name]
        assert (trial.sweep, trial.exit_code, trial.config) == (sweep.name, 0, parameters)
        assert trial.column("score") == [parameters["lr"] * parameters["n"]]
    assert len(server.runs) == 2
