"""How one task that was started is run: on a worker, or in place on whatever thread has to."""

import threading
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from offload import _exit, _loop
from offload._core import Core
from offload._ending import complete, fail, without_first_frame
from offload._monitor import section
from offload._task import Task


def perform(core: Core, task: Task[Any], handler: Callable[..., bool] | None, *, in_place: bool = False) -> bool:
    """Run a started task. Returns True if it succeeded and is yet to be ended; False if it has been, or was handed over.

    The process is looked at after the call: where a task forks, its child comes back here too, and must not go on as a worker.
    """
    fn, args, kwargs, context = task._open()
    try:
        if handler is not None:
            return handler(core, task, fn, args, kwargs or {}, context)
        if kwargs is None:
            result = fn(*args) if context is None else context.run(fn, *args)
        else:
            result = fn(*args, **kwargs) if context is None else context.run(fn, *args, **kwargs)
    except BaseException as error:  # noqa: BLE001  # SystemExit and KeyboardInterrupt of a task are failures like any other
        if not core.mark[0]:
            _exit.end_forked_task(error)
        fn = args = kwargs = context = None  # type: ignore[assignment]  # the failure's frames lead back to this one, and would keep them
        fail(core, task, without_first_frame(error))
        return False
    if not core.mark[0]:
        _exit.end_forked_task(None)
    if type(result) is CoroutineType:
        return _loop.run(core, task, result, context, in_place=in_place)
    task._result = result
    return True


def run_here(core: Core, task: Task[Any], *, in_slot: bool = False) -> None:
    """Run a started task on the calling thread. Raises its SystemExit or KeyboardInterrupt, once they are recorded; nothing else.

    It takes no slot from the workers, who go on beside it, unless it runs `in_slot`: in the place of a worker that could not be started.
    """
    lent = 0 if in_slot else 1
    entered(core, task, lent)
    try:
        if perform(core, task, None, in_place=True):
            complete(core, task)
    finally:
        left(core, task, lent)
    if isinstance(task._exception, SystemExit | KeyboardInterrupt):
        raise task._exception


@section
def entered(core: Core, task: Task[Any], lent: int = 0) -> None:
    """The calling thread runs a task of this queue, and lends its slot to others."""
    core.lend(lent)
    core.elsewhere[task] = None
    core.monitor.inside.setdefault(threading.get_ident(), []).append(core)


@section
def left(core: Core, task: Task[Any], lent: int = 0) -> None:
    """It has run it."""
    core.lend(-lent)
    core.elsewhere.pop(task, None)
    stack = core.monitor.inside[threading.get_ident()]
    stack.remove(core)
    if not stack:
        del core.monitor.inside[threading.get_ident()]
