"""The threads that run the tasks.

A worker's life: it is counted in `crew.size` by the section that wants it, started outside of the lock, enlists itself, and then goes round: claim
(which ends the last task and starts the next, in one section), run, claim ... Finding nothing it is put into `crew.idle` in that same section, and
parks on a lock of its own. Whoever takes it out of `idle` releases that lock (see _crew); so after a time-out "still in idle" means that no wake-up
is under way, and "not in idle" that one is.
"""

import _thread
import sys
import threading
from typing import Any

from offload import _exit, _monitor
from offload._core import Core
from offload._ending import complete
from offload._exit import PROCESS_POOLS
from offload._monitor import section
from offload._run import perform, run_here
from offload._state import monotonic
from offload._task import FINISHED, PENDING, RUNNING, Task
from offload._threads import BackgroundThread


class Worker:
    """One worker of one queue, and its thread."""

    __slots__ = ("_token", "core", "ended", "index", "parked", "task", "thread")

    def __init__(self, core: Core, index: int) -> None:
        self.core = core
        self.index = index
        self.task: Task[Any] | None = None
        self.ended = False
        self.parked = False
        self._token = _thread.allocate_lock()
        self._token.acquire()
        self.thread = BackgroundThread(f"{core.label}-{index}", self._main)

    def _main(self) -> None:
        """Run tasks until there is no more need of this worker."""
        core = self.core
        _enlist(core, self)
        try:
            if not self.ended:
                self._work()
        finally:
            if core.handler is not None:
                core.handler.worker_ends(core)
            _delist(core)

    def _work(self) -> None:
        core = self.core
        done: Task[Any] | None = None
        while True:  # Python 3.11 specializes a function that is called once where it jumps back without a condition, and nowhere else
            task = claim(core, self, done)
            done = None  # or the last task, and its result, would live as long as this one runs
            if task is not None:
                done = perform(core, task, core.handler)
                if PROCESS_POOLS in _exit.to_hook:
                    _exit.ensure_hooks()
            elif (task := self.task) is not None:  # or its result would go where the next task takes its place, in the midst of a section
                complete(core, task)
            elif not self._park():
                break

    @property
    def busy(self) -> bool:
        """Whether it has a task."""
        return self.task is not None

    def release(self) -> None:
        """Wake it, or let it look again if it is awake. Never blocks."""
        try:
            self._token.release()
        except RuntimeError:  # somebody else was faster
            pass

    def _park(self) -> bool:
        """Block until somebody wakes it, unless it has ended. Returns whether it is to go on."""
        if self.ended:
            return False
        timeout = self.core.settings.idle_timeout
        if self._token.acquire(True, -1 if timeout is None else min(timeout, threading.TIMEOUT_MAX)):
            return True
        return not _timed_out(self.core, self) and self._token.acquire()


def start_worker(core: Core) -> None:
    """Start the thread that a section has counted. Where none can be started the calling thread runs what waits.

    A KeyboardInterrupt can strike while ``start`` waits for the thread to come up, or before; nobody can tell. Then this is called again, so that
    there may be one thread too many, which finds so when it enlists, and ends. Where it strikes in the middle of a `threading.Condition`, what comes
    out is a RuntimeError of the condition's lock, with the interrupt in its context.
    """
    before = sys.exc_info()[1]
    worker = None
    try:
        worker = Worker(core, _reserve_index(core))
        worker.thread.start()
    except RuntimeError as error:
        interrupt = error.__context__
        came_up = worker is not None and worker.thread.ident is not None
        if interrupt is not None and interrupt is not before and (came_up or not isinstance(interrupt, Exception)):
            raise interrupt from None
        if _not_started(core, worker):
            _run_waiting(core, error)


def _run_waiting(core: Core, error: RuntimeError) -> None:
    """Run what waits, in order, on this thread, for there is no other."""
    monitor = core.monitor
    if not (monitor.told_no_thread or monitor.leaving):  # while leaving nobody could do anything about it, and nothing is lost
        monitor.told_no_thread = True
        core.logger.warning("queue %r runs its calls in their callers: no thread can be started (%s)", core.path, error)
    while (task := _take(core)) is not None:
        run_here(core, task, in_slot=True)


# -- steps that are sections of the monitor, or parts of one -------------------------------------------------------------------


def claim(core: Core, worker: Worker, done: Task[Any] | None) -> Task[Any] | None:  # noqa: PLR0912  # a helper costs more than what it would do
    """End the last task and start the next, in one section and with one look at the clock: all of a worker's bookkeeping for a task.

    Returns the next task, which is `worker.task` now; or None. Then `worker.task` is still `done`, if somebody watches it, so that it must be ended
    with care first; or it is None: the worker stands in `idle`, or has `ended`.
    This is the hot path of the worker: `end`, `start` and the first step of `Line.pop` are written out here, where they share the clock and cost no
    call. (To write this and `perform` out in the worker's loop as well saves 5 % of a call and its run: not taken.)
    No signal's exception strikes on a worker's thread, so this one section may be entered without `with`, which costs as much again as the lock.
    """
    monitor = core.monitor
    monitor.lock.acquire()
    try:
        monitor.entered = True
        now = monotonic()
        if done is None:
            if not _look_again(core, worker):
                return None
        elif done._watched:
            return None
        else:
            done._state = FINISHED
            ran = now - done._since
            core.run_seconds += ran
            if ran > core.run_seconds_max:
                core.run_seconds_max = ran
            core.succeeded += 1  # and its slot is the next task's
        if core.running <= core.capacity:
            try:
                task = core.line.ahead.popleft()
                if task._state is not PENDING:
                    task = core.line.pop(task)
            except IndexError:  # cheaper than to ask each time
                task = core.line.pop()
            if task is not None:
                waited = now - task._since
                core.wait_seconds += waited
                if waited > core.wait_seconds_max:
                    core.wait_seconds_max = waited
                task._since = now
                task._state = RUNNING
                worker.task = task
                if core.blocked:
                    core.admit_blocked()
                return task  # type: ignore[no-any-return]  # what stands in line may be a Place as well, until here
        _stand_down(core, worker)
        return None
    finally:
        monitor.entered = False
        if monitor.late:
            monitor.leave()
        monitor.lock.release()
        if monitor.chores:
            monitor.tidy()


def _look_again(core: Core, worker: Worker) -> bool:
    """It comes with no task to end: it takes a slot for the next one. Returns False if there are more workers than there may be. Inside a section."""
    if worker.parked:
        core.crew.unpark(worker)
    core.running += 1
    if core.crew.size <= core.crew.largest:
        return True
    _stand_down(core, worker)
    return False


def _stand_down(core: Core, worker: Worker) -> None:
    """Nothing to do for this worker: it gives its slot back, and ends, or parks. Inside a section."""
    core.running -= 1
    worker.task = None
    core.admit_blocked()
    core.notice_idle()
    if core.crew.size > core.crew.largest or (not core.unfinished and _wants_no_more(core, worker)):
        core.dismiss(worker)
    else:
        core.crew.park(worker)
        core.rouse()  # in vain, but for a call that came in just now and did not see this worker stand here: I3


def _wants_no_more(core: Core, worker: Worker) -> bool:
    # An interpreter waits for threads that can't be left behind before its last handlers run: they must not park.
    monitor = core.monitor
    # What stands behind a handler has exit handlers of its own, and calls offloaded over there, that are to run in time.
    ends_early = not worker.thread.left_behind or core.handler is not None
    return core.closed or monitor.unattended or monitor.phase == _monitor.IN_PLACE or (monitor.leaving and ends_early)


@section
def _take(core: Core) -> Task[Any] | None:
    """Start the oldest task for a thread that is no worker, if there is a slot for it."""
    task = core.line.head() if core.running < core.capacity else None
    if task is None:
        core.notice_idle()
    else:
        core.start(task, waiting=True)
        core.admit_blocked()
    return task


@section
def _reserve_index(core: Core) -> int:
    return core.crew.reserve_index()


@section
def _enlist(core: Core, worker: Worker) -> None:
    """The first step on its own thread."""
    worker.ended = not core.crew.enlist(worker)
    ident = threading.get_ident()
    core.monitor.inside[ident] = [(core, None)]
    core.monitor.hired.add(ident)
    core.crew.watch(worker.thread)


@section
def _delist(core: Core) -> None:
    """The last step on its own thread."""
    ident = threading.get_ident()
    core.monitor.inside.pop(ident, None)
    core.monitor.hired.discard(ident)


@section
def _timed_out(core: Core, worker: Worker) -> bool:
    """Its patience is over. Returns whether it ended: no, if a wake-up is on its way to it, or will be when what runs elsewhere has ended."""
    if (core.hands_over and core.unfinished) or not core.crew.leave_idle(worker):
        return False
    core.crew.unpark(worker)
    core.dismiss(worker)
    return True


@section
def _not_started(core: Core, worker: Worker | None) -> bool:
    """No thread could be started. Returns whether there is nobody else to run what waits."""
    core.crew.not_started(worker)
    core.crew.wake_all()  # who parked may have relied on it
    return core.crew.size == 0
