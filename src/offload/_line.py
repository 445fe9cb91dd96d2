"""What waits in a queue, in order.

Whoever uses it is inside a section, but for one thing: a call that nothing is special about appends its task to `arrivals` outside of any, at any
moment. So

- only sections take tasks out: between two looks of one section the line can only have grown;
- a section that has just changed what such a call looks at next (who is idle, how many there may be) sees the task by looking at the line after the
  change, if the call was too early to see the change: both go through the deque's own lock, which puts them in order. `__len__` sees to that.

`front` and then `arrivals` hold the tasks in order, and among them `dead` tombstones: tasks that were cancelled or taken out of turn, and are passed
over when their turn comes. `front` is empty but after the tombstones were cleared away, which can't be done to a deque that grows meanwhile. `ahead`
is the one of the two where the head of the line is, or an empty one; then `pop` looks where it is.
A call that may be replaced by a newer one of its key stands in a `Place`, which keeps its turn whatever task is in it.
"""

import collections
import itertools
from typing import Any, final

from offload._task import PENDING, Task

MANY_TOMBSTONES = 64


@final
class Place:
    """The place in line of the newest waiting call for one key."""

    __slots__ = ("key", "task")
    _state = "the task's"  # not PENDING: for who takes an entry for a task

    def __init__(self, key: object, task: Task[Any]) -> None:
        self.key = key
        self.task = task


class Line:
    """The waiting tasks of one queue."""

    __slots__ = ("arrivals", "dead", "front", "ahead", "places")

    def __init__(self) -> None:
        self.arrivals: collections.deque[Task[Any] | Place] = collections.deque()
        self.front: collections.deque[Task[Any] | Place] = collections.deque()
        self.ahead: collections.deque[Any] = self.arrivals  # where to look for the head of the line first
        self.dead = 0
        self.places: dict[object, Place] = {}

    def __len__(self) -> int:
        self.arrivals.rotate(0)  # moves nothing; takes the deque's lock on free-threaded builds: an append is all before this or after it
        return len(self.arrivals) + len(self.front) - self.dead

    def __contains__(self, task: Task[Any]) -> bool:
        self._gather()
        return any((entry.task if type(entry) is Place else entry) is task for entry in self.front)

    def add(self, task: Task[Any], key: object) -> Task[Any] | None:
        """Put a task at the end, or in the place of an older one of its key, which is returned."""
        if key is None:
            self.arrivals.append(task)
            return None
        place = self.places.get(key)
        if place is None or place.task._state is not PENDING:
            task._place = self.places[key] = Place(key, task)
            self.arrivals.append(task._place)
            return None
        return place.task

    def pop(self, entry: "Task[Any] | Place | None" = None) -> Task[Any] | None:
        """Take the oldest waiting task out; `entry` was taken out already, if it is given.

        For workers: no signal's exception strikes on their threads, between here and the change of its state.
        """
        while True:
            if entry is None:
                self.ahead = self.front or self.arrivals
                if not self.ahead:
                    return None
                entry = self.ahead.popleft()
            task = entry.task if type(entry) is Place else entry
            if task is not entry:
                self._leave_place(task)
            if task._state is PENDING:
                return task
            self.dead -= 1
            entry = None

    def head(self) -> Task[Any] | None:
        """The oldest waiting task, left where it is. Whoever takes it counts it in `dead` in the statement that changes its state."""
        while ahead := self.front or self.arrivals:
            entry = ahead[0]
            task = entry.task if type(entry) is Place else entry
            if task._state is PENDING:
                return task
            self.dead -= 1
            ahead.popleft()
        return None

    def withdraw(self, task: Task[Any]) -> bool:
        """Take a task out again that a call has just appended. Returns whether it still waited."""
        if task._state is not PENDING:
            return False
        self._gather()
        self.front.remove(task)
        return True

    def tidy(self, task: Task[Any]) -> None:
        """A task that was counted in `dead` just now leaves its place, and too many tombstones are cleared away."""
        self._leave_place(task)
        if self.dead > MANY_TOMBSTONES and self.dead > len(self):  # or calls and cancels by turns would grow for ever
            self._gather()
            live = collections.deque(e for e in self.front if (e.task if type(e) is Place else e)._state is PENDING)
            self.front, self.ahead, self.dead = live, live, 0

    def _gather(self) -> None:
        """Move all that there is to the front: in one call, which no interrupt can leave half done, and no faster than others append."""
        self.ahead = self.front
        self.front.extend(itertools.islice(iter(self.arrivals.popleft, None), len(self.arrivals)))

    def _leave_place(self, task: Task[Any]) -> None:
        place: Place | None = task._place
        if place is not None:
            if self.places.get(place.key) is place:  # else a newer call has another
                del self.places[place.key]
            task._place = None
