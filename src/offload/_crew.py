"""A queue's workers, as its state knows them: who is parked, who is coming, who may still be started.

Whoever uses it is inside a section, but for `wake_one`. Nothing here starts or stops a thread.

A worker in `idle` has not looked at the line since it was put there. Whoever takes it out wakes it, so it will look. Sections wake it first and then
take it out, so that an interrupt between the two costs nothing. `wake_one` must take it out first, and `recover` makes up for an interrupt there: by
the one who was interrupted, and before anybody waits, for that may be a signal handler on top of `wake_one` itself.
To be woken twice, or in vain, does a worker no harm. A worker stays `parked` until it has looked at the line, in a section; so those who are on
their way are those who are parked and in `idle` no more, and nobody has to count them.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from offload._task import Task
from offload._threads import BackgroundThread


class Hand(Protocol):
    """A worker, as its crew sees it."""

    index: int
    parked: bool
    ended: bool
    task: Task[Any] | None
    thread: BackgroundThread

    @property
    def busy(self) -> bool: ...
    def release(self) -> None: ...


class Crew:
    """The workers of one queue."""

    __slots__ = ("_chores", "_start_one", "idle", "largest", "parked", "size", "starting", "threads", "workers")

    def __init__(self, chores: deque[Callable[[], None]], start_one: Callable[[], None]) -> None:
        self._chores = chores  # where the start of a thread is left to be done outside of the lock
        self._start_one = start_one
        self.idle: list[Hand] = []  # the parked, the last to park first to wake
        self.workers: dict[int, Hand | None] = {}  # by number; None while one is being started
        self.size = 0  # workers alive or promised
        self.starting = 0  # those of them that are promised
        self.parked = 0  # those of them that have not looked at the line since they parked or started
        self.largest = 1  # how many there may be
        self.threads: set[threading.Thread] = set()  # as long as somebody may have to join them

    def coming(self) -> int:
        """How many are on their way. To be asked before the look at the line: a call that wakes one for itself could come between the two, and then
        its task would not be counted, but its worker would.
        """
        return self.starting + self.parked - len(self.idle)

    def rouse(self, number: int) -> None:
        """Put `number` more workers on their way, as far as there are any or may be.

        An interrupt can strike between any two calls. Released and still in `idle`: `unpark` takes it out. Between the count of a new one and the
        `append` there is no call.
        """
        for _ in range(number):
            if not self._wake_last():
                if self.size >= self.largest:
                    return
                self.size, self.starting = self.size + 1, self.starting + 1
                self._chores.append(self._start_one)

    def wake_all(self) -> None:
        """Let the parked look around."""
        while self._wake_last():
            pass

    def _wake_last(self) -> bool:
        try:
            worker = self.idle[-1]
        except IndexError:
            return False
        worker.release()
        self.leave_idle(worker)
        return True

    def wake_one(self) -> bool:
        """Wake a parked worker, outside of any section. Returns whether there was one."""
        try:
            worker = self.idle.pop()
        except IndexError:  # others were faster
            return False
        worker.release()
        return True

    def recover(self) -> None:
        """Wake those who stand parked and in `idle` no more: whoever has taken them out may be prevented from it."""
        for worker in self.workers.values():
            if worker is not None and worker.parked and worker not in self.idle:
                worker.release()

    def leave_idle(self, worker: Hand) -> bool:
        """Take a worker out of `idle`. Returns False if it was not there (any more): whoever has taken it out wakes it."""
        try:
            self.idle.remove(worker)
        except ValueError:
            return False
        return True

    def park(self, worker: Hand) -> None:
        """It found nothing to do."""
        worker.parked, self.parked = True, self.parked + 1
        self.idle.append(worker)

    def unpark(self, worker: Hand) -> None:
        """It looks at the line, or will never again."""
        worker.parked, self.parked = False, self.parked - 1
        if worker in self.idle:
            self.leave_idle(worker)

    def dismiss(self, worker: Hand) -> None:
        """It ends."""
        worker.ended = True
        self.workers.pop(worker.index, None)
        self.size -= 1

    def reserve_index(self) -> int:
        """The lowest number that no worker has."""
        index = next(i for i in itertools.count() if i not in self.workers)
        self.workers[index] = None
        return index

    def enlist(self, worker: Hand) -> bool:
        """It has begun to run. Returns False if it is one too many: an interrupted start was made twice."""
        at_work = sum(other is not None for other in self.workers.values())
        if at_work < self.size:
            self.workers[worker.index] = worker
            self.starting -= 1
            worker.parked, self.parked = True, self.parked + 1
        elif self.workers.get(worker.index) is None:
            self.workers.pop(worker.index, None)
        return at_work < self.size

    def not_started(self, worker: Hand | None) -> None:
        """No thread could be started for it."""
        if worker is not None:
            self.workers.pop(worker.index, None)
        self.size, self.starting = self.size - 1, self.starting - 1

    def watch(self, thread: threading.Thread) -> None:
        """A thread that somebody may have to join, in the place of those that have ended."""
        self.threads = {old for old in self.threads if old.is_alive()} | {thread}
