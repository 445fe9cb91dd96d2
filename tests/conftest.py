"""What the whole suite shares: a registry for each test, a gate, and guards against leaks and hangs.

- `registry`: a `Registry` of the test's own, flushed and shut down after it.
- `default_registry`: the module's functions, on a default registry that is swapped in for the test alone.
- `gate(queue)`: holds one worker of a queue on an Event, so that everything behind it provably waits.
- Every test that leaves a thread behind fails, and a test that hangs dumps all stacks and ends the run.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType, TracebackType

import pytest

import offload
from offload import Queue, Registry, testing

WAIT = 10.0
"""Seconds that a wait may last before its test fails; no test needs them to pass."""

HANG = 120.0
"""Seconds after which a single test counts as hung."""

GRACE = 2.0
"""Seconds that a thread has to end after its test, which has shut down whatever owned it."""

_stderr: int | None = None


def pytest_configure(config: pytest.Config) -> None:
    # Capturing is suspended here, so this is the real stderr, which the dump of a hung test must reach.
    global _stderr
    _stderr = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)


@pytest.fixture(autouse=True)
def hang_guard() -> Iterator[None]:
    """Dump every thread's stack and end the run when one test hangs."""
    assert _stderr is not None
    faulthandler.dump_traceback_later(HANG, exit=True, file=_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the developer has set for offload in the environment must not reach the tests."""
    for variable in [name for name in os.environ if name.startswith("OFFLOAD_")]:
        monkeypatch.delenv(variable)


@pytest.fixture(autouse=True)
def thread_guard(hang_guard: None) -> Iterator[None]:
    """Fail a test that leaks a thread (set up first, it looks when all other fixtures have ended)."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + GRACE
    new = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new:
        thread.join(max(0.0, deadline - time.monotonic()))
    leaked = [thread.name for thread in new if thread.is_alive()]
    if leaked:
        pytest.fail(f"leaked threads: {leaked} (use the fixture `registry` or `default_registry`)", pytrace=False)


@pytest.fixture
def registry(thread_guard: None) -> Iterator[Registry]:
    """A nameless registry of the test's own, drained and shut down when the test has ended."""
    own = Registry()
    yield own
    _close(own)


@pytest.fixture
def make_registry(thread_guard: None) -> Iterator[Callable[..., Registry]]:
    """`Registry(...)`, each one drained and shut down when the test has ended."""
    made: list[Registry] = []

    def make(*args: object, **kwargs: object) -> Registry:
        made.append(Registry(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for own in made:
        _close(own)


@pytest.fixture
def default_registry(thread_guard: None) -> Iterator[ModuleType]:
    """The package `offload`, with a default registry that is new for this test."""
    with testing.isolated():
        yield offload
        offload.flush(timeout=WAIT)
        offload.shutdown()


def refuse_threads(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """From here on no thread of these names can be started, as if there were too many."""
    start = threading.Thread.start

    def start_others(self: threading.Thread) -> None:
        if self.name in names:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_others)


def _close(own: Registry) -> None:
    own.flush(timeout=WAIT)
    own.shutdown()


class Gate:
    """Holds one worker of a queue from its making until `open()`; a context manager opens it on leaving."""

    def __init__(self, queue: Queue) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()
        self.thread: threading.Thread | None = None
        self.task = queue.submit(self._hold)
        if not self._entered.wait(WAIT):
            self.open()
            pytest.fail(f"no worker of {queue.name!r} was free to be held")

    def _hold(self) -> None:
        self.thread = threading.current_thread()
        self._entered.set()
        assert self._opened.wait(HANG), "nobody opened the gate"

    def open(self) -> None:
        self._opened.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.open()


@pytest.fixture
def gate(registry: Registry) -> Iterator[Callable[[Queue | str], Gate]]:
    """`gate(queue)`, or `gate("plots")` for a queue of `registry`: opened, at the latest, after the test.

    It is set up after `registry` and so it is torn down before it, whose flush needs the gates open.
    """
    gates: list[Gate] = []

    def hold(queue: Queue | str) -> Gate:
        gates.append(Gate(registry.queue(queue) if isinstance(queue, str) else queue))
        return gates[-1]

    yield hold
    for held in gates:
        held.open()


@pytest.fixture
def threads(thread_guard: None) -> Callable[[], list[str]]:
    """A function that lists the names of offload's threads that were started since the test began."""
    before = set(threading.enumerate())

    def started() -> list[str]:
        new = set(threading.enumerate()) - before
        return sorted(thread.name for thread in new if thread.name.startswith("offload-"))

    return started


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """A function that lists what was logged at ERROR or above on offload's loggers so far."""

    def logged() -> list[logging.LogRecord]:
        return [r for r in caplog.records if r.name.startswith("offload") and r.levelno >= logging.ERROR]

    return logged
