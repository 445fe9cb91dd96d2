"""How a task that has run is ended: its failure is told, who waits for it is woken, its callbacks run."""

from typing import Any

from offload._core import Core
from offload._failures import log_error, report
from offload._monitor import section
from offload._task import Task


def fail(core: Core, task: Task[Any], error: BaseException, *, handed_over: bool = False) -> None:
    """End a task that raised. on_error hears of it before anybody who waits, so that whoever has waited finds it told and counted."""
    task._exception, task._result = error, None  # a Future has both, and others read them
    report(core, task, error)
    complete(core, task, handed_over=handed_over)


def complete(core: Core, task: Task[Any], *, handed_over: bool = False) -> None:
    """End a task whose outcome is set. Never raises.

    The last step is made with the task's condition held: `concurrent.futures.wait` reads the states of its futures and then hangs its waiters on
    them, holding all their conditions, and would miscount if one ended between the two.
    """
    with task._condition:
        _finished(core, task)
        for waiter in task._waiters:
            (waiter.add_result if task._exception is None else waiter.add_exception)(task)
        task._condition.notify_all()
    if handed_over:  # its slot is free now; a worker of the queue's own threads looks for the next task by itself
        core.nudge()
    try:
        task._invoke_callbacks()  # type: ignore[attr-defined]
    except BaseException as error:  # noqa: BLE001  # concurrent.futures logs an Exception of a callback; the rest would end this thread
        log_error(core, error, "a callback of %s failed (offloaded at %s)", task.name, task.caller)
    _settled(core, task)


def without_first_frame(error: BaseException) -> BaseException:
    """An exception as its task raised it, without offload's own frame (and all that its locals would keep alive)."""
    traceback = error.__traceback__
    return error.with_traceback(traceback.tb_next if traceback else None)


@section
def _finished(core: Core, task: Task[Any]) -> None:
    """The last step but one: its condition is held, its callbacks are still to run."""
    core.finishing[task] = None
    core.end(task)


@section
def _settled(core: Core, task: Task[Any]) -> None:
    """The very last step: its callbacks have run."""
    core.finishing.pop(task, None)
    if task._loop is not None:
        task._loop = None
    if not core.elsewhere.get(task, 1):  # else `left` sees to it
        del core.elsewhere[task]
    if core.reporting:
        core.reporting.pop(task, None)
    core.notice_idle()
