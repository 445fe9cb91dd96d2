"""The peers: other ways to run a call on a background thread, each behind the same three methods.

A peer is opened with a number of workers, `bind` gives the callable that its user would call (as cheap as
the peer allows: a partial of its own submit method, no lambda), and `close` ends its threads. `less` says
what the peer does not do that offload does by default, so that nobody takes a cheaper call for the same call.
What all but offload lack (the caller's line, accounting for each call, a drain at exit that loses nothing) is
not repeated for each of them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import logging.handlers
import multiprocessing.pool
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import wrapt

Call = Callable[[], object]


def optional(name: str) -> Any:
    """Import a peer's package, or give None where it is not installed: its line is then left out."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


background = optional("background")
loguru = optional("loguru")
offload = optional("offload")
pebble = optional("pebble")
sentry: Any = optional("sentry_sdk.worker") if optional("sentry_sdk") else None


class Peer:
    """One way to run calls in the background, opened with `workers` threads."""

    name: ClassVar[str]
    package: ClassVar[str | None] = None  # its distribution, for the version in the report
    less: ClassVar[str] = ""
    one_worker: ClassVar[bool] = False  # True: the design has no more than one worker
    capacity: ClassVar[int | None] = None  # how many calls may wait before the caller is blocked for ever
    available: ClassVar[bool] = True

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def bind(self, fn: Call) -> Call:
        """Return what a user of this peer calls to have `fn` run in the background."""
        raise NotImplementedError

    def close(self) -> None:
        """End the peer's threads. Nothing waits or runs any more when the benchmark calls this."""
        raise NotImplementedError


class Floor(Peer):
    """The least that a decorator and a thread can do: a wrapt wrapper puts, a thread gets and calls."""

    name = "floor (wrapt + SimpleQueue)"
    package = "wrapt"
    less = "no result, an error ends the worker, no bound, no contextvars: a floor, not a tool"

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(workers):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        get = self._queue.get
        while True:
            fn, args, kwargs = get()
            fn(*args, **kwargs)

    def bind(self, fn: Call) -> Call:
        put = self._queue.put

        def wrapper(wrapped: Call, _instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            put((wrapped, args, kwargs))

        return wrapt.FunctionWrapper(fn, wrapper)

    def close(self) -> None:
        for _ in range(self.workers):
            self._queue.put((sys.exit, (), {}))


class TaskQueue(queue.Queue[Any]):
    """The small task queue that many programs carry: a queue.Queue that starts its own daemon threads."""

    def __init__(self, num_workers: int = 1) -> None:
        super().__init__()
        for _ in range(num_workers):
            threading.Thread(target=self._work, daemon=True).start()

    def add_task(self, fn: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        self.put((fn, args, kwargs))

    def _work(self) -> None:
        while True:
            fn, args, kwargs = self.get()  # once for each task: a second get here loses every other one
            try:
                fn(*args, **kwargs)
            finally:
                self.task_done()


class QueueQueue(Peer):
    name = "queue.Queue task queue"
    less = "no result, an error ends the worker, no bound, no contextvars"

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self._queue = TaskQueue(workers)

    def bind(self, fn: Call) -> Call:
        return functools.partial(self._queue.add_task, fn)

    def close(self) -> None:
        for _ in range(self.workers):
            self._queue.add_task(sys.exit)  # SystemExit ends a thread without a word


class Executor(Peer):
    name = "ThreadPoolExecutor"
    less = "errors are silent unless somebody asks the Future, no bound, no contextvars"

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self._pool = ThreadPoolExecutor(workers)

    def bind(self, fn: Call) -> Call:
        return functools.partial(self._pool.submit, fn)

    def close(self) -> None:
        self._pool.shutdown()


class MultiprocessingPool(Peer):
    name = "multiprocessing ThreadPool"
    less = "errors are silent unless somebody asks the result, no bound, no contextvars; two helper threads"

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self._pool = multiprocessing.pool.ThreadPool(workers)

    def bind(self, fn: Call) -> Call:
        return functools.partial(self._pool.apply_async, fn)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class Pebble(Peer):
    name = "pebble ThreadPool"
    package = "pebble"
    less = "errors are silent unless somebody asks the Future, no bound, no contextvars"
    available = pebble is not None

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self._pool = pebble.ThreadPool(max_workers=workers)

    def bind(self, fn: Call) -> Call:
        return functools.partial(self._pool.schedule, fn)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class Background(Peer):
    name = "background"
    package = "background"
    less = "one pool for the program, errors are silent, no bound, no contextvars; keeps every Future for ever"
    available = background is not None

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        background.n = workers
        background.pool = ThreadPoolExecutor(workers)

    def bind(self, fn: Call) -> Call:
        call: Call = background.task(fn)
        return call

    def close(self) -> None:
        background.pool.shutdown()
        background.results.clear()


class _RunRecord(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        record.call()  # type: ignore[attr-defined]  # put there by `extra`


class LoggingQueue(Peer):
    """logging's own way off the caller's thread: a handler that enqueues, a listener thread that handles."""

    name = "logging.QueueHandler"
    less = "no result, one worker, no bound, no contextvars; makes and formats a log record for each call"
    one_worker = True

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        records: queue.Queue[Any] = queue.Queue()
        self._handler = logging.handlers.QueueHandler(records)
        self._listener = logging.handlers.QueueListener(records, _RunRecord())
        self._logger = logging.Logger("benchmark", logging.INFO)  # noqa: LOG001  # nobody else is to find it
        self._logger.addHandler(self._handler)
        self._listener.start()

    def bind(self, fn: Call) -> Call:
        return functools.partial(self._logger.info, "call", extra={"call": fn})

    def close(self) -> None:
        self._listener.stop()
        self._logger.removeHandler(self._handler)


class Sentry(Peer):
    name = "sentry-sdk BackgroundWorker"
    package = "sentry-sdk"
    less = "no arguments, no result, one worker, no contextvars; drops calls when full (after 100, here 20,000)"
    one_worker = True
    available = sentry is not None

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self._worker = sentry.BackgroundWorker(queue_size=20_000)

    def bind(self, fn: Call) -> Call:
        return functools.partial(self._worker.submit, fn)

    def close(self) -> None:
        self._worker.kill()


class Loguru(Peer):
    """loguru's enqueue pickles every message into a pipe, so what it carries here is the name of the call."""

    name = "loguru enqueue"
    package = "loguru"
    less = "no result, one worker, carries pickled messages, not calls; a full pipe (64 KB) blocks the caller"
    one_worker = True
    capacity = 30
    available = loguru is not None

    def __init__(self, workers: int = 1) -> None:
        super().__init__(workers)
        self._calls: dict[str, Call] = {}
        loguru.logger.remove()
        self._sink = loguru.logger.add(self._run, enqueue=True, format="{message}")

    def _run(self, message: Any) -> None:
        self._calls[message.record["message"]]()

    def bind(self, fn: Call) -> Call:
        key = str(len(self._calls))
        self._calls[key] = fn
        return functools.partial(loguru.logger.info, key)

    def close(self) -> None:
        loguru.logger.remove(self._sink)


class Offload(Peer):
    name = "offload"
    package = "offload"
    available = hasattr(offload, "offload")

    def __init__(self, workers: int = 1, name: str = "bench", **settings: Any) -> None:
        super().__init__(workers)
        self._queue = name
        # maxsize is the default one, said because the last user of this queue may have set another.
        offload.configure(name, **{"workers": workers, "maxsize": 10_000, **settings})

    def bind(self, fn: Call) -> Call:
        call: Call = offload.offload(fn, queue=self._queue)
        return call

    def close(self) -> None:
        offload.queue(self._queue).shutdown()


ALL: tuple[type[Peer], ...] = (
    Floor,
    Offload,
    QueueQueue,
    Executor,
    MultiprocessingPool,
    Pebble,
    Background,
    LoggingQueue,
    Sentry,
    Loguru,
)
PEERS = tuple(peer for peer in ALL if peer.available)
