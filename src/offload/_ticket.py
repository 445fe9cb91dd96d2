"""A call that is being considered: what its queue's policy decides is carried out here, waiting for room included."""

import _thread
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from offload import _monitor
from offload._core import Core
from offload._monitor import section
from offload._policy import Verdict, decide
from offload._standstill import standing_still
from offload._task import PENDING, Task

monotonic = time.monotonic


def runs_at_once(core: Core) -> bool:
    """Whether a call runs in place, whatever the policy."""
    return core.inline or core.monitor.inline > 0 or core.monitor.phase == _monitor.IN_PLACE


def say_once(core: Core, what: str) -> None:
    """Log a WARNING about a full queue, the first time."""
    if what not in core.said:
        core.said.add(what)
        core.logger.warning(f"queue %r {what}", core.path, core.settings.maxsize, core.settings.on_full)


class Ticket:
    """A call that is being considered, and its place in the line if it has to wait for room.

    Its caller is let go on by the section that then takes the ticket out of `core.blocked`: when it can `enter`, or when all are turned away.
    """

    __slots__ = ("admitted", "core", "gone", "key", "monitor", "since", "task", "tried", "turn")

    def __init__(self, core: Core, task: Task[Any], key: object) -> None:
        self.core = core
        self.monitor = core.monitor
        self.task = task
        self.key = key
        self.since = monotonic()
        self.admitted = self.tried = False
        self.gone: list[Task[Any]] = []
        self.turn: Any = None

    @section
    def admit(self) -> Verdict:
        """Decide on the call and carry the decision out, as far as a section can."""
        core = self.core
        if core.closed or (core.refusal is not None and not runs_at_once(core)):
            core.rejected += 1
            return Verdict.REFUSE
        if runs_at_once(core):
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
        self.core.make_good()  # it waits for the workers
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
        """There is room: let the task wait and its caller go on. Inside a section. Bears being called twice, if an interrupt stopped the first."""
        again, self.tried = self.tried, True
        if not again or (self.task._state is PENDING and self.task not in self.core.line):
            now = monotonic()
            self.core.blocked_seconds += now - self.since
            self.task._since = now
            self._enqueue()
        self.admitted = True
        self.go_on()

    def wait(self) -> Verdict:
        """Block until there is room, the queue is shut down, or a signal's exception comes through.

        The race of a KeyboardInterrupt against the admission: (1) a worker makes room and admits this ticket in a section; (2) the interrupt
        strikes before the caller wakes. `withdraw` finds in a section which came first: admitted, the call is wholly accepted; not, it leaves the
        line.
        """
        core = self.core
        say_once(core, "blocks its callers: it is full (maxsize=%s, on_full=%r). Raise maxsize or workers, or set on_full")
        _warn_in_event_loop(core)
        try:
            with self.monitor.busy_here(), standing_still():
                self.turn.acquire()
        except BaseException:
            self._withdraw()
            raise
        return Verdict.ACCEPT if self.admitted else self.outcome()

    @section
    def outcome(self) -> Verdict:
        """What became of a caller that was let go without room. An interrupt of `State.turn_away` may have left its ticket to be admitted since."""
        if self.admitted:
            return Verdict.ACCEPT
        if self in self.core.blocked:
            self.core.blocked.remove(self)
        self.core.blocked_seconds += monotonic() - self.since
        if runs_at_once(self.core):
            self.core.start_here(self.task)
            return Verdict.RUN_HERE
        self.core.rejected += 1
        return Verdict.REFUSE

    @section
    def _withdraw(self) -> None:
        if not self.admitted and self in self.core.blocked:
            self.core.blocked.remove(self)
            self.core.blocked_seconds += monotonic() - self.since

    def go_on(self) -> None:
        """Let the caller go on: its task waits now, or the queue was shut down, or the program ends. Inside a section. Bears being called twice."""
        if self.turn.locked():
            self.turn.release()


_CARRY_OUT: dict[Verdict, Callable[[Ticket], Verdict]] = {
    Verdict.ACCEPT: Ticket._enqueue,
    Verdict.BLOCK: Ticket._block,
    Verdict.RUN_HERE: Ticket._run_here,
    Verdict.REFUSE: Ticket._refuse,
    Verdict.DROP_NEWEST: Ticket._drop_newest,
    Verdict.DROP_OLDEST: Ticket._drop_oldest,
}


def _warn_in_event_loop(core: Core) -> None:
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        say_once(
            core,
            "blocks the thread of a running event loop: it is full (maxsize=%s, on_full=%r). Use another policy for calls from coroutines: "
            "set on_full to 'raise', 'drop_newest' or 'drop_oldest'",
        )
