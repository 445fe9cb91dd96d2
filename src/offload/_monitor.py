"""The one lock of this process, and the rules of being inside it.

Guarantees

1. All state of all queues (what waits, what runs, the counts, a Task's step from one state to the next) changes only between
   `monitor.lock` and its release: a *section*; with two exceptions, a plain call's append (see _line) and the wake-up of an idle worker for it (see
   _crew). A section is a handful of attribute operations; it calls no user's code but a ``__del__`` or a key's ``__eq__``, never logs, starts no
   thread and never waits.
2. One lock for the whole process, not one for each queue: garbage collection can run a ``__del__`` that calls another queue in the
   middle of a section. With two locks, thread 1 inside A calling B and thread 2 inside B calling A would wait for each other for ever.
   One lock also makes "no queue has work" a fact about one moment.
3. The lock is reentrant, so that a signal handler or a ``__del__`` on the thread that is inside a section does not wait for itself. Such a
   call finds `entered` set, leaves its wish in `late`, touches nothing else and returns. Whoever is inside carries `late` out before it lets
   go of the lock. No wish can be left behind: `entered` is cleared first and `late` is looked at after that, so a call either still sees
   `entered` and its wish is found, or sees it cleared and does its own work.
4. `with lock:` is the only way in. CPython checks for signals between the instructions of a function, but not between a built-in lock's
   ``__enter__`` and the body of the ``with``, so a KeyboardInterrupt cannot leave the lock held. A ``__enter__`` written in Python could.
   (A worker's thread, on which no signal's exception strikes, takes it by ``acquire``, which costs half: `_worker.claim`.)
5. What must be done outside of the lock (start a thread, run a call in place) is left in `chores`, and done by whoever leaves the section,
   or, if an exception stops that thread first, by the next one that comes by, every call among them. Starting a thread inside a section could
   deadlock: ``Thread.start`` waits for the new thread, which needs threading's own lock, whose holder might be waiting for this one.
6. Who only looks at several things at one moment, or makes one assignment, may hold the lock without a section. What interrupts that works as ever,
   but leaves its chores, so it ends with `tidy` as well.

After a fork the child makes a new Monitor: the old lock may be held for ever by a thread that does not exist there.
"""

import collections
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from offload._process import new_mark

P = ParamSpec("P")
R = TypeVar("R")
OPEN, ABANDONING, IN_PLACE = "open", "abandoning", "in_place"


class Reentered(RuntimeError):
    """Raised where a signal handler or ``__del__`` interrupted offload itself and asks for what would have to wait for that."""


class Monitor:
    """One process's lock, and what is to be done on leaving it."""

    __slots__ = (
        "chores",
        "entered",
        "hired",
        "inline",
        "inside",
        "late",
        "leaving",
        "live",
        "lock",
        "mark",
        "observers",
        "phase",
        "told_no_thread",
        "unattended",
        "waits",
    )

    def __init__(self) -> None:
        self.lock = threading.RLock()  # looked up here, not at import: gevent may have replaced it since
        self.entered = False
        self.late: collections.deque[Callable[[], None]] = collections.deque()
        self.chores: collections.deque[Callable[[], None]] = collections.deque()
        self.live: dict[Any, None] = {}  # the cores with work or threads, oldest first: what an exit has to drain
        self.phase = OPEN
        self.inline = 0  # how many testing.inline() are open
        self.observers: tuple[Any, ...] = ()
        self.waits: collections.Counter[int] = collections.Counter()  # how deep threads are inside offload, by ident: see `busy_here`
        self.inside: dict[
            int, list[tuple[Any, Any]]
        ] = {}  # the cores whose tasks a thread runs, and the tasks that it runs in place, by ident, innermost last
        self.hired: set[int] = set()  # the threads that are workers
        self.leaving = False  # the interpreter has begun to end
        self.unattended = False  # no hook will run when this process ends: see `_exit.forked`
        self.told_no_thread = False
        self.mark = new_mark()

    def leave(self) -> None:
        """Carry out what came late. Called inside the lock, just after `entered` was cleared."""
        while self.late:
            self.entered = True
            try:
                _each(self.late)
            finally:
                self.entered = False

    def tidy(self) -> None:
        """Do the chores, if there are any. Called outside of the lock."""
        # A handler that struck between "entered cleared" and "lock released" is still inside: the code that it interrupted tidies.
        if self.chores and not self.lock._is_owned():  # type: ignore[attr-defined]  # threading.Condition leans on it too
            with self.busy_here():  # who interrupts this must not wait for the worker that it starts
                _each(self.chores)

    @contextlib.contextmanager
    def busy_here(self) -> Iterator[None]:
        """Within this context the calling thread is inside offload, though in no section: what interrupts it must not wait for it."""
        ident = threading.get_ident()
        self.waits[ident] += 1
        try:
            yield
        finally:
            self.waits[ident] -= 1
            if not self.waits[ident]:
                self.waits.pop(ident, None)  # a handler between the two lines may have done it


def _each(calls: collections.deque[Callable[[], None]]) -> None:
    """Take the calls out and make them, one after the other. One that an exception stops is put back for who comes next: each bears being made twice.

    An interrupt could lose what ``popleft()`` returns before it is assigned; it can't strike between an iterator of built-in parts and the loop's
    variable.
    """
    with contextlib.suppress(IndexError):  # of popleft, at the end or because another thread was faster; the calls raise none
        for call in iter(calls.popleft, None):
            try:
                call()
            except BaseException:  # an interrupt
                calls.appendleft(call)
                raise


class Guarded(Protocol):
    """What `section` needs of the object whose method it guards."""

    @property
    def monitor(self) -> Monitor: ...


S = TypeVar("S", bound=Guarded)


def section(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method one section of its object's monitor. Raises Reentered from inside another section of the same thread."""

    @functools.wraps(method)
    def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        monitor = self.monitor
        try:
            with monitor.lock:
                if monitor.entered:
                    raise Reentered(f"{method.__name__} was asked for by a signal handler or __del__ that interrupted offload; do it later")
                monitor.entered = True
                try:
                    return method(self, *args, **kwargs)
                finally:
                    monitor.entered = False
                    if monitor.late:
                        monitor.leave()
        finally:
            if monitor.chores:
                monitor.tidy()

    return guarded


current = Monitor()


def renew(phase: str) -> Monitor:
    """Make a fresh monitor the current one. For a forked child, and for the very end of the interpreter."""
    global current
    old = current
    current = Monitor()
    current.inline, current.observers, current.phase = old.inline, old.observers, phase
    return current
