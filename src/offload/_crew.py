"""A queue's workers, as its state knows them: who is parked, who is coming, who may still be started.

A plain data structure: whoever uses it is inside a section. Nothing here starts or stops a thread.
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
    coming: bool
    parked: bool
    ended: bool
    task: Task[Any] | None
    thread: BackgroundThread

    def release(self) -> None: ...


class Crew:
    """The workers of one queue."""

    __slots__ = ("_chores", "_start_one", "coming", "idle", "largest", "size", "threads", "workers")

    def __init__(self, chores: deque[Callable[[], None]], start_one: Callable[[], None]) -> None:
        self._chores = chores  # where the start of a thread is left to be done outside of the lock
        self._start_one = start_one
        self.idle: list[Hand] = []  # the parked, the last to park first to wake
        self.workers: dict[int, Hand | None] = {}  # by number; None while one is being started
        self.size = 0  # workers alive or promised
        self.coming = 0  # those of them that were woken or promised, and have not looked at the line since
        self.largest = 1  # how many there may be
        self.threads: set[threading.Thread] = set()  # as long as somebody may have to join them

    def rouse(self, number: int) -> None:
        """See to it that `number` workers are coming, as far as there are any or may be.

        An interrupt can strike between any two calls. Released and still in `idle`: `unpark` takes it out. Coming and not counted: one more than
        needed will come. Between the count of a new one and the `append` there is no call.
        """
        for _ in range(number - self.coming):
            if self.idle:
                worker = self.idle[-1]
                worker.release()
                self.idle.pop()
                self.coming, worker.coming = self.coming + 1, True
            elif self.size < self.largest:
                self.size, self.coming = self.size + 1, self.coming + 1
                self._chores.append(self._start_one)
            else:
                return

    def wake_all(self) -> None:
        """Let the parked look around."""
        while self.idle:
            self.idle[-1].release()
            self.idle.pop()

    def park(self, worker: Hand) -> None:
        """It found nothing to do."""
        worker.parked = True
        self.idle.append(worker)

    def unpark(self, worker: Hand) -> None:
        """It is awake, or has just started."""
        worker.parked = False
        if worker.coming:
            worker.coming, self.coming = False, self.coming - 1
        if worker in self.idle:
            self.idle.remove(worker)

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
        elif self.workers.get(worker.index) is None:
            self.workers.pop(worker.index, None)
        return at_work < self.size

    def not_started(self, worker: Hand | None) -> None:
        """No thread could be started for it."""
        if worker is not None:
            self.workers.pop(worker.index, None)
        self.size, self.coming = self.size - 1, self.coming - 1

    def watch(self, thread: threading.Thread) -> None:
        """A thread that somebody may have to join, in the place of those that have ended."""
        self.threads = {old for old in self.threads if old.is_alive()} | {thread}
