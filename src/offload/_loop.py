"""The event loop that runs a queue's coroutines: one thread for each queue, started with the first coroutine and ended when idle.

The number of coroutines that a loop has (`active`) and the queue's reference to it (`core.loop`) change in sections only: a loop that ends has taken
itself out of `core.loop` in the section that found `active` to be 0, so no coroutine can be given to a loop that is on its way out. A loop whose
thread something blocks has taken itself out as well (see `_standstill`); it goes back if its place is still free, and else ends with its last.
"""

import threading
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from offload._core import Core, current_task
from offload._ending import complete, fail, without_first_frame
from offload._monitor import IN_PLACE, Monitor, section
from offload._standstill import here
from offload._task import Task
from offload._threads import BackgroundThread


def run(core: Core, task: Task[Any], coroutine: Coroutine[Any, Any, Any], context: Context, *, in_place: bool) -> bool:
    """See a started task's coroutine to its end: on the queue's loop, or here. Returns whether it succeeded and is yet to be ended."""
    context.run(current_task.set, task)
    if not in_place:
        loop = Loop.of(core, task)
        if loop.start():
            core.hand_over(task)
            loop.give(task, coroutine, context)
            return False
        loop.count(-1)
        task._loop = None
    try:
        task._result = _run_to_end(coroutine, context)
    except BaseException as error:  # noqa: BLE001  # as for any other task
        fail(core, task, without_first_frame(error))
        return False
    return True


def _run_to_end(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
    import asyncio  # its import costs more than offload's; who has coroutines has paid for it

    def to_end() -> Any:
        with asyncio.Runner() as runner:
            return runner.run(coroutine, context=context)

    if asyncio._get_running_loop() is None:
        return to_end()
    return _in_helper_thread(to_end)


def _in_helper_thread(call: Any) -> Any:
    outcome: list[Any] = []
    still = here.still

    def main() -> None:
        here.still = still
        try:
            outcome.extend((call(), None))
        except BaseException as error:  # noqa: BLE001  # carried over to the thread that asked
            outcome.extend((None, error))

    thread = threading.Thread(target=main, name="offload-helper")
    thread.start()
    thread.join()
    result, error = outcome
    if error is not None:
        raise error
    return result


class Loop:
    """One queue's event loop and its thread."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.monitor: Monitor = core.monitor
        self.active = 0
        self.failed = False
        self.aside = False
        self.awaiting = 0  # how often its coroutines await others of their queue, and lend them their slots for that
        self.lending = 0  # while it stands aside: the slots of the rest
        self._timer: Any = None
        self._up = threading.Event()
        self._starting = threading.Lock()
        self.thread = BackgroundThread(f"{core.label}-loop", self._main)

    @staticmethod
    def of(core: Core, task: Task[Any]) -> "Loop":
        """The loop for a task: the queue's, with one more coroutine counted."""
        return _given(core, task) or Loop(core)._adopt(task)

    @section
    def _adopt(self, task: Task[Any]) -> "Loop":
        if self.core.loop is None:
            self.core.loop = self
        return _give(self.core.loop, task)

    def start(self) -> bool:
        """Bring the thread up if it is not. Blocks until its loop runs. Returns False where no thread can be started."""
        with self._starting:
            if self.thread.ident is None and not self.failed:
                try:
                    self.thread.start()
                except RuntimeError:
                    self.failed = True
        if not self.failed:
            self._up.wait()
        return not self.failed

    def give(self, task: Task[Any], coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
        """Start a coroutine on the loop."""
        self.loop.call_soon_threadsafe(self._create, task, coroutine, context)

    def _create(self, task: Task[Any], coroutine: Coroutine[Any, Any, Any], context: Context) -> None:
        running = self.loop.create_task(self._see_through(task, coroutine), name=task.name, context=context)
        self._tasks.add(running)  # a loop itself keeps only weak references
        running.add_done_callback(self._tasks.discard)

    async def _see_through(self, task: Task[Any], coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            task._result = await coroutine
        except BaseException as error:  # noqa: BLE001  # as for any other task
            fail(self.core, task, without_first_frame(error), handed_over=True)
        else:
            complete(self.core, task, handed_over=True)
        if self.count(-1) == 0:
            self._end_when_idle()

    def _end_when_idle(self) -> None:
        timeout = self.core.settings.idle_timeout
        monitor = self.monitor
        if self._timer is not None:
            self._timer.cancel()
        if self.aside or self.core.closed or monitor.phase == IN_PLACE or monitor.unattended or (monitor.leaving and not self.thread.left_behind):
            self.end_if_idle()
        elif timeout is not None:  # in a context of its own, or the timer would keep the last task alive
            self._timer = self.loop.call_later(timeout, self.end_if_idle, context=Context())

    @section
    def count(self, change: int) -> int:
        """Count coroutines. A loop that failed to start is let go of with its last."""
        self.active += change
        if self.failed and not self.active and self.core.loop is self:
            self.core.loop = None
        return self.active

    @section
    def end_if_idle(self) -> None:
        """End the loop if it has no coroutine. On the loop's thread."""
        if not self.active and (self.aside or self.core.loop is self):
            if not self.aside:
                self.core.loop = None
            self._over.set()

    @section
    def step_aside(self) -> None:
        """Its thread is about to block: coroutines that come meanwhile get another loop, and the slots of those that can't go on. On its thread."""
        if self.core.loop is self:
            self.core.loop = None
        self.aside = True
        self.lending = max(0, self.active - self.awaiting - 1)  # all but the one that blocks
        self.core.lend(self.lending)

    def step_back(self) -> None:
        """Its thread goes on. What may have asked an idle loop to end meanwhile did not ask this one, so it asks itself."""
        if self._take_place_again() == 0:
            self._end_when_idle()

    @section
    def _take_place_again(self) -> int:
        self.core.lend(-self.lending)
        if self.core.loop is None and not self._over.is_set():  # else what asyncio cancels at the loop's end has blocked it
            self.core.loop = self
            self.aside = False
        return self.active

    def end(self) -> None:
        """Ask an idle loop to end, from any thread."""
        self.loop.call_soon_threadsafe(self.end_if_idle)

    def _main(self) -> None:
        import asyncio

        here.own = self
        self._enlist()
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    @section
    def _enlist(self) -> None:
        """The first step on its own thread, as a worker's: one that did not start must not be joined."""
        self.core.crew.watch(self.thread)

    async def _serve(self) -> None:
        import asyncio

        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._up.set()
        await self._over.wait()


@section
def _given(core: Core, task: Task[Any]) -> Loop | None:
    """The queue's loop, if it has one, with one more coroutine counted."""
    return None if core.loop is None else _give(core.loop, task)


def _give(loop: Loop, task: Task[Any]) -> Loop:
    loop.active += 1
    task._loop = loop
    return loop
