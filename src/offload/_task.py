"""A Task: one call, and what became of it."""

import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from contextvars import Context
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from offload import _monitor
from offload._errors import OffloadError
from offload._process import Mark
from offload._standstill import Loop, refuse_if_stopped, standing_still

__all__ = ["CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED", "PENDING", "RUNNING", "Owner", "Task"]

R = TypeVar("R")
SETTLED = frozenset((CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED))


class Owner(Protocol):
    """What a Task asks of the queue that it stands in."""

    name: str
    pid: int
    mark: Mark

    def cancel(self, task: "Task[Any]") -> bool: ...
    def before_wait(self, task: "Task[Any]") -> None: ...
    def reported_here(self, task: "Task[Any]") -> bool: ...
    def before_await(self) -> bool: ...
    def after_await(self) -> None: ...


class Task(Future[R]):
    """One offloaded call: a ``concurrent.futures.Future`` that can also be awaited from any running event loop.

    Ignore it, or ask it for ``result()``. It is made by the call; nobody else makes one or sets its outcome.
    """

    # The call makes a Task without Future.__init__, whose Condition is most of a Future's cost, and sets what it needs itself (see `offer`), for a
    # third of the price of an __init__ of its own. That is in slots, so that few Tasks need a __dict__: making that costs twice what all of them do.
    __init__ = object.__init__
    __slots__ = (
        "_args",
        "_code",
        "_context",
        "_fn",
        "_kwargs",
        "_lasti",
        "_name",
        "_owner",
        "_result",
        "_since",
        "_state",
        "_watched",
    )
    _owner: Owner
    _name: str
    _fn: Callable[..., R]
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any] | None  # None: there are none
    _context: Context | None  # None: an empty one
    _code: CodeType | None  # with `_lasti` the place of the call
    _lasti: int
    _since: float  # when it began to wait, then when it began to run, in seconds of the monotonic clock
    _state: str
    _watched: "_Watch | None"
    _result: Any  # not there before the outcome is
    # What only few Tasks have.
    _exception: BaseException | None = None
    _place: Any = None  # in the line, if a newer call may replace it
    _loop: Loop | None = None  # on which its coroutine runs

    # What a Future has from the start is made for the first who looks. From then on the task's last step is made with `_condition` held, as
    # `concurrent.futures.wait` and `as_completed` assume. `_watched` is set, and read before the last step, in a section: a worker either sees it or
    # has settled the task before.
    if not TYPE_CHECKING:

        @property
        def _condition(self) -> threading.Condition:
            return self._watch().condition

        @property
        def _waiters(self) -> list[Any]:
            return self._watch().waiters

        @property
        def _done_callbacks(self) -> list[Any]:
            return self._watch().done_callbacks

    def _watch(self) -> "_Watch":
        if self._watched is None:
            self._refuse_foreign("watched")
            with _monitor.current.lock:
                self._watched = self._watched or _Watch()
            _monitor.current.tidy()
        return self._watched

    @property
    def name(self) -> str:
        """What was called: ``"package.module.function"``."""
        return self._name

    @property
    def queue(self) -> str:
        """The name of the queue that it was called on."""
        return self._owner.name

    @property
    def caller(self) -> str:
        """Where it was called: ``"train.py:42"``."""
        if self._code is None:
            return "<unknown>"
        return f"{os.path.basename(self._code.co_filename)}:{_line(self._code, self._lasti)}"

    def cancel(self) -> bool:
        """Keep it from running, if it still waits. Returns whether it is cancelled; never blocks."""
        return self._state not in (RUNNING, FINISHED) and self._owner.cancel(self)

    def cancelled(self) -> bool:
        """Whether it was cancelled, dropped or replaced before it ran."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """Whether it has started and not ended."""
        return self._state == RUNNING and not self.done()

    def done(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self._state in SETTLED or (self._exception is not None and self._owner.reported_here(self))

    def result(self, timeout: float | None = None) -> R:
        """The call's result; raises its exception if it failed, CancelledError if it was cancelled or dropped.

        Blocks until it has ended, at most ``timeout`` seconds, then raises TimeoutError; in a worker of the same queue a task that still
        waits is run in place. Raises OffloadError in a forked child on a task of its parent.
        """
        self._wait(timeout)
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment]  # breaks the cycle through the traceback, as Future does
        return self._result  # type: ignore[no-any-return]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The exception that the call raised, or None. Blocks and raises as `result` does."""
        self._wait(timeout)
        return self._exception

    def add_done_callback(self, fn: Callable[["Future[R]"], object]) -> None:
        """Call ``fn(task)`` when it has ended: on the thread that ends it, or here at once if it has. Never blocks."""
        super().add_done_callback(fn)

    def set_running_or_notify_cancel(self) -> bool:
        """Refused: its queue does this."""
        raise InvalidStateError(f"{self!r}: a Task's state is set by its queue alone")

    def set_result(self, result: R) -> None:
        """Refused: its queue does this."""
        self.set_running_or_notify_cancel()

    def set_exception(self, exception: BaseException | None) -> None:
        """Refused: its queue does this."""
        self.set_running_or_notify_cancel()

    def __await__(self) -> Generator[Any, Any, R]:
        if not self.done():
            self._refuse_foreign("awaited")
            refuse_if_stopped(self._loop, self._name)
            lent = self._owner.before_await()
            try:
                yield from _done_in_loop(self).__await__()
            finally:
                if lent:
                    self._owner.after_await()
        return self.result()

    def __repr__(self) -> str:
        state = self._state.lower().replace("_and_notified", "")
        outcome = f" raised {type(self._exception).__name__}" if self._exception is not None else ""
        return f"<Task {self._name} on {self.queue!r} from {self.caller}: {state}{outcome}>"

    def _wait(self, timeout: float | None) -> None:
        if not self.done():
            self._refuse_foreign("waited for")
            self._owner.before_wait(self)
            with standing_still():
                self._block(timeout)
        for observer in _monitor.current.observers:
            observer.looked_at(self)
        if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
            raise CancelledError(f"{self._name} on queue {self.queue!r} was cancelled or dropped")

    def _block(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            while self._state not in SETTLED:
                refuse_if_stopped(self._loop, self._name)
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise TimeoutError(f"{self._name} on queue {self.queue!r} has not ended within {timeout} s")
                self._condition.wait(remaining)

    def _refuse_foreign(self, verb: str) -> None:
        if self._state not in SETTLED and not self._owner.mark[0]:
            raise OffloadError(
                f"{self._name} on queue {self.queue!r} can't be {verb} here: it was offloaded by process {self._owner.pid}, of which this "
                f"process ({os.getpid()}) is a fork; its outcome stays there. Offload it again in this process"
            )

    def _let_go(self) -> None:
        """Drop the call, so that nothing here keeps its arguments alive."""
        self._fn = self._args = self._kwargs = self._context = None  # type: ignore[assignment]

    @property
    def _opened(self) -> bool:
        return self._fn is None

    @property
    def _struck(self) -> str:
        """Its state when it will not run: the first of a Future's two, if there is somebody to be told of the second."""
        return CANCELLED if self._watched else CANCELLED_AND_NOTIFIED

    def _announce(self) -> None:
        """The second half of a cancellation: let go of the call, tell who waits, run the callbacks. Outside of sections."""
        with _monitor.current.busy_here():  # letting go of the arguments may run a __del__
            self._let_go()
            if not self._watched:
                return
            with self._condition:
                if self._state == CANCELLED:
                    self._state = CANCELLED_AND_NOTIFIED
                    for waiter in self._waiters:
                        waiter.add_cancelled(self)
                self._condition.notify_all()
            self._invoke_callbacks()  # type: ignore[attr-defined]


class _Watch:
    """What a task needs as soon as somebody waits for it, or wants to be called back."""

    __slots__ = ("condition", "done_callbacks", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.waiters: list[Any] = []
        self.done_callbacks: list[Any] = []


def _line(code: CodeType, lasti: int) -> int:
    """The line of an instruction, looked up when somebody asks: at the call it would cost a tenth of it."""
    for start, end, line in code.co_lines():
        if start <= lasti < end and line is not None:
            return line
    return code.co_firstlineno


async def _done_in_loop(task: Task[Any]) -> None:
    """Wait for a task without blocking the running loop. Being cancelled does nothing to the task."""
    import asyncio  # its import costs more than offload's; who awaits has paid for it

    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake(_: Future[Any]) -> None:
        try:
            loop.call_soon_threadsafe(woken.set)
        except RuntimeError:  # the loop was closed: nobody awaits any more
            pass

    task.add_done_callback(wake)
    await woken.wait()
