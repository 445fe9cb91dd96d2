"""A thread of offload's own: left behind at exit if it must be, and a thread like any other to the code that it runs."""

import contextvars
import threading
from collections.abc import Callable


class BackgroundThread(threading.Thread):
    """A daemon that says of itself that it is none.

    Offload's threads are daemons, so that a deadline at exit can leave a stuck one behind. But a thread inherits `daemon` from the one that starts
    it, and a task's own threads must be waited for like anybody's. CPython reads `daemon` for itself before `run`, so from there on it may tell the
    other story.
    """

    def __init__(self, name: str, main: Callable[[], object]) -> None:
        self._at_work = False
        try:
            super().__init__(name=name, daemon=True)
            self.left_behind = True
        except RuntimeError:  # an isolated subinterpreter allows none but threads that are waited for
            super().__init__(name=name, daemon=False)
            self.left_behind = False
        self._main = main

    @property
    def daemon(self) -> bool:  # type: ignore[override]
        """As ``threading.Thread.daemon``; False in its own eyes once it runs."""
        return bool(self._daemonic) and not (self._at_work and threading.current_thread() is self)  # type: ignore[attr-defined]

    def start(self) -> None:
        """As ``threading.Thread.start``, in an empty context: 3.14 would keep the caller's for the thread's whole life."""
        contextvars.Context().run(super().start)

    def run(self) -> None:
        """Run the main function that it was made with."""
        self._at_work = True
        self._main()
