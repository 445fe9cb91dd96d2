"""When a process leaves or forks: the hooks, their order, their one clock. They know no queue; `hand_over` tells them what to call.

How CPython ends (seen on 3.11 to 3.14): 1 the excepthook; 2 the callbacks of ``threading._register_atexit``, newest first; 3 the join of non-daemon
threads; 4 atexit, newest first; 5 daemon threads freeze; 6 teardown. So offload drains in 2, where a task can still start threads and use thread
pools (the pools' own callbacks were registered before ours and run after), and again in 4 for what threads and other exit handlers have added. After
that nobody drains any more, and calls run in place: handlers that were registered before offload's are served too.

The callbacks of 2 are private to CPython. Without them the drain in 4 alone still does all but the tasks that use thread pools.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from offload._settings import flag, near, refuse, seconds

PROCESS_POOLS: Final = "concurrent.futures.process"
to_hook: Mapping[str, Any] = sys.modules
"""Where each call and each worker looks for PROCESS_POOLS, whose exit hook must not run ahead of ours; empty once that is seen to."""
with contextlib.suppress(RuntimeError):  # imported by an exit handler: too late for its callback, and for thread pools
    import concurrent.futures.thread  # noqa: F401  # its callback must be older than ours, so that it runs after it


class Leaving:
    """One process's way out: the settings, how much of the deadline is used up, how often it was interrupted."""

    def __init__(self, timeout: float | None = None, progress: bool | None = None) -> None:
        self.timeout = timeout
        self.progress = progress
        self.used = 0.0
        self.interrupts = 0
        self.hooked = False
        self.over = False
        self.pid = os.getpid()


leaving = Leaving()
_renew: Callable[[bool], None]
_drain: Callable[[Leaving], None]
_finish: Callable[[Leaving | None], None]


def hand_over(renew: Callable[[bool], None], drain: Callable[[Leaving], None], finish: Callable[[Leaving | None], None]) -> None:
    """Say what is to be called: ``renew`` in a forked child, ``drain`` in each phase of an exit, ``finish`` after the last."""
    global _renew, _drain, _finish
    _renew, _drain, _finish = renew, drain, finish
    atexit.register(_leave_at_last)


def configure(where: str = "configure_exit", **settings: Any) -> None:
    """Set ``timeout`` (seconds, None: no deadline) and ``progress`` (None: automatic). Raises ConfigurationError."""
    checked = {name: _check(name, value, where) for name, value in settings.items()}
    for name, value in checked.items():
        setattr(leaving, name, value)


def settings() -> dict[str, Any]:
    """What `configure` has set."""
    return {"timeout": leaving.timeout, "progress": leaving.progress}


def _check(name: str, value: object, where: str) -> object:
    if name == "timeout":
        return seconds(name, value, where)
    if name == "progress":
        return None if value is None else flag(name, value, where)
    raise refuse(where, name, value, f"unknown setting{near(name, ('timeout', 'progress'))}")


def ensure_hooks() -> None:
    """Register the hooks of this process. At its first call, for a child may have lost those of its parent, and when process pools show up."""
    global to_hook
    pools = PROCESS_POOLS in to_hook
    if leaving.hooked and not pools:
        return
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        try:
            register(_leave)
        except RuntimeError:
            # the threads are being joined: the drain by atexit is left; or on the main thread, which does that, the handlers of atexit run already
            if threading.current_thread() is threading.main_thread():
                _finish(None)  # perhaps from a task that runs in place, which would wait for itself
                return
    if not leaving.hooked:
        atexit.register(_leave_for_good)
        _hook_multiprocessing()
    leaving.hooked = True
    if pools:
        to_hook = {}


def go_first() -> None:
    """Drain ahead of the hooks that have been registered since ours: loky's come with each pool."""
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with contextlib.suppress(RuntimeError):  # it is too late for one
            register(_leave)


def _hook_multiprocessing() -> None:
    # Before 3.13 a child of multiprocessing closes its queues ahead of the threading callbacks, and never runs atexit.
    util = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, _leave, exitpriority=10**6)


def _leave() -> None:
    """Drain. Never raises: an exception here would skip the other callbacks, and the join of the threads."""
    check_process()
    started = time.monotonic()
    try:
        _drain(leaving)
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
    finally:
        leaving.used += time.monotonic() - started


def _leave_for_good() -> None:
    """Drain what came since, then let go: from here on calls run in place."""
    _leave()
    try:
        _finish(leaving)
        leaving.over = True
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())


def _leave_at_last() -> None:
    """Make up for what did not happen: registered with the import, it runs after the handlers that were registered since.

    A first call may come in the midst of 4. If a Ctrl-C has kept 2 from being entered, hooks can be registered then, and are never run. Or a Ctrl-C
    struck at the entry of `_leave_for_good`.
    """
    check_process()
    if not leaving.over:
        _leave_for_good()


def forked() -> None:
    """Start afresh in a child. Takes no lock and logs nothing: a thread that does not exist here may hold any lock."""
    global leaving, to_hook
    leaving, to_hook = Leaving(leaving.timeout, leaving.progress), sys.modules
    # Forked off a thread, this process ends when that thread and all others have, and CPython runs no hook: then no worker must stay for more.
    _renew(not isinstance(threading.main_thread(), threading._MainThread))  # type: ignore[attr-defined]


def check_process() -> None:
    """Find out about a fork that ran no at-fork hooks (uwsgi's)."""
    if os.getpid() != leaving.pid:
        forked()


def end_forked_task(error: BaseException | None) -> NoReturn:
    """End a child that a task has forked, and that has come back from the task: it is no worker. Drains its own queues first.

    Such a process has no main thread, so CPython would end it without flushing its streams or running a hook. Its status is what the
    task's end would give a main program: 0, SystemExit's code, or 1 with the traceback on stderr.
    """
    status = 0
    if isinstance(error, SystemExit):
        status = _status(error)
    elif error is not None:
        status = 1
        sys.excepthook(type(error), error, error.__traceback__)
    _leave()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _status(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forked)
