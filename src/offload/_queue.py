"""A named queue, as its users hold it: a standard executor whose tasks run in the background."""

import logging
import sys
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, _base
from types import FrameType
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar, overload

from offload import _drain, _environ, _exit, _monitor, _waiting
from offload._admission import offer, place_of
from offload._core import Core
from offload._run import run_here
from offload._settings import ExecutorSetting, Settings, is_executor, refuse
from offload._task import Task
from offload._worker import start_worker

if TYPE_CHECKING:
    from offload._reading import read  # noqa: TC004  # see import_counts
    from offload._stats import QueueStats

P = ParamSpec("P")
R = TypeVar("R")

_all: "weakref.WeakSet[Queue]" = weakref.WeakSet()


def import_counts() -> None:
    """Import what counts are read with: when a function is decorated or a queue is made.

    At the import of offload it would be too dear for who never uses it. In `stats` itself it would be too late: for a signal handler that strikes in
    the middle of this very import, and for a ``__del__`` at the interpreter's end, when nothing can be imported.
    """
    global QueueStats, read
    from offload._reading import read
    from offload._stats import QueueStats


class Queue(Executor):
    """A named queue. ``offload.queue(name)`` looks one up; nobody else makes one.

    It is a ``concurrent.futures.Executor``: hand it to ``loop.run_in_executor`` or whatever takes one. Leaving its ``with`` block shuts it down.
    """

    def __init__(self, name: str, label: str, logger: logging.Logger, settings: Settings, exit_timeout: float | None) -> None:
        self._name = name
        self._label = label
        self._logger = logger
        self._exit_timeout = exit_timeout
        self._core = self._new_core(settings)
        self._core.inline = _environ.inline()
        _all.add(self)

    def _new_core(self, settings: Settings) -> Core:
        core = Core(self._name, self._label, self._logger, settings, start_worker, run_here)
        core.exit_timeout = self._exit_timeout
        core.handler = _handler(settings.executor)
        core.refresh()
        me = weakref.ref(self)
        core.successor = lambda: me()._core  # type: ignore[union-attr]  # asked for by who holds the queue
        return core

    def _here(self) -> Core:
        """The core of this process: also in a child whose fork ran no at-fork hooks."""
        _exit.check_process()
        return self._core

    def _configure(self, settings: Settings, where: str) -> None:
        core, old = self._here(), self._here().handler
        executor = settings.executor
        inner: Any = executor
        while isinstance(inner, Queue):
            if inner is self:
                raise refuse(where, "executor", executor, "a queue can't run its tasks on itself")
            inner = inner.settings.executor
        core.inline = _environ.inline()
        if not core.configure(settings, old if executor is core.settings.executor else _handler(executor)):
            raise refuse(where, "executor", executor, "it can't change while tasks wait or run; flush the queue first")
        if old is not None and old is not core.handler:
            old.close(core)

    def _renew(self) -> None:
        """Start afresh in a forked child, with the same settings. The parent's core, locked or not, is never touched."""
        old = self._core
        self._core = self._new_core(old.settings)
        self._core.closed, self._core.inline = old.closed, old.inline
        if old.refusal is not None or is_executor(old.settings.executor):
            from offload import _executors

            self._core.handler, self._core.refusal = None, _executors.foreign(self._name, old.settings.executor, old.pid)
            self._core.refresh()

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @property
    def settings(self) -> Settings:
        """What it is set to now; change it with ``configure``."""
        return self._here().settings

    @overload
    def submit(self, fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs) -> Task[Any]: ...
    @overload
    def submit(self, fn: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> Task[R]: ...
    @overload
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Task[R]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Task[Any]:
        """Run ``fn(*args, **kwargs)`` on this queue. Returns its Task at once, unless the queue is full and blocks its callers.

        Raises QueueClosed after `shutdown`, QueueFull as ``on_full`` says.
        """
        return offer(self._core, name_of(fn), fn, args, kwargs, *place_of(_calling_frame()))

    def flush(self, timeout: float | None = None, raise_errors: bool = False) -> None:
        """Block until this queue is idle: nothing accepted waits or runs, tasks added meanwhile included.

        ``timeout`` is in seconds, None for ever. Raises FlushTimeout; RuntimeError at once in a task of this queue; with ``raise_errors`` one
        ExceptionGroup of the failures since the last such flush.
        """
        _waiting.flush(self._cores, timeout, raise_errors)

    def stats(self) -> "QueueStats":
        """Its counts at this moment. Does not block."""
        return read(self._here())

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Refuse calls from now on (QueueClosed, for callers that wait for room too); what was accepted still runs.

        With ``wait`` blocks until it has, and the threads have ended; with ``cancel_futures`` what waits is cancelled. Raises RuntimeError if a task
        of this queue asks to wait for it.
        """
        core = self._here()
        if wait and core.runs_here():
            raise RuntimeError(f"shutdown(wait=True) from a task of queue {self._name!r} would wait for that task itself; use wait=False")
        core.close()
        while cancel_futures and (gone := core.cancel_waiting()):
            for task in gone:
                task._announce()
        if wait:
            _waiting.wait_until_idle(self._cores, lambda _: None)
            for thread in list(core.crew.threads):
                thread.join()

    def _cores(self) -> tuple[Core]:
        return (self._here(),)

    def __repr__(self) -> str:
        stats = self.stats()
        closed = ", shut down" if self._core.closed else ""
        return f"<Queue {self._name!r}: {stats.waiting} waiting, {stats.running} running, {stats.workers} of {self.settings.workers} workers{closed}>"


def _handler(executor: ExecutorSetting) -> Any:
    """What runs the tasks elsewhere: see `_executors` and `_processes`. None if their own threads do."""
    if executor is None:
        return None
    if executor == "processes":
        from offload import _processes  # with pickle and what else it takes it costs a fifth of offload's import

        return _processes.Processes()
    from offload import _executors

    return _executors.Handed(executor)


def name_of(fn: Callable[..., Any]) -> str:
    """``"package.module.function"`` of any callable."""
    while not hasattr(fn, "__qualname__") and hasattr(fn, "func"):  # a partial
        fn = fn.func
    named: Any = fn if hasattr(fn, "__qualname__") else type(fn)
    module = getattr(named, "__module__", None)
    return f"{module}.{named.__qualname__}" if module else str(named.__qualname__)


def _calling_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename == _base.__file__:  # Executor.map stands between
        frame = frame.f_back
    return frame


def _renew_all(unattended: bool) -> None:
    _monitor.renew(_monitor.OPEN).unattended = unattended
    for queue in list(_all):
        queue._renew()


def _finish(leaving: _exit.Leaving | None) -> None:
    _drain.finish(leaving)
    for queue in list(_all):
        queue._core.monitor = _monitor.current
        queue._core.limit = -1


_exit.hand_over(_renew_all, _drain.drain, _finish)
