"""A queue's state in one process: what waits, what runs, the counts, and each step from one to the next.

Every function here that changes something is a section of the monitor (see _monitor), or is called inside one and says so.

Invariants, at the end of each section
I1  submitted == succeeded + failed + cancelled + dropped + coalesced + waiting + running, because `submitted` is kept nowhere: it *is* that sum.
I2  A task is PENDING if and only if it waits in `line`; whoever takes it out, or buries it, has changed its state in the same section.
I3  If something waits and fewer than `capacity` tasks run, then a worker is on its way: awake, woken or being started, and it looks at the line in a
    section again before it parks or ends. (`rouse` sees to it wherever something new waits or a slot becomes free.) What was appended outside of a
    section (see _line) may be an instruction ahead of this: whoever appended it looks at the crew next, and a worker that parks or ends looks at
    the line after it has said so, so at least one of the two sees the other.
I4  Callers are blocked only while the queue is full: whatever makes room admits them in the same section, in the order of arrival.
I5  `limit` is the number of waiting tasks below which a call needs no thought and no section: SLACK less than the size of the queue, or -1 while
    anything is special about it. A call that was appended when that changed looks at `limit` again, and is considered anew if it still waits.
I6  A KeyboardInterrupt can strike the main thread at any call, also inside a section. So what belongs together is changed in one assignment, before
    or after all calls, or in an order in which stopping half-way costs no more than a wake-up, which the next one to come by makes up for.
"""

import collections
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from offload import _monitor
from offload._crew import Crew
from offload._line import Line
from offload._settings import Settings
from offload._task import FINISHED, RUNNING, Task

KEPT_FAILURES = 100
SLACK = 256
"""Threads that may be between the look at `limit` and the append, all at once, without more than `maxsize` tasks waiting in the end."""

monotonic = time.monotonic


class Failure(NamedTuple):
    """A failed task, without its arguments."""

    name: str
    caller: str
    exception: BaseException


class State:
    """One queue's state in one process, and the steps that sections are made of: whoever calls one is inside a section."""

    # fmt: off
    __slots__ = (
        "__weakref__",
        "name", "path", "label", "logger", "monitor", "mark", "pid", "successor", "_run_in_place",
        "settings", "inline", "context", "capacity", "lent", "awaiting", "bound", "limit", "closed", "handler", "hands_over", "refusal",
        "exit_timeout",
        "line", "blocked", "crew", "loop", "elsewhere", "idle_waiters",
        "running", "finishing", "succeeded", "failed", "cancelled", "dropped", "coalesced", "rejected",
        "blocked_seconds", "wait_seconds", "wait_seconds_max", "run_seconds", "run_seconds_max",
        "failures", "failures_lost", "reporting", "said", "abandoned", "left_running",
    )
    # fmt: on

    def __init__(
        self,
        name: str,
        label: str,
        logger: logging.Logger,
        settings: Settings,
        start_worker: Callable[[Any], None],
        run_in_place: Callable[[Any, Task[Any]], None],
    ) -> None:
        self.name = name
        self.label = label
        self.logger = logger
        self.path = logger.name.removeprefix("offload.")  # its name and its registry's, for whoever reads a log
        self.monitor: _monitor.Monitor = _monitor.current
        self.mark = self.monitor.mark
        self.pid = os.getpid()
        self.successor: Callable[[], Any] = lambda: self
        self._run_in_place = run_in_place

        self.line = Line()
        self.blocked: collections.deque[Any] = collections.deque()  # callers that wait for room
        self.crew = Crew(self.monitor.chores, partial(start_worker, self))
        self.lent = 0  # tasks that run in place, and take no slot from the workers
        self.awaiting = 0  # tasks that await others of this queue, and lend them slot and thread
        self.handler: Any = None  # runs the tasks elsewhere, if set
        self.refusal: str | None = None  # why no call is taken, though it is open
        self.loop: Any = None  # runs the coroutines, if there are any
        self.elsewhere: dict[Task[Any], int] = {}  # tasks that run, but not on a worker, and how many slots each lends
        self.idle_waiters: list[Any] = []  # who waits for this queue to be idle

        self.running = 0
        self.finishing: dict[Task[Any], None] = {}  # tasks that have ended, whose callbacks still run
        self.succeeded = self.failed = self.cancelled = self.dropped = self.coalesced = self.rejected = 0
        self.blocked_seconds = self.wait_seconds = self.wait_seconds_max = self.run_seconds = self.run_seconds_max = 0.0

        self.failures: collections.deque[Failure] = collections.deque(maxlen=KEPT_FAILURES)
        self.failures_lost = 0
        self.reporting: dict[Task[Any], int] = {}  # tasks whose failure is being told, by which thread
        self.said: set[str] = set()  # warnings that are given once

        self.closed = False
        self.inline = False  # its calls run in place, by OFFLOAD_INLINE
        self.exit_timeout: float | None = None
        self.abandoned: list[str] = []  # names of what was left behind at exit and not said yet
        self.left_running: set[Task[Any]] = set()
        self.set_up(settings)

    def set_up(self, settings: Settings) -> None:
        """Take over settings. Inside a section, or before anybody else sees this core."""
        self.settings = settings
        self.context = settings.context
        self.refresh()

    def refresh(self) -> None:
        """Derive what the hot path compares with. Inside a section. Keeps I5."""
        self.capacity = self.settings.workers + self.lent + self.awaiting
        self.hands_over = self.handler is not None and self.settings.executor != "processes"
        self.crew.largest = 1 if self.hands_over else self.settings.workers + self.awaiting  # one thread can keep an executor busy
        monitor = self.monitor
        special = (
            self.closed
            or self.refusal is not None
            or self not in monitor.live
            or monitor.phase != _monitor.OPEN
            or self.inline
            or monitor.inline
            or monitor.observers
        )
        self.bound = sys.maxsize if self.settings.maxsize is None else self.settings.maxsize
        self.limit = -1 if special else max(0, self.bound - SLACK)

    def turn_away(self) -> None:
        """Look at what is special anew, and let the blocked callers go on without room. Inside a section. Who is left to an interrupt finds room."""
        self.refresh()
        while self.blocked:
            self.blocked[0].go_on()
            self.blocked.popleft()

    def lend(self, slots: int) -> None:
        """More may run than `workers`, for as many can't go on meanwhile. Inside a section."""
        self.awaiting += slots
        self.refresh()
        self.rouse()

    @property
    def unfinished(self) -> int:
        """How many tasks wait, run, or have callbacks of theirs running."""
        return len(self.line) + self.running + len(self.finishing)

    def enqueue(self, task: Task[Any], key: object) -> Task[Any] | None:
        """Let a task wait. Returns the older task of the same key that it replaced. Inside a section."""
        older = self.line.add(task, key)
        if older is not None:
            place = older._place
            older._state, older._place, place.task, task._place, self.coalesced = older._struck, None, task, place, self.coalesced + 1
        self.rouse()
        return older

    def rouse(self) -> None:
        """Put workers on their way, as many as there are tasks and slots for. Inside a section. Keeps I3."""
        coming = self.crew.coming()
        wanted = min(len(self.line), self.capacity - self.running)
        if wanted > 0:
            self.monitor.live[self] = None
            self.crew.rouse(wanted - coming)

    def make_good(self) -> None:
        """Put workers on their way, those too whose wake-up an interrupt or a signal handler on top of it keeps from them. Inside a section."""
        self.crew.recover()
        self.rouse()

    def admit_blocked(self) -> None:
        """Let blocked callers in as far as there is room. Inside a section. Keeps I4."""
        while self.blocked and len(self.line) < self.bound:
            self.blocked[0].enter()
            self.blocked.popleft()

    def dismiss(self, worker: Any) -> None:
        """Let a worker end. Inside a section."""
        self.crew.dismiss(worker)
        self.rouse()  # the rest, if this was only one too many
        if not self.crew.size and not self.unfinished:
            self.monitor.live.pop(self, None)
            self.refresh()

    def start(self, task: Task[Any], *, waiting: bool = False) -> None:
        """Count a task as running; `waiting` if it stands in the line. Inside a section."""
        now = monotonic()
        waited = now - task._since
        longest = max(waited, self.wait_seconds_max)
        if waiting:
            task._state, self.running, self.line.dead = RUNNING, self.running + 1, self.line.dead + 1
            self.line.tidy(task)
        else:
            task._state, self.running = RUNNING, self.running + 1
        task._since, self.wait_seconds, self.wait_seconds_max = now, self.wait_seconds + waited, longest

    def start_here(self, task: Task[Any]) -> None:
        """Count a task as running on the calling thread, and note that no worker has it. Inside a section."""
        self.elsewhere[task] = 0
        self.start(task)

    def end(self, task: Task[Any]) -> None:
        """Count a running task as ended, by its outcome. Inside a section, with its condition held if it is watched."""
        ran = monotonic() - task._since
        longest = max(ran, self.run_seconds_max)
        if task._exception is None:
            task._state, self.running, self.succeeded = FINISHED, self.running - 1, self.succeeded + 1
        else:
            task._state, self.running, self.failed = FINISHED, self.running - 1, self.failed + 1
        self.run_seconds, self.run_seconds_max = self.run_seconds + ran, longest

    def cancel_in_line(self, task: Task[Any]) -> None:
        """The first half of a cancellation: it will not run. The second, `Task._announce`, tells who waits. Inside a section."""
        task._state, self.line.dead, self.cancelled = task._struck, self.line.dead + 1, self.cancelled + 1
        self.line.tidy(task)

    def notice_idle(self) -> None:
        """Wake who waits for this queue to be idle, if it is. Inside a section."""
        if self.unfinished:
            return
        while self.idle_waiters:
            self.idle_waiters.pop().release()
        if self.hands_over:  # its worker did not count its idle time while tasks ran elsewhere
            self.crew.wake_all()
        if self.closed or self.monitor.unattended or self.monitor.phase == _monitor.IN_PLACE:  # no more work will come
            self.crew.wake_all()
            if self.loop is not None and not self.loop.active:
                self.loop.end()
