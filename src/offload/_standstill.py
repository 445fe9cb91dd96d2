"""Event loops that stand still.

Whatever blocks the thread of a queue's event loop (a call that runs in place there, a ``result()``, a full queue) stops all the coroutines on that
loop. If it waits, by whatever detour, for one that is still to be given to the loop, both wait for ever. So

1. as long as it blocks, the loop has stepped aside: the queue's next coroutines get a loop of their own, and the slots of those that can't go on;
2. to wait for a task that is on the blocked loop already is a RuntimeError, at once. A task learns its loop in the section that gives it one, and the
   loop has stepped aside before that is looked at: either it is seen there, or it has gone to another loop.

A thread knows the loops that stand still for what it runs, and hands them on to the helper thread that runs a coroutine in its place.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol


class Loop(Protocol):
    """What is asked of a queue's event loop."""

    awaiting: int

    def step_aside(self) -> None: ...
    def step_back(self) -> None: ...


class _Here(threading.local):
    own: Loop | None = None  # the loop that this thread runs
    still: tuple[Loop, ...] = ()  # those that stand still until this thread goes on


here = _Here()


@contextlib.contextmanager
def standing_still() -> Iterator[None]:
    """Within this context the calling thread blocks; if a queue's loop runs there, it has stepped aside."""
    own, before = here.own, here.still
    if own is None or own in before:
        yield
        return
    own.step_aside()
    here.still = (*before, own)
    try:
        yield
    finally:
        here.still = before
        own.step_back()


def refuse_if_stopped(loop: Loop | None, task: str) -> None:
    """Raise RuntimeError if the calling thread is what keeps this loop from going on. Within `standing_still`."""
    if loop is not None and loop in here.still:
        raise RuntimeError(
            f"waiting here for {task} would never end: it is a coroutine on the event loop that this very call blocks. "
            "Await it in the coroutine that called, or wait for it elsewhere"
        )
