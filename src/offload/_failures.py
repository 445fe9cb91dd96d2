"""What happens when a task fails: told once, at once, and kept for ``flush(raise_errors=True)``."""

import contextlib
import sys
import threading
import traceback
from typing import Any

from offload._core import Core
from offload._errors import OffloadError
from offload._state import KEPT_FAILURES, Failure
from offload._task import Task


def report(core: Core, task: Task[Any], error: BaseException) -> None:
    """Tell ``on_error``, or the log, and keep the failure. Never raises."""
    core.reporting[task] = threading.get_ident()
    on_error = core.settings.on_error
    if on_error is None:
        log_error(core, error, "%s failed (offloaded at %s)", task.name, task.caller)
    else:
        try:
            on_error(task, error)
        except BaseException as own:  # noqa: BLE001  # whatever a handler raises is its own failure, not the task's or the worker's
            log_error(core, own, "on_error of queue %r failed for %s (offloaded at %s)", core.path, task.name, task.caller)
    clear_frames(error)
    keep(core, Failure(task.name, task.caller, error))


def log_error(core: Core, error: BaseException, message: str, *args: object) -> None:
    """Log a failure. Never raises: where a logging handler or filter does, that goes to stderr by way of ``sys.excepthook``."""
    try:
        core.logger.error(message, *args, exc_info=error)
    except BaseException:  # noqa: BLE001
        with contextlib.suppress(BaseException):
            sys.excepthook(*sys.exc_info())


def keep(core: Core, failure: Failure) -> None:
    """Keep the newest failures and the number of the others."""
    with core.monitor.lock:
        if len(core.failures) == core.failures.maxlen:
            core.failures_lost += 1
        core.failures.append(failure)
    core.monitor.tidy()


def clear_frames(error: BaseException) -> None:
    """Let go of the locals of every frame that an exception, or one that led to it, holds."""
    seen: set[int] = set()
    stack: list[BaseException | None] = [error]
    while stack:
        current = stack.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        stack += [current.__cause__, current.__context__]
        if isinstance(current, BaseExceptionGroup):
            stack += current.exceptions


def hand_on_failures(old: Core, new: Core) -> None:
    """The failures of a queue that was shut down are told by the one that was opened in its place."""
    with new.monitor.lock:
        lost = max(0, len(old.failures) + len(new.failures) - KEPT_FAILURES)
        merged = [*old.failures, *new.failures]
        new.failures.clear()
        new.failures.extend(merged)
        new.failures_lost += old.failures_lost + lost
        old.failures.clear()
    new.monitor.tidy()


def take_failures(cores: list[Core]) -> tuple[list[Failure], int]:
    """The failures kept since the last time, and how many more there were. Inside a section."""
    failures = [failure for core in cores for failure in core.failures]
    lost = sum(core.failures_lost for core in cores)
    for core in cores:
        core.failures.clear()
        core.failures_lost = 0
    return failures, lost


def as_group(failures: list[Failure], lost: int) -> ExceptionGroup[Exception]:
    """One exception of many: each with a note that says where its call was made."""
    total = len(failures) + lost
    message = f"{total} offloaded call{'s' if total > 1 else ''} failed"
    if lost:
        message += f"; the newest {len(failures)} are here, {lost} more were not kept"
    return ExceptionGroup(message, [_noted(failure) for failure in failures])


def _noted(failure: Failure) -> Exception:
    error, note = failure.exception, f"{failure.name}, offloaded at {failure.caller}"
    if isinstance(error, Exception):
        if note not in getattr(error, "__notes__", ()):
            with contextlib.suppress(Exception):  # it may be frozen, and take no notes
                error.add_note(note)
        return error
    wrapped = OffloadError(f"{failure.name} ended by {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    wrapped.add_note(note)
    return wrapped
