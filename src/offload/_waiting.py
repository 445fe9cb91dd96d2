"""Waiting until queues are idle: ``flush``, its async twin, and the drain at exit.

"Idle" is a fact about one moment: `_Round.busy` looks at all the queues in one section. If one of them is not idle, the round hangs itself on the
first such queue, in that same section, so that the step which makes it idle can't be missed; then everything is looked at again.
"""

import _thread
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from offload import _monitor
from offload._core import Core
from offload._errors import FlushTimeout
from offload._failures import as_group, take_failures
from offload._standstill import standing_still
from offload._state import Failure

if TYPE_CHECKING:
    import asyncio

Cores = Callable[[], Iterable[Core]]


class _Round:
    """One look at the queues, and the way to be woken when another is due."""

    def __init__(self, cores: Cores, wake: Callable[[], object]) -> None:
        self.monitor = _monitor.current
        self.cores = cores
        self.release = wake

    @_monitor.section
    def busy(self) -> list[Core]:
        """The queues that are not idle at this moment. Sees to it that they are being worked on."""
        busy = [core for core in self.cores() if core.unfinished]
        if busy:
            busy[0].idle_waiters.append(self)
        for core in busy:
            core.make_good()
        return busy

    @_monitor.section
    def withdraw(self, core: Core) -> None:
        """Not to be woken after all."""
        if self in core.idle_waiters:
            core.idle_waiters.remove(self)


def wait_until_idle(cores: Cores, remaining: Callable[[list[Core]], float | None]) -> None:
    """Block until all `cores` are idle at one moment.

    Before each wait `remaining` is told which ones are not, and says for how many seconds to wait before the next look (None: until they are); what
    it raises ends the wait.
    """
    while True:
        turn = _thread.allocate_lock()
        turn.acquire()
        round_ = _Round(cores, turn.release)
        busy = round_.busy()
        if not busy:
            return
        try:
            timeout = remaining(busy)
            with round_.monitor.busy_here(), standing_still():
                turn.acquire(True, -1 if timeout is None else max(0.0, min(timeout, threading.TIMEOUT_MAX)))
        finally:
            round_.withdraw(busy[0])


def flush(cores: Cores, timeout: float | None, raise_errors: bool) -> None:
    """Wait until all are idle; then raise what failed, if asked to. Raises FlushTimeout, RuntimeError from inside, an ExceptionGroup."""
    refuse_from_inside(cores())
    deadline = None if timeout is None else time.monotonic() + timeout

    def remaining(busy: list[Core]) -> float | None:
        if deadline is None:
            return None
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            raise _timed_out(busy, timeout)
        return seconds

    wait_until_idle(cores, remaining)
    if raise_errors:
        _raise_failures(cores)


async def aflush(cores: Cores, timeout: float | None, raise_errors: bool) -> None:
    """`flush` for a coroutine: the event loop goes on."""
    import asyncio  # its import costs more than offload's; who awaits has paid for it

    refuse_from_inside(cores())
    loop = asyncio.get_running_loop()
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        woken = asyncio.Event()
        round_ = _Round(cores, lambda woken=woken: _wake(loop, woken))  # type: ignore[misc]
        busy = round_.busy()
        if not busy:
            break
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                await woken.wait()
        except TimeoutError:
            raise _timed_out(busy, timeout) from None
        finally:
            round_.withdraw(busy[0])
    if raise_errors:
        _raise_failures(cores)


def _wake(loop: "asyncio.AbstractEventLoop", woken: Any) -> None:
    try:
        loop.call_soon_threadsafe(woken.set)
    except RuntimeError:  # the loop was closed: nobody waits any more
        pass


def refuse_from_inside(cores: Iterable[Core], what: str = "flush") -> None:
    """Raise RuntimeError if the calling thread runs a task of one of these queues."""
    own = [core.name for core in cores if core.runs_here()]
    if own:
        raise RuntimeError(f"{what} from a task of queue {own[0]!r} would wait for that task itself; {what} from outside, or name other queues")


def _timed_out(busy: list[Core], timeout: float | None) -> FlushTimeout:
    unfinished = ", ".join(f"{core.name!r}: {core.unfinished}" for core in busy)
    return FlushTimeout(f"not idle within {timeout} s; unfinished tasks by queue: {unfinished}. They go on; flush again to wait for them")


class _Taking:
    def __init__(self, cores: Cores) -> None:
        self.monitor = _monitor.current
        self.cores = cores

    @_monitor.section
    def take(self) -> tuple[list[Failure], int]:
        return take_failures(list(self.cores()))


def _raise_failures(cores: Cores) -> None:
    failures, lost = _Taking(cores).take()
    if failures:
        raise as_group(failures, lost)
