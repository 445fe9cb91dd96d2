"""A call comes in: accepted, blocked, dropped, refused, or run on the spot."""

import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from types import CodeType, FrameType
from typing import Any

from offload import _exit
from offload._core import Core
from offload._errors import ConfigurationError, OffloadError, QueueClosed, QueueFull
from offload._exit import PROCESS_POOLS
from offload._monitor import Reentered, section
from offload._policy import Verdict
from offload._process import importing_script
from offload._run import make_up, run_here
from offload._task import PENDING, Task
from offload._ticket import Ticket, runs_at_once, say_once

monotonic = time.monotonic


def place_of(frame: FrameType | None) -> tuple[CodeType | None, int]:
    """Where a frame is just now, as a Task keeps it: the frame itself would keep its locals alive."""
    return (None, 0) if frame is None else (frame.f_code, frame.f_lasti)


def offer(
    core: Core,
    name: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    code: CodeType | None,
    lasti: int,
    key: object = None,
) -> Task[Any]:
    """Make a Task of a call and hand it to the queue. The hot path: what is special about a queue or a call is dealt with in `_consider`.

    It is in no section (see _line): the append is the one step that accepts the call. What it looked at before may have changed by then, so it looks
    again: at the crew, which may need to be roused, and at `limit`. After the append only a wake-up can be lost to a KeyboardInterrupt, not the task:
    it is in the queue (then the call is wholly accepted) or not (then it wholly is not). The wake-up is made up for on the way out.
    """
    if not core.mark[0]:  # a fork, perhaps one that ran no at-fork hooks
        _exit.check_process()
        core = core.successor()
    if PROCESS_POOLS in _exit.to_hook:
        _exit.ensure_hooks()
    crew = core.crew
    try:
        # A worker's way here takes longer than all that follows. If it is faster all the same, it finds nothing and parks again, or ends, and a look
        # after the append finds that. Where there may be others, that look would find one of them idle and wake it as well, so it does it alone.
        if crew.idle and crew.largest == 1 and core.running < core.capacity:
            crew.wake_one()
        task: Task[Any] = Task()
        task._owner = core
        task._name = name
        task._fn = fn
        task._args = args
        task._kwargs = kwargs or None
        task._context = (copy_context() or None) if core.context else None  # an empty one need not be kept
        task._code = code
        task._lasti = lasti
        task._since = monotonic()
        task._state = PENDING
        task._watched = None
        line = core.line
        if key is None and len(line.arrivals) < core.limit and not line.front:
            line.arrivals.append(task)
            if not (crew.idle or crew.size < crew.largest or core.limit < 0 or core.monitor.chores) or _arrived(core, task):
                return task
    except BaseException:  # an interrupt
        _recover(core)
        raise
    _consider(core, task, key)
    return task


def _arrived(core: Core, task: Task[Any]) -> bool:
    """See to it that a task which was just appended will run. Returns False if it is out of the line again."""
    if core.limit >= 0 and core.running < core.capacity and not core.monitor.chores and core.crew.wake_one():
        return True
    try:
        return core.arrived(task)
    except Reentered:  # this call has interrupted a section on its own thread
        core.monitor.late.append(core.rouse)
        return True


def _recover(core: Core) -> None:
    try:
        core.nudge()
    except Reentered:
        core.monitor.late.append(core.make_good)


class _Late:
    """A call that interrupted offload on its own thread: accepted whatever the policy, for nobody is left to be told no."""

    __slots__ = ("core", "key", "task", "tried")

    def __init__(self, core: Core, task: Task[Any], key: object) -> None:
        self.core = core
        self.task = task
        self.key = key
        self.tried = False

    def __call__(self) -> None:
        """Take it in. Inside a section. A second time, if an interrupt has stopped the first: it may or may not be in the line already."""
        core, task = self.core, self.task
        again, self.tried = self.tried, True
        if again and (task._state is not PENDING or task in core.line):
            core.rouse()
        elif runs_at_once(core) or core.closed:
            core.start_here(task)
            core.monitor.chores.append(partial(_run_late, core, task))
        else:
            core.monitor.live[core] = None
            core.refresh()
            older = core.enqueue(task, self.key)
            if older is not None:
                core.monitor.chores.append(older._announce)


def _run_late(core: Core, task: Task[Any]) -> None:
    if not task._opened:
        run_here(core, task)
    else:
        make_up(core, task, None)


def _consider(core: Core, task: Task[Any], key: object) -> None:
    """The slow path: whatever is not just one more task for a queue with room."""
    monitor = core.monitor
    if monitor.entered and monitor.lock._is_owned():  # type: ignore[attr-defined]  # this call has interrupted a section on its own thread
        monitor.late.append(_Late(core, task, key))
        return
    try:
        if key is None and _join(core, task):
            return
    except BaseException:  # an interrupt
        _recover(core)
        raise
    _prepare(core, task)
    ticket = Ticket(core, task, key)
    try:
        verdict = ticket.admit()
        if verdict is Verdict.BLOCK:
            verdict = ticket.wait()
        if verdict is Verdict.RUN_HERE:
            run_here(core, task)
    except BaseException as error:
        make_up(core, task, error)
        raise
    finally:
        for gone in ticket.gone:
            if gone.cancelled():  # not if an interrupt struck between the note and the deed
                gone._announce()
    _tell(core, task, verdict)


@section
def _join(core: Core, task: Task[Any]) -> bool:
    """Let it wait, if there is room and nothing special about the queue: it may only be nearly full."""
    if core.limit < 0 or len(core.line) >= core.bound:
        return False
    core.enqueue(task, None)
    return True


def _prepare(core: Core, task: Task[Any]) -> None:
    """What a queue's first call does, and what an observed one does."""
    for observer in core.monitor.observers:
        observer.called(task)
    if core.limit < 0 and not runs_at_once(core):
        if core.handler is not None and importing_script():
            raise _endless(core)
        _exit.ensure_hooks()
        if not runs_at_once(core):
            core.open()


def _tell(core: Core, task: Task[Any], verdict: Verdict) -> None:
    """Raise, or say, what a full or closed queue has done with the call."""
    if verdict is Verdict.REFUSE:
        for observer in core.monitor.observers:
            observer.refused(task)
        raise _refusal(core, task)
    for observer in core.monitor.observers:
        observer.accepted(task)
    if verdict in (Verdict.DROP_NEWEST, Verdict.DROP_OLDEST):
        say_once(core, "dropped calls: it is full (maxsize=%s, on_full=%r). Raise maxsize or workers, or set on_full")


def _endless(core: Core) -> Exception:
    return OffloadError(
        f"queue {core.name!r} was called while this process imports the program's script, as its executor's processes do when they start: "
        'this one would start others, which import it too, without end. Put what the script does below `if __name__ == "__main__":`'
    )


def _refusal(core: Core, task: Task[Any]) -> Exception:
    if core.closed:
        return QueueClosed(
            f"queue {core.name!r} was shut down and takes no more calls: {task.name}, called at {task.caller}, was not accepted; "
            f"configure({core.name!r}) opens a fresh one"
        )
    if core.refusal is not None:
        return ConfigurationError(core.refusal)
    return QueueFull(
        f"queue {core.name!r} is full (maxsize={core.settings.maxsize}, on_full='raise'): {task.name}, called at {task.caller}, was not accepted; "
        "raise maxsize or workers, or choose another on_full"
    )
