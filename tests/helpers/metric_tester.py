"""What every metric of the package must do, whatever it measures.

``check_metric`` needs one process; ``on_two_processes`` asks a pair of gloo processes that live as long as the session.
"""

import atexit
import functools
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torchmetrics import Metric, MetricCollection
from torchmetrics.wrappers import MetricTracker

Inputs = dict[str, Any]
"""Keyword arguments of ``update``, each with one entry per image."""


def cut(inputs: Inputs, start: int, stop: int | None = None) -> Inputs:
    return {name: value[start:stop] for name, value in inputs.items()}


def singles(inputs: Inputs) -> list[Inputs]:
    return [cut(inputs, i, i + 1) for i in range(n_images(inputs))]


def n_images(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def result(metric: Metric, batches: Iterable[Inputs]) -> Any:
    """What a fresh copy of the metric computes after these batches."""
    metric = metric.clone()
    for batch in batches:
        metric.update(**batch)
    return metric.compute()


def assert_same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5, equal_nan=True)


def check_metric(metric: Metric, inputs: Inputs) -> Any:
    """Check a metric without images on at least three images, and return its result on them."""
    expected = result(metric, [inputs])
    _check_streaming(metric, inputs, expected)
    _check_forward(metric, inputs, expected)
    _check_copies(metric, inputs, expected)
    _check_precision(metric, inputs)
    _check_containers(metric, inputs, expected)
    return expected


def _check_streaming(metric: Metric, inputs: Inputs, expected: Any) -> None:
    assert_same(result(metric, singles(inputs)), expected)
    assert_same(result(metric, [cut(inputs, 0, 0), cut(inputs, 0, 2), cut(inputs, 2)]), expected)


def _check_forward(metric: Metric, inputs: Inputs, expected: Any) -> None:
    metric, fresh = metric.clone(), metric.clone()
    for batch in (cut(inputs, 0, 2), cut(inputs, 2)):
        assert_same(metric(**batch), result(fresh, [batch]))
    assert_same(metric.compute(), expected)


def _check_copies(metric: Metric, inputs: Inputs, expected: Any) -> None:
    used = metric.clone()
    with torch.inference_mode():
        used.update(**cut(inputs, 0, 2))
    for other in (used.clone(), pickle.loads(pickle.dumps(used))):
        assert repr(other) == repr(metric)
        other.update(**cut(inputs, 2))
        assert_same(other.compute(), expected)
    used.persistent(mode=True)
    restored = metric.clone()
    restored.load_state_dict(used.state_dict())
    restored.update(**cut(inputs, 2))
    assert_same(restored.compute(), expected)
    used.reset()
    used.update(**cut(inputs, 1))
    assert_same(used.compute(), result(metric, [cut(inputs, 1)]))


def _check_precision(metric: Metric, inputs: Inputs) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        low = {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
        back = {k: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in low.items()}
        assert_same(result(metric, [low]), result(metric, [back]))


def _check_containers(metric: Metric, inputs: Inputs, expected: Any) -> None:
    collection = MetricCollection({"metric": metric.clone()})
    for batch in (cut(inputs, 0, 2), cut(inputs, 2)):
        collection.update(**batch, of_no_interest=None)
    assert_same(collection["metric"].compute(), expected)
    tracker = MetricTracker(metric.clone(), maximize=True)
    for step in (inputs, cut(inputs, 1)):
        tracker.increment()
        tracker.update(**step)
        assert_same(tracker.compute(), result(metric, [step]))


ClassAccuracy = dict[str, Any]


def on_two_processes(metric: Metric, shards: tuple[list[Inputs], list[Inputs]], *questions: str) -> list[ClassAccuracy]:
    """Update a copy of the metric on each of two processes and ask both the same.

    Args:
        metric: a metric without images.
        shards: the batches of either process; none at all is allowed.
        questions: names of methods without arguments; ``compute`` when absent.

    Returns:
        The answers by question, of rank 0 and of rank 1.
    """
    return _pair().ask(_answer, [(metric, shard, questions or ("compute",)) for shard in shards])


def assert_two_processes_equal_one(metric: Metric, inputs: Inputs, expected: Any) -> None:
    """Check the result over two processes, with images on both and with images on one only."""
    for shards in (
        ([cut(inputs, 0, 2)], singles(cut(inputs, 2))),
        ([], [inputs]),
        (singles(inputs), []),
        ([cut(inputs, 0, 0)], [inputs]),
    ):
        for answers in on_two_processes(metric, shards):
            assert_same(answers["compute"], expected)


def _answer(metric: Metric, batches: list[Inputs], questions: tuple[str, ...]) -> ClassAccuracy:
    for batch in batches:
        metric.update(**batch)
    return {question: getattr(metric, question)() for question in questions}


class _Pair:
    """Two processes in one gloo group, each at the end of a pipe."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        context = get_context("forkserver")
        context.set_forkserver_preload(["torchmetrics"])  # seconds to import, and so once for both
        self._pipes, self._processes = [], []
        for rank in range(2):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, f"{self._folder.name}/store", there), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def ask(self, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        for pipe, given in zip(self._pipes, arguments, strict=True):
            pipe.send_bytes(pickle.dumps((function, given)))
        replies = [pickle.loads(pipe.recv_bytes()) for pipe in self._pipes]
        for failure, _ in replies:
            if failure:
                raise RuntimeError(f"A process failed:\n{failure}")
        return [reply for _, reply in replies]

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(timeout=10)
        self._folder.cleanup()


def _serve(rank: int, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=Path(store).as_uri(), rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    while True:
        try:
            function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            break
        try:
            reply = (None, function(*arguments))
        except Exception:  # noqa: BLE001 - the parent raises it
            reply = (traceback.format_exc(), None)
        pipe.send_bytes(pickle.dumps(reply))
    dist.destroy_process_group()


@functools.cache
def _pair() -> _Pair:
    pair = _Pair()
    atexit.register(pair.close)
    return pair
