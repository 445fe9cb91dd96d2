"""Tasks run on an executor: any ``concurrent.futures.Executor`` that is handed in, or that a callable makes.

1. The queue's one worker thread hands the tasks over, at most `workers` at once. Whatever waits behind them waits in the
   queue, where it can be cancelled, counted and bounded, and where a pool that breaks can't lose it.
2. What has ended comes back over a thread of its own. The thread on which an executor ends its futures is the executor's: a
   process pool's manager, Dask's event loop. An ``on_error`` or a callback that takes its time must not stop those.
3. An executor that a callable has made lives as long as the worker thread, so until the queue has been idle for
   ``idle_timeout``, is shut down, or the program leaves. The worker ends only when nothing runs (see `_worker`). One that was
   handed in is its owner's to close.
4. `executor` and `results` are taken away only in a section that finds nothing unfinished, and used only while a task runs.
"""

import contextlib
import functools
import inspect
import os
import pickle
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextvars import Context
from typing import Any

from offload import _exit
from offload._call import Call, LocalOutcome
from offload._core import Core
from offload._ending import complete, fail
from offload._errors import OffloadError
from offload._monitor import section
from offload._payload import CLOUD, NATIVE, PLAIN, Outcome, cannot_travel, pack
from offload._reference import script_path
from offload._run import entered, left
from offload._settings import is_executor, refuse
from offload._task import Task
from offload._threads import BackgroundThread

SPAWNING = "concurrent.futures.process", "concurrent.futures.interpreter"
CLOUD_LIBRARIES = "loky", "distributed"
PLAIN_KINDS = "ProcessPoolExecutor", "InterpreterPoolExecutor"


class Handed:
    """Runs the tasks of a queue on an executor."""

    def __init__(self, source: Executor | Callable[[], Executor]) -> None:
        self.source = source
        self.makes = not is_executor(source)
        self.executor: Any = None
        self.results: _Results | None = None
        self.size = 0
        self._new = False
        self._script = script_path()
        self._gone = threading.Event()
        self._gone.set()

    def __call__(self, core: Core, task: Task[Any], fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Context | None) -> bool:
        """Hand a task over. Returns False; True if it was run here, because the program leaves and the executor has closed."""
        call = Call(core, task, fn, args, kwargs, context)
        core.hand_over(task)
        try:
            executor, future = self._submit(core, task, call)
        except Exception:
            if not core.monitor.leaving:
                raise
            return call.run_here()
        if self._new:  # some, like loky, register their own exit hooks at their first task
            self._new = False
            _exit.go_first()
        future.add_done_callback(functools.partial(self._ended, core, task, executor, self.results))  # type: ignore[arg-type]
        return False

    # -- the way there ----------------------------------------------------------------------------------------------

    def _submit(self, core: Core, task: Task[Any], call: Call) -> tuple[Any, Future[Any]]:
        for attempts_left in (self.makes, False):
            executor = self._current(core)
            way = _way_of(executor)
            portable = call if way == NATIVE else pack(task.name, call.fn, call.args, call.kwargs, way, self._script)
            try:
                future = executor.submit(portable)
            except BrokenExecutor as error:  # it broke before it got this task
                self._discard(core, executor)
                if not attempts_left:
                    raise self._broken(core, task, error, "was not run") from error
            except Exception as error:
                if portable is call and not call.take():  # it runs all the same
                    return executor, call.ended
                raise _not_taken(core, task, executor, error) from error
            else:
                if not callable(getattr(future, "add_done_callback", None)):
                    raise OffloadError(f"{task.name}: submit() of {_kind(executor)} returned a {type(future).__name__}, which is no Future")
                return executor, future
        raise AssertionError("the second attempt returns or raises")  # pragma: no cover

    def _current(self, core: Core) -> Any:
        """The executor, made if there is none. On the worker thread, while it has a task: nobody takes it away meanwhile."""
        workers = core.settings.workers
        if self.makes and self.executor is not None and self.size not in (0, workers):
            self._discard(core, self.executor)  # its size was what `workers` was then
        if self.executor is None:
            self.executor, self.size = self._make(core, workers) if self.makes else (self.source, 0)
            self._gone.clear()
            if self.results is None:
                self.results = _Results(core)
            self._new = True
            if core.monitor.leaving:
                self._warm_up()
        return self.executor

    def _warm_up(self) -> None:
        """Let the first submit be of no task: late in a program's life loky's raises, for want of an exit hook, and runs it nevertheless."""
        with contextlib.suppress(Exception):
            self.executor.submit(int)

    def _make(self, core: Core, workers: int) -> tuple[Any, int]:
        options = _options(self.source, workers)
        try:
            executor = self.source(**options)  # type: ignore[operator]
        except Exception as error:
            error.add_note(f"raised by the callable that makes the executor of queue {core.name!r}")
            raise
        if not is_executor(executor):
            raise refuse(
                f"queue {core.name!r}", "executor", self.source, f"it was called to make a concurrent.futures.Executor, and returned {executor!r}"
            )
        return executor, options.get("max_workers", 0)

    # -- the way back -----------------------------------------------------------------------------------------------

    def _ended(self, core: Core, task: Task[Any], executor: Any, results: "_Results", future: Future[Any]) -> None:
        """The executor has done with a task: on whatever thread it tells that."""
        results.bring(functools.partial(self._end, core, task, executor, future))

    def _end(self, core: Core, task: Task[Any], executor: Any, future: Future[Any]) -> None:
        result, error = self._outcome(core, task, executor, future)
        entered(core, task)  # so that what its callbacks do counts as done by a task of this queue, which must not wait for itself
        try:
            if error is None:
                task._result = result
                complete(core, task, handed_over=True)
            else:
                fail(core, task, error, handed_over=True)
        finally:
            left(core, task)

    def _outcome(self, core: Core, task: Task[Any], executor: Any, future: Future[Any]) -> tuple[Any, BaseException | None]:
        """What became of it. What an executor itself raises is told apart from what the task raised: that comes in an Outcome."""
        try:
            if not future.cancelled():
                outcome = future.result()
                return outcome.open(task.name) if isinstance(outcome, Outcome | LocalOutcome) else (outcome, None)
            error: BaseException = OffloadError(
                f"{task.name} was lost: {_kind(executor)} has cancelled it; was it shut down, or is its cluster gone?"
            )
        except BrokenExecutor as broken:
            self._discard(core, executor)
            error = _because(self._broken(core, task, broken, "was lost"), broken)
        except pickle.PicklingError as unpicklable:
            error = _because(pickle.PicklingError(cannot_travel(task.name, unpicklable)), unpicklable)
        except BaseException as own:  # noqa: BLE001  # a task that nobody ends would be waited for without end
            error = _because(OffloadError(f"{task.name} was lost by {_kind(executor)}: {type(own).__name__}: {own}"), own)
        return None, error

    def _broken(self, core: Core, task: Task[Any], error: BaseException, fate: str) -> BrokenExecutor:
        advice = "What waits gets a new one" if self.makes else f"Nothing runs until configure({core.name!r}, executor=...) hands in a new one"
        return BrokenExecutor(f"{task.name} {fate}: its executor broke ({type(error).__name__}: {error}). {advice}")

    # -- its life ---------------------------------------------------------------------------------------------------

    def worker_ends(self, core: Core) -> None:
        """The worker thread ends: what it has made ends with it. Blocks until it has."""
        executor, results = _take_unused(core, self)
        if results is not None:
            results.end()
            self._shut_down(core, executor, wait=True)
            self._gone.set()

    def close(self, core: Core) -> None:
        """Let go of the executor: the queue is set to something else, and no task runs. Does not block."""
        executor, results = self._take()
        if results is not None:
            results.end(wait=False)
            self._shut_down(core, executor, wait=False)
            self._gone.set()

    def wait(self, timeout: float | None) -> bool:
        """Block until an executor that is being shut down has ended. Returns False after `timeout` seconds."""
        return self._gone.wait(timeout)

    def abandon(self) -> None:
        """An executor keeps its own exit rules."""

    def _take(self) -> "tuple[Any, _Results | None]":
        taken = self.executor, self.results
        self.executor = self.results = None
        return taken

    def _discard(self, core: Core, executor: Any) -> None:
        """No more of an executor that broke, or has the wrong size. Another is made for the next task."""
        if self.makes and _swap_out(core, self, executor):
            self._shut_down(core, executor, wait=False)

    def _shut_down(self, core: Core, executor: Any, *, wait: bool) -> None:
        if self.makes and executor is not None:
            try:
                executor.shutdown(wait=wait)
            except Exception:
                core.logger.exception("queue %r could not shut down the executor that it made", core.path)


def foreign(name: str, executor: Any, pid: int) -> str:
    """Why a forked child's queue takes no calls."""
    return (
        f"queue {name!r}: its executor ({_kind(executor)}) belongs to process {pid}, of which this one ({os.getpid()}) is a fork, and does not "
        f"work here; configure({name!r}, executor=...) with one that is made here, or a callable that makes one"
    )


class _Results:
    """The thread on which the tasks end that an executor has run."""

    def __init__(self, core: Core) -> None:
        self._ended: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: BackgroundThread | None = BackgroundThread(f"{core.label}-results", self._main)
        try:
            self._thread.start()
        except RuntimeError:  # too late, or too many: they end on the executor's thread
            self._thread = None

    def bring(self, end: Callable[[], None]) -> None:
        if self._thread is None:
            end()
        else:
            self._ended.put(end)

    def end(self, *, wait: bool = True) -> None:
        """No more will come."""
        self._ended.put(None)
        if wait and self._thread is not None:
            self._thread.join()

    def _main(self) -> None:
        while (end := self._ended.get()) is not None:
            end()
            del end


# -- kinds of executors -----------------------------------------------------------------------------------------------


def _way_of(executor: Any) -> str:
    """Who is to pickle a call for it. Early, where it is certain that it will be pickled and how: see `_payload`."""
    for module, kind in zip(SPAWNING, PLAIN_KINDS, strict=True):
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(executor, getattr(loaded, kind, ())):
            return PLAIN
    if any(kind.__module__.partition(".")[0] in CLOUD_LIBRARIES for kind in type(executor).__mro__):
        return CLOUD
    return NATIVE


def _options(source: Any, workers: int) -> dict[str, Any]:
    """How to call it: a class of executors is told how many workers it needs, and not to fork a program with threads."""
    if not (isinstance(source, type) and issubclass(source, Executor)):
        return {}
    known = inspect.signature(source).parameters
    options: dict[str, Any] = {"max_workers": workers} if "max_workers" in known else {}
    if "mp_context" in known:
        import multiprocessing  # its import costs more than offload's; who makes process pools has paid for it

        # The first that uses the default in whatever way fixes it: a fixed "fork" says nothing of anybody's wishes.
        if (multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]) == "fork":
            options["mp_context"] = multiprocessing.get_context("spawn")
    return options


def _kind(executor: Any) -> str:
    return type(executor).__qualname__


def _not_taken(core: Core, task: Task[Any], executor: Any, error: Exception) -> Exception:
    if isinstance(error, pickle.PicklingError):
        return pickle.PicklingError(cannot_travel(task.name, error))
    return OffloadError(
        f"{task.name} was not run: {_kind(executor)} does not take it ({type(error).__name__}: {error}). If it was shut down, "
        f"flush the queue before that, or hand in another with configure({core.name!r}, executor=...)"
    )


def _because(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


# -- steps that are sections of the queue's monitor -------------------------------------------------------------------


@section
def _take_unused(core: Core, handed: Handed) -> tuple[Any, _Results | None]:
    """Take executor and results away, if no task needs them and no worker is there to."""
    if core.unfinished or core.crew.size:
        return None, None
    return handed._take()


@section
def _swap_out(core: Core, handed: Handed, executor: Any) -> bool:
    """Take this executor away, if it still is the one. Returns whether it was."""
    if handed.executor is not executor:
        return False
    handed.executor = None
    return True
