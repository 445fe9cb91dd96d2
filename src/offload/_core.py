"""What may be done to a queue's state (see _state), a section at a time; and what a Task asks of its queue."""

import threading
from contextvars import ContextVar
from typing import Any

from offload._monitor import Reentered, section
from offload._settings import Settings
from offload._standstill import here
from offload._state import State
from offload._task import PENDING, Task

current_task: ContextVar[Task[Any] | None] = ContextVar("offload_task", default=None)
"""The task whose coroutine runs in this context."""


class Core(State):
    """One queue in one process. After a fork the child's queue has a new one: `successor()`."""

    __slots__ = ()

    @section
    def configure(self, settings: Settings, handler: Any) -> bool:
        """Change the settings of a queue at work: admits and wakes whom the change concerns. Returns False, and changes nothing, if that would take
        the handler away from tasks that wait or run.
        """
        if handler is not self.handler:
            if len(self.line) or self.running:  # what has ended needs it no more
                return False
            self.handler = handler
        if settings.executor is not self.settings.executor:
            self.refusal = None
        self.set_up(settings)
        self.admit_blocked()
        self.rouse()
        self.crew.wake_all()  # the parked look at idle_timeout and at their number anew
        return True

    @section
    def open(self) -> None:
        """Join those whom an exit has to drain. At the first call, and again after a time without work or threads."""
        if not self.closed:  # or it would stay there for ever
            self.monitor.live[self] = None
        self.refresh()

    @section
    def close(self) -> None:
        """Refuse calls from now on, those that wait for room too."""
        self.closed = True
        self.turn_away()
        self.notice_idle()

    @section
    def steal(self, task: Task[Any]) -> bool:
        """Start one task out of turn. Returns whether it still waited."""
        if task._state is not PENDING:
            return False
        self.start(task, waiting=True)
        self.admit_blocked()
        return True

    @section
    def hand_over(self, task: Task[Any]) -> None:
        """The task goes on elsewhere: on an event loop or in an executor."""
        self.elsewhere[task] = 0

    @section
    def nudge(self) -> None:
        """A slot is free, or somebody is about to wait, or was interrupted: whoever should be at work is woken."""
        self.make_good()

    @section
    def arrived(self, task: Task[Any]) -> bool:
        """A task was appended, and something may have to be done about it. Returns False if it was taken out again."""
        if self.limit < 0 and self.line.withdraw(task):
            self.admit_blocked()  # as far as anybody has seen it there, it is as if it had been cancelled
            self.notice_idle()
            return False
        self.rouse()
        return True

    def runs_here(self) -> bool:
        """Whether the calling thread, or the coroutine that it runs, is a task of this queue."""
        ident = threading.get_ident()
        if any(core is self for core, _ in self.monitor.inside.get(ident, ())):
            return True
        if ident in self.monitor.hired:  # a task runs in its caller's context, and in that, perhaps, its caller's task
            return False
        task = current_task.get()
        return task is not None and task._owner is self and not task.done()

    def cancel(self, task: Task[Any]) -> bool:
        """Cancel a waiting task. From within an interrupted section the answer is no, as if it had just started."""
        if not self.mark[0]:
            return task.cancelled()
        try:
            cancelled = self._cancel(task)
        except Reentered:
            return False
        if cancelled:
            task._announce()
        return task.cancelled()

    @section
    def _cancel(self, task: Task[Any]) -> bool:
        if task._state is not PENDING:
            return False
        self.cancel_in_line(task)
        self.admit_blocked()
        self.notice_idle()
        return True

    @section
    def cancel_waiting(self, most: int = 1000, *, at_exit: bool = False) -> list[Task[Any]]:
        """Cancel up to `most` waiting tasks, oldest first; `at_exit` their names are noted as abandoned. Returns them, to be announced."""
        gone: list[Task[Any]] = []
        while len(gone) < most and (task := self.line.head()) is not None:
            gone.append(task)
            if at_exit:
                self.abandoned.append(task.name)
            self.cancel_in_line(task)
        self.admit_blocked()
        self.notice_idle()
        return gone

    def before_wait(self, task: Task[Any]) -> None:
        """Called before a thread blocks on a task: makes sure that the wait can end."""
        if self.monitor.lock._is_owned():  # type: ignore[attr-defined]
            raise Reentered(f"waiting for {task.name} in a signal handler or __del__ that interrupted offload would never end; do it later")
        if self.runs_here() and self.steal(task):
            self._run_in_place(self, task)
        else:
            self.nudge()

    def reported_here(self, task: Task[Any]) -> bool:
        """Whether the calling thread is telling on_error of this task's failure, and so sees it ended already."""
        return self.reporting.get(task) == threading.get_ident()

    def before_await(self) -> bool:
        """A task that awaits another of its own queue lends it its slot. Returns whether it did."""
        if not self.runs_here():
            return False
        self._lend(1)
        if here.own is not None:
            here.own.awaiting += 1
        return True

    def after_await(self) -> None:
        """It takes its slot back."""
        self._lend(-1)
        if here.own is not None:
            here.own.awaiting -= 1

    @section
    def _lend(self, slots: int) -> None:
        self.lend(slots)
