"""What an exit does with the queues: run what was accepted, and say what was left behind."""

import collections
import logging
import threading
import time
from collections.abc import Iterable, Iterator

from offload import _monitor
from offload._core import Core
from offload._exit import Leaving
from offload._monitor import section
from offload._progress import Progress
from offload._task import RUNNING
from offload._waiting import wait_until_idle

NAMES_SAID = 5
LAST_JOIN = 0.25  # seconds for threads that are just ending
INTERRUPTED = "Ctrl-C"
log = logging.getLogger("offload")


def drain(leaving: Leaving) -> None:
    """Wait until no queue has work, as long as the deadlines and the user's patience allow. Never raises KeyboardInterrupt.

    The first Ctrl-C abandons what waits and lets what runs finish, the second ends the waiting. CPython swallows the KeyboardInterrupt of an exit
    hook and calls the next one, so the count is kept in `leaving` for all phases.
    """
    monitor = _monitor.current
    monitor.leaving = True
    phase = _Phase(leaving, monitor)
    try:
        while leaving.interrupts < 2:
            try:
                phase.abandon_if_interrupted()
                wait_until_idle(phase.cores, phase.remaining)
                phase.see_out_handlers()
                break
            except KeyboardInterrupt:
                leaving.interrupts += 1
            except SystemExit:  # a signal that leaves the program once more, by drain_on_signal or the application's own handler: it is leaving
                continue
        phase.abandon_if_interrupted()
    finally:
        phase.progress.close()
    _end_idle_threads(monitor, only_waited_for=True)
    _say(monitor, phase.why)


class _Phase:
    """One phase of an exit: whom it waits for, and how much longer."""

    def __init__(self, leaving: Leaving, monitor: _monitor.Monitor) -> None:
        self.leaving = leaving
        self.monitor = monitor
        self.started = time.monotonic()
        self.given_up: set[Core] = set()
        self.why = INTERRUPTED
        self.progress = Progress(leaving.progress)

    def cores(self) -> Iterator[Core]:
        """The queues that are waited for. Inside a section."""
        return (core for core in self.monitor.live if core not in self.given_up)

    def remaining(self, busy: list[Core]) -> float | None:
        """Seconds to wait before the next look: 0 after a queue was given up, None for ever."""
        waited = time.monotonic() - self.started
        left = {core: _deadline(core, self.leaving) - self.leaving.used - waited for core in busy}
        over = [core for core in busy if left[core] <= 0]
        if over:
            self.why = f"the deadline of {_deadline(over[0], self.leaving):g} s passed"
            self.given_up.update(over)
            _abandon(over, running_too=True)
            return 0.0
        tick = self.progress.tick({core.name: core.unfinished for core in busy}, waited)
        soonest = min(tick, *left.values())
        return None if soonest == float("inf") else soonest

    def see_out_handlers(self) -> None:
        """Wait for the processes and executors behind idle queues to end."""
        cores = [core for core in list(self.monitor.live) if core.handler is not None and core not in self.given_up]
        for core in cores:
            _let_go(core, only_waited_for=False)
        for core in cores:
            left = _deadline(core, self.leaving) - self.leaving.used - (time.monotonic() - self.started)
            if not core.handler.wait(None if left == float("inf") else max(0.0, left)):
                core.handler.abandon()

    def abandon_if_interrupted(self) -> None:
        """After a Ctrl-C: let go of what waits and of what is still called, after the second of what runs too."""
        if self.leaving.interrupts:
            self.monitor.phase = _monitor.ABANDONING
            everything = list(self.monitor.live)
            for core in everything:
                _reconsider(core)
            _abandon(everything, running_too=self.leaving.interrupts > 1)


def _deadline(core: Core, leaving: Leaving) -> float:
    return min((d for d in (leaving.timeout, core.exit_timeout) if d is not None), default=float("inf"))


def _abandon(cores: Iterable[Core], *, running_too: bool) -> None:
    """Cancel what waits, and note what is left behind running."""
    for core in cores:
        while gone := core.cancel_waiting(at_exit=True):
            for task in gone:
                task._announce()
        if running_too:
            _abandon_running(core)
            if core.handler is not None:
                core.handler.abandon()


def _say(monitor: _monitor.Monitor, why: str) -> None:
    """One WARNING for all that was abandoned and not said before."""
    left = {core: _unsaid(core) for core in list(monitor.live)}
    left = {core: names for core, names in left.items() if names}
    if left:
        total = sum(map(len, left.values()))
        queues = "; ".join(f"{len(names)} of queue {core.path!r} ({_some(names)})" for core, names in left.items())
        log.warning("left %d offloaded call%s behind at exit (%s): %s", total, "" if total == 1 else "s", why, queues)


def _some(names: list[str]) -> str:
    counts = collections.Counter(names)
    shown = [name if number == 1 else f"{name} x {number}" for name, number in list(counts.items())[:NAMES_SAID]]
    return ", ".join(shown) + (", ..." if len(counts) > NAMES_SAID else "")


def finish(leaving: Leaving | None) -> None:
    """Let go of everything: from here on calls run in place, and threads that have nothing to do are gone before the interpreter freezes them.

    Given `leaving`, what came in between the last drain and this moment is drained as well: a thread that nobody has joined may have offloaded.

    A thread that is left behind may be frozen with the lock held, and a ``__del__`` during the teardown may call: so the last act is a new monitor,
    with a lock that no other thread has seen.
    """
    monitor = _monitor.current
    _in_place(monitor)
    if leaving is not None:
        drain(leaving)
        _in_place(monitor)  # after a Ctrl-C, a drain abandons
    _end_idle_threads(monitor, only_waited_for=False)
    fresh = _monitor.renew(_monitor.IN_PLACE)
    for core in list(monitor.live):
        core.monitor = fresh


def _in_place(monitor: _monitor.Monitor) -> None:
    with monitor.lock:
        monitor.phase = _monitor.IN_PLACE
    monitor.tidy()
    for core in list(monitor.live):
        _turn_away(core)


def _end_idle_threads(monitor: _monitor.Monitor, *, only_waited_for: bool) -> None:
    """Wake the parked, who find that there is no more need of them, and see them out."""
    deadline = time.monotonic() + LAST_JOIN
    for core in list(monitor.live):
        for thread in _let_go(core, only_waited_for=only_waited_for):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))


# -- steps that are sections of the monitor -----------------------------------------------------------------------------------


@section
def _reconsider(core: Core) -> None:
    """The phase of the exit has changed."""
    core.refresh()


@section
def _turn_away(core: Core) -> None:
    """Calls run in place from now on; the callers that wait for room are to do that too."""
    core.turn_away()


@section
def _abandon_running(core: Core) -> None:
    """Note the names of the tasks that are left behind running, once each."""
    running = [worker.task for worker in core.crew.workers.values() if worker is not None] + list(core.elsewhere)
    for task in running:
        if task is not None and task._state is RUNNING and task not in core.left_running:
            core.left_running.add(task)
            core.abandoned.append(task.name)


@section
def _unsaid(core: Core) -> list[str]:
    """The names of what was abandoned and not said yet."""
    names, core.abandoned = core.abandoned, []
    return names


@section
def _let_go(core: Core, *, only_waited_for: bool) -> list[threading.Thread]:
    """Wake the parked workers, and end an idle loop. Returns the threads that will end at once."""
    core.crew.wake_all()
    going = [worker.thread for worker in core.crew.workers.values() if worker is not None and not worker.busy]
    loop = core.loop
    if loop is not None and not loop.active and not (only_waited_for and loop.thread.left_behind):
        loop.end()
        going.append(loop.thread)
    return [thread for thread in going if not (only_waited_for and thread.left_behind)]
