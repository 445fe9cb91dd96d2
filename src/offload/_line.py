"""What waits in a queue, in order. A plain data structure: whoever uses it holds the lock.

`entries` holds the tasks in order of arrival, and among them `dead` tombstones: tasks that were cancelled or taken out of turn, and are passed over
when they come to the front. A call that may be replaced by a newer one of its key stands in a `Place`, which keeps its turn whatever task is in it.
"""

import collections
from typing import Any, final

from offload._task import PENDING, Task

MANY_TOMBSTONES = 64


@final
class Place:
    """The place in line of the newest waiting call for one key."""

    __slots__ = ("key", "task")

    def __init__(self, key: object, task: Task[Any]) -> None:
        self.key = key
        self.task = task


class Line:
    """The waiting tasks of one queue."""

    __slots__ = ("dead", "entries", "places")

    def __init__(self) -> None:
        self.entries: collections.deque[Task[Any] | Place] = collections.deque()
        self.dead = 0
        self.places: dict[object, Place] = {}

    def __len__(self) -> int:
        return len(self.entries) - self.dead

    def __contains__(self, task: Task[Any]) -> bool:
        return any((entry.task if type(entry) is Place else entry) is task for entry in self.entries)

    def add(self, task: Task[Any], key: object) -> Task[Any] | None:
        """Put a task at the end, or in the place of an older one of its key, which is returned."""
        if key is None:
            self.entries.append(task)
            return None
        place = self.places.get(key)
        if place is None:
            task._place = self.places[key] = Place(key, task)
            self.entries.append(task._place)
            return None
        older, place.task, task._place = place.task, task, place
        older._place = None
        return older

    def pop(self) -> Task[Any] | None:
        """Take the oldest waiting task out. For workers: no signal's exception strikes on their threads, between here and the change of its state."""
        while self.entries:
            task = self.entries.popleft()
            if type(task) is Place:
                task = task.task
                self._leave_place(task)
            if task._state is PENDING:
                return task
            self.dead -= 1
        return None

    def head(self) -> Task[Any] | None:
        """The oldest waiting task, left where it is. Whoever takes it counts it in `dead` in the statement that changes its state."""
        while self.entries:
            entry = self.entries[0]
            task = entry.task if type(entry) is Place else entry
            if task._state is PENDING:
                return task
            self.dead -= 1
            self.entries.popleft()
        return None

    def tidy(self, task: Task[Any]) -> None:
        """A task that was counted in `dead` just now leaves its place, and too many tombstones are cleared away."""
        self._leave_place(task)
        if self.dead > MANY_TOMBSTONES and self.dead > len(self.entries) // 2:  # or calls and cancels by turns would grow for ever
            live = collections.deque(e for e in self.entries if (e.task if type(e) is Place else e)._state is PENDING)
            self.entries, self.dead = live, 0

    def _leave_place(self, task: Task[Any]) -> None:
        if task._place is not None:
            self.places.pop(task._place.key, None)
            task._place = None
