"""A call comes in: accepted, blocked, dropped, refused, or run on the spot."""

import _thread
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from types import FrameType
from typing import Any

from offload import _exit, _monitor
from offload._core import Core
from offload._errors import ConfigurationError, OffloadError, QueueClosed, QueueFull
from offload._policy import Verdict, decide
from offload._process import importing_script
from offload._run import make_up, run_here
from offload._standstill import standing_still
from offload._task import PENDING, Task

modules, monotonic, new = sys.modules, time.monotonic, object.__new__


def offer(
    core: Core,
    name: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    frame: FrameType | None,
    key: object = None,
) -> Task[Any]:
    """Make a Task of a call and hand it to the queue. The hot path: what is special about a queue or a call is dealt with in `_consider`.

    Between the append and the end of the section only a wake-up can be lost to a KeyboardInterrupt, not the task: it is in the queue (then the call
    is wholly accepted) or not (then it wholly is not). The wake-up is made up for on the way out.
    """
    if not core.mark[0]:  # a fork, perhaps one that ran no at-fork hooks
        _exit.check_process()
        core = core.successor()
    if _exit.PROCESS_POOLS in modules and not _exit.leaving.pools_hooked:  # their exit hook must not run ahead of ours
        _exit.ensure_hooks()
    task: Task[Any] = new(Task)  # and attribute by attribute: a third of the price of an __init__
    task._owner = core
    task._name = name
    task._fn = fn
    task._args = args
    task._kwargs = kwargs or None
    task._context = (copy_context() or None) if core.context else None  # an empty one need not be kept
    if frame is None:
        task._code, task._lasti = None, 0
    else:
        task._code, task._lasti = frame.f_code, frame.f_lasti
    task._since = monotonic()
    monitor = core.monitor
    try:
        with monitor.lock:
            if monitor.entered:
                monitor.late.append(_Late(core, task, key))
                return task
            monitor.entered = True
            try:
                line = core.line
                accepted = key is None and len(line.entries) - line.dead < core.limit
                if accepted:
                    line.entries.append(task)
                    if core.crew.idle or core.crew.size < core.crew.largest:
                        core.rouse()
            finally:
                monitor.entered = False
                if monitor.late:
                    monitor.leave()
        if monitor.chores:
            monitor.tidy()
    except BaseException:  # an interrupt
        core.nudge()
        raise
    if not accepted:
        _consider(core, task, key)
    return task


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
        elif _runs_at_once(core) or core.closed:
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


def _runs_at_once(core: Core) -> bool:
    return core.inline or core.monitor.inline > 0 or core.monitor.phase == _monitor.IN_PLACE


def _consider(core: Core, task: Task[Any], key: object) -> None:
    """The slow path: whatever is not just one more task for a queue with room."""
    _prepare(core, task)
    ticket = _Ticket(core, task, key)
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


def _prepare(core: Core, task: Task[Any]) -> None:
    """What a queue's first call does, and what an observed one does."""
    for observer in core.monitor.observers:
        observer.called(task)
    if core.limit < 0 and not _runs_at_once(core):
        if core.handler is not None and importing_script():
            raise _endless(core)
        _exit.ensure_hooks()
        if not _runs_at_once(core):
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
        _say_once(core, "dropped calls: it is full (maxsize=%s, on_full=%r). Raise maxsize or workers, or set on_full")


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


def _say_once(core: Core, what: str) -> None:
    if what not in core.said:
        core.said.add(what)
        core.logger.warning(f"queue %r {what}", core.name, core.settings.maxsize, core.settings.on_full)


class _Ticket:
    """A call that is being considered, and its place in the line if it has to wait for room.

    Its caller is let go on once, by `enter` or `turn_away`, by whoever takes the ticket out of `core.blocked`.
    """

    __slots__ = ("admitted", "core", "gone", "key", "monitor", "since", "task", "turn")

    def __init__(self, core: Core, task: Task[Any], key: object) -> None:
        self.core = core
        self.monitor = core.monitor
        self.task = task
        self.key = key
        self.since = monotonic()
        self.admitted = False
        self.gone: list[Task[Any]] = []
        self.turn: Any = None

    @_monitor.section
    def admit(self) -> Verdict:
        """Decide on the call and carry the decision out, as far as a section can."""
        core = self.core
        if core.closed or (core.refusal is not None and not _runs_at_once(core)):
            core.rejected += 1
            return Verdict.REFUSE
        if _runs_at_once(core):
            core.start_here(self.task)
            return Verdict.RUN_HERE
        if core.monitor.phase == _monitor.ABANDONING:
            self.gone.append(self.task)
            core.abandoned.append(self.task.name)
            self.task._state, core.cancelled = self.task._struck, core.cancelled + 1
            return Verdict.ACCEPT
        if self.key is not None and self.key in core.line.places:
            return self._enqueue()
        verdict = decide(
            core.settings.on_full,
            waiting=len(core.line),
            maxsize=core.settings.maxsize,
            from_own_task=core.runs_here(),
            inside_offload=threading.get_ident() in core.monitor.waits,
        )
        return _CARRY_OUT[verdict](self)

    def _enqueue(self) -> Verdict:
        older = self.core.enqueue(self.task, self.key)
        if older is not None:
            self.gone.append(older)
        return Verdict.ACCEPT

    def _block(self) -> Verdict:
        self.turn = _thread.allocate_lock()
        self.turn.acquire()
        self.core.blocked.append(self)
        return Verdict.BLOCK

    def _run_here(self) -> Verdict:
        self.core.start_here(self.task)
        return Verdict.RUN_HERE

    def _refuse(self) -> Verdict:
        self.core.rejected += 1
        return Verdict.REFUSE

    def _drop_newest(self) -> Verdict:
        self.gone.append(self.task)
        self.task._state, self.core.dropped = self.task._struck, self.core.dropped + 1
        return Verdict.DROP_NEWEST

    def _drop_oldest(self) -> Verdict:
        core, oldest = self.core, self.core.line.head()
        if oldest is not None:
            self.gone.append(oldest)
            oldest._state, core.line.dead, core.dropped = oldest._struck, core.line.dead + 1, core.dropped + 1
            core.line.tidy(oldest)
        self._enqueue()
        return Verdict.DROP_OLDEST

    def enter(self) -> None:
        """There is room: let the task wait and its caller go on. Inside the section that took the ticket out of the line."""
        now = monotonic()
        self.core.blocked_seconds += now - self.since
        self.task._since = now
        self._enqueue()
        self.admitted = True
        self.turn.release()

    def wait(self) -> Verdict:
        """Block until there is room, the queue is shut down, or a signal's exception comes through.

        The race of a KeyboardInterrupt against the admission: (1) a worker makes room and admits this ticket in a section; (2) the interrupt
        strikes before the caller wakes. `withdraw` finds in a section which came first: admitted, the call is wholly accepted; not, it leaves the
        line.
        """
        core = self.core
        _say_once(core, "blocks its callers: it is full (maxsize=%s, on_full=%r). Raise maxsize or workers, or set on_full")
        _warn_in_event_loop(core)
        try:
            with self.monitor.busy_here(), standing_still():
                self.turn.acquire()
        except BaseException:
            self._withdraw()
            raise
        return Verdict.ACCEPT if self.admitted is True else self.outcome()

    @_monitor.section
    def outcome(self) -> Verdict:
        """What became of a caller that was let go without room: see `turn_away`."""
        self.core.blocked_seconds += monotonic() - self.since
        if _runs_at_once(self.core):
            self.core.start_here(self.task)
            return Verdict.RUN_HERE
        self.core.rejected += 1
        return Verdict.REFUSE

    @_monitor.section
    def _withdraw(self) -> None:
        if not self.admitted and self in self.core.blocked:
            self.core.blocked.remove(self)
            self.core.blocked_seconds += monotonic() - self.since

    def turn_away(self) -> None:
        """Let the caller go on without room: the queue was shut down, or the program ends."""
        self.turn.release()


_CARRY_OUT: dict[Verdict, Callable[[_Ticket], Verdict]] = {
    Verdict.ACCEPT: _Ticket._enqueue,
    Verdict.BLOCK: _Ticket._block,
    Verdict.RUN_HERE: _Ticket._run_here,
    Verdict.REFUSE: _Ticket._refuse,
    Verdict.DROP_NEWEST: _Ticket._drop_newest,
    Verdict.DROP_OLDEST: _Ticket._drop_oldest,
}


def _warn_in_event_loop(core: Core) -> None:
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        _say_once(
            core,
            "blocks the thread of a running event loop: it is full (maxsize=%s, on_full=%r). Use another policy for calls from coroutines: "
            "set on_full to 'raise', 'drop_newest', 'drop_oldest' or 'caller_runs'",
        )
