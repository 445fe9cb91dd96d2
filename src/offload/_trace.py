"""A timeline of calls, waits and runs: `trace(path)`, and ``OFFLOAD_TRACE=path`` for a whole program.

Off, it costs nothing: no hot path knows of it. On, each call takes the slow path, where an observer hears of it, and the Task's first callback tells
when and where it ended. (When it started stands on the Task.) A call then costs some twenty microseconds more, and 0.4 KB, 200 MB at most.
"""

import atexit
import collections
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from offload import _observing
from offload._task import RUNNING, Task
from offload._timeline import Call, chrome, lay_out, page

KEPT = 500_000  # calls; of more than that, the newest
VARIABLE = "OFFLOAD_TRACE"
FIRST = "OFFLOAD_TRACE_PID"  # the process that the path belongs to; others that inherit it write beside it


@contextlib.contextmanager
def trace(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within this context record what becomes of each call, of every registry and thread; on leaving write it to ``path``.

    The file is in Chrome's trace event format, which ``ui.perfetto.dev`` opens; if the path ends in ``.html``, it is a page that draws the same
    timeline by itself. What has not ended on leaving is drawn as far as it came: `flush` first to see it whole. Never the arguments' values. A forked
    child that leaves this context writes a file of its own, with its process id in the name. ``OFFLOAD_TRACE=path`` in the environment does this for
    the whole program, drain at exit included. Raises FileNotFoundError if the path's directory does not exist. Entering does not block; leaving
    writes the file.
    """
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"trace({os.fspath(path)!r}): there is no directory {directory!r}")
    recorder = Recorder(os.fspath(path), os.getpid())
    _observing.add(recorder)
    try:
        yield
    finally:
        _observing.remove(recorder)
        recorder.write()


def trace_program(path: str) -> None:
    """Do what ``OFFLOAD_TRACE`` asks for. Once, when offload is imported: before any hook of its own, so that its exit has drained."""
    owner = os.environ.setdefault(FIRST, str(os.getpid()))
    recorder = Recorder(os.path.abspath(path), int(owner) if owner.isdigit() else 0)
    _observing.add(recorder)
    atexit.register(_finish, recorder)


def _finish(recorder: "Recorder") -> None:
    _observing.remove(recorder)
    try:
        recorder.write()
    except OSError as error:
        logging.getLogger("offload").warning("%s=%r: no timeline could be written: %s", VARIABLE, recorder.path, error)


class Recorder(_observing.Observer):
    """The calls of one process."""

    def __init__(self, path: str, owner: int) -> None:
        self.path = path
        self.owner = owner
        self._begin()

    def _begin(self) -> None:
        self.pid = os.getpid()
        self.begin = time.monotonic()
        self.total = 0
        self._over: collections.deque[Call] = collections.deque(maxlen=KEPT)
        self._open: dict[Task[Any], Call] = {}

    # -- what an observer hears --------------------------------------------------------------------------------------

    def called(self, task: Task[Any]) -> None:
        """A call comes in."""
        self._check_process()
        self.total += 1
        core: Any = task._owner
        self._open[task] = Call(task.name, core.label, task._code, task._lasti, _thread(), time.monotonic())
        task.add_done_callback(self._ended)

    def accepted(self, task: Task[Any]) -> None:
        """Its caller goes on."""
        call = self._open.get(task)
        if call is not None and call.returned is None:
            call.queued = max(call.called, task._since)  # set when it was made, before `called`; when there was room for it; and when it started
            call.returned = time.monotonic()
            if call.ended is not None:
                self._open.pop(task, None)

    def refused(self, task: Task[Any]) -> None:
        """Its caller gets an exception."""
        call = self._open.pop(task, None)
        if call is not None:
            call.returned = call.ended = time.monotonic()
            call.outcome = "refused"
            self._over.append(call)

    def _ended(self, task: Any) -> None:
        """It has ended, or will not run. On whatever thread that happens."""
        call = self._open.get(task)
        if call is not None:
            _ends(call, task, _thread())
            self._over.append(call)
            if call.returned is not None:  # or `accepted` takes it out: each sets its own mark before it looks for the other's
                self._open.pop(task, None)

    def _check_process(self) -> None:
        if os.getpid() != self.pid:  # what the parent has recorded, the parent writes
            self._begin()

    # -- writing -----------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write what there is; nothing if this is a child that has offloaded nothing. Raises OSError."""
        self._check_process()
        if self.pid != self.owner and not self.total:
            return
        end = time.monotonic()
        calls = list(self._over)
        for task, call in list(self._open.items()):
            if call.ended is not None:
                continue  # its caller is about to go on
            if task.done():
                _ends(call, task, None)  # its callbacks are about to run
            elif task._state is RUNNING:
                call.started, call.outcome = task._since, "running"
            calls.append(call)
        calls.sort(key=lambda call: call.called)
        timeline = lay_out(os.path.basename(sys.argv[0] if sys.argv else "") or "python", calls, self.begin, end, max(0, self.total - len(calls)))
        stem, suffix = os.path.splitext(self.path)
        path = self.path if self.pid == self.owner else f"{stem}.{os.getpid()}{suffix}"
        _replace(path, (page if suffix.lower() in (".html", ".htm") else chrome)(timeline))


def _thread() -> tuple[int, str]:
    return threading.get_ident(), threading.current_thread().name


def _ends(call: Call, task: Task[Any], runner: tuple[int, str] | None) -> None:
    call.ended = time.monotonic()
    if task.cancelled():
        call.outcome = "cancelled"
        return
    call.started, call.runner = task._since, runner
    error = task._exception
    call.outcome = "succeeded" if error is None else f"failed: {type(error).__name__}"


def _replace(path: str, content: bytes) -> None:
    """Write a file as a whole or not at all: what opens it must not see half of it."""
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, "wb") as file:
            file.write(content)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
