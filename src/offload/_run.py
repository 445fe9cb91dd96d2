"""How one task that was started is run: on a worker, or in place on whatever thread has to."""

import threading
from collections.abc import Callable
from contextvars import Context
from types import CoroutineType
from typing import Any

from offload import _exit, _loop
from offload._core import Core
from offload._ending import complete, fail, without_first_frame
from offload._monitor import section
from offload._standstill import standing_still
from offload._task import CANCELLED_AND_NOTIFIED, RUNNING, Task


def perform(core: Core, task: Task[Any], handler: Callable[..., bool] | None, *, in_place: bool = False) -> Task[Any] | None:
    """Run a started task. Returns it if it succeeded and is yet to be ended; None if it has been, or was handed over.

    The process is looked at after the call: where a task forks, its child comes back here too, and must not go on as a worker.
    """
    fn = task._fn  # one by one: four at once are a tuple, made and taken apart
    args = task._args
    kwargs = task._kwargs
    context = task._context or Context()
    task._fn = task._args = task._kwargs = task._context = None  # type: ignore[assignment]  # as `_let_go` does
    try:
        if handler is not None:
            return task if handler(core, task, fn, args, kwargs or {}, context) else None
        if kwargs is not None:
            result = context.run(fn, *args, **kwargs)
        elif not args:  # written out for the most common numbers of arguments: `*args` costs more than the call
            result = context.run(fn)
        elif len(args) == 1:
            result = context.run(fn, args[0])
        elif len(args) == 2:
            result = context.run(fn, args[0], args[1])
        else:
            result = context.run(fn, *args)
    except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt of a task are failures like any other
        if not core.mark[0]:
            _exit.end_forked_task(error)
        fn = args = kwargs = context = None  # type: ignore[assignment]  # the failure's frames lead back to this one, and would keep them
        fail(core, task, without_first_frame(error))
        return None
    if not core.mark[0]:
        _exit.end_forked_task(None)
    if result is not None and type(result) is CoroutineType:
        return task if _loop.run(core, task, result, context, in_place=in_place) else None
    task._result = result
    return task


def run_here(core: Core, task: Task[Any], *, in_slot: bool = False) -> None:
    """Run a started task on the calling thread. Raises its SystemExit or KeyboardInterrupt, once they are recorded; nothing else.

    It takes no slot from the workers, who go on beside it, unless it runs `in_slot`: in the place of a worker that could not be started.
    """
    try:
        try:
            entered(core, task, 0 if in_slot else 1)
            with standing_still():
                if perform(core, task, None, in_place=True) is not None:
                    complete(core, task)
        except BaseException as error:  # an interrupt, somewhere in there
            make_up(core, task, error)
            raise
        finally:
            left(core, task)
    except BaseException:  # the same, or one on the way into `left`, which bears being called twice
        left(core, task)
        raise
    if isinstance(task._exception, SystemExit | KeyboardInterrupt):
        raise task._exception


def make_up(core: Core, task: Task[Any], error: BaseException | None) -> None:
    """An interrupt struck a thread that takes a task in, or runs it in place, somewhere in offload itself: bring to an end what it left half done.

    Started but not begun, the task was never accepted. Begun, it has ended, with its outcome if that was set, or with the interrupt. Waiting, it
    needs a worker.
    """
    _make_up(core, task, error)
    if task._watched:
        with task._condition:
            task._condition.notify_all()


@section
def _make_up(core: Core, task: Task[Any], error: BaseException | None) -> None:
    if task._state is RUNNING and not task._opened and task in core.elsewhere:  # else a worker has claimed it just now
        task._state, core.running = CANCELLED_AND_NOTIFIED, core.running - 1
        del core.elsewhere[task]
    elif task._state is RUNNING and (core, task) in core.monitor.inside.get(threading.get_ident(), ()):  # else a worker has it by now
        if task._exception is None and not hasattr(task, "_result"):
            task._exception, task._result = error, None
        core.end(task)
    core.finishing.pop(task, None)
    core.notice_idle()
    core.rouse()


@section
def entered(core: Core, task: Task[Any], lent: int = 0) -> None:
    """The calling thread runs a task of this queue, and lends its slot to others."""
    core.elsewhere[task], core.lent = lent, core.lent + lent
    core.refresh()
    core.rouse()
    core.monitor.inside.setdefault(threading.get_ident(), []).append((core, task))


@section
def left(core: Core, task: Task[Any]) -> None:
    """It has run it, or was interrupted on the way in."""
    core.lent, core.elsewhere[task] = core.lent - core.elsewhere.get(task, 0), 0
    del core.elsewhere[task]
    core.refresh()
    core.rouse()
    stack = core.monitor.inside.get(threading.get_ident(), [])
    if (core, task) in stack:
        stack.remove((core, task))
    if not stack:
        core.monitor.inside.pop(threading.get_ident(), None)
