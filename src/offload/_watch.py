"""The calls of one test: a record of them for its eyes, and what it is to fail for. The pytest plugin's room without pytest in it."""

import concurrent.futures
import dataclasses
import time
from typing import Any

from offload import _observing, _waiting
from offload._errors import OffloadError
from offload._task import PENDING, Task

LOOK_AGAIN = 0.05  # seconds


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One recorded call: its arguments (the objects themselves, without self or cls), its Task, and what became of it."""

    task: Task[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    _watch: "Watch" = dataclasses.field(repr=False)

    @property
    def name(self) -> str:
        """What was called: ``"package.module.function"``."""
        return self.task.name

    @property
    def outcome(self) -> str:
        """``"waiting"``, ``"running"``, ``"succeeded"``, ``"failed"``, ``"cancelled"`` (also dropped and replaced calls) or ``"refused"``, at this
        moment.

        ``offloaded.flush()`` waits for all. Whoever sees a failure here has looked at it. Does not block.
        """
        if self in self._watch.refusals:
            return "refused"
        if not self.task.done():
            return "running" if self.task.running() else "waiting"
        if self.task.cancelled():
            return "cancelled"
        return "succeeded" if self.exception(0) is None else "failed"

    def result(self, timeout: float | None = None) -> Any:
        """What the call returned. Blocks until it has ended, as long as the test's tasks have, or ``timeout`` seconds.

        Raises what the call raised.
        """
        return self.task.result(self._watch.timeout if timeout is None else timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What the call raised, or None. Blocks as `result` does."""
        return self.task.exception(self._watch.timeout if timeout is None else timeout)


class Offloaded:
    """The fixture ``offloaded``: the calls of one test, on the default registry and all others."""

    def __init__(self, watch: "Watch") -> None:
        self._watch = watch

    def calls(self, name: str | None = None) -> list[Call]:
        """The calls so far, in order; with a name those of one function. The name is the Task's, or its last parts: ``"app.send_mail"``,
        ``"send_mail"``.

        Each has ``args``, ``kwargs``, ``task`` and ``outcome``; ``result()`` and ``exception()`` wait for it. Does not block.
        """
        return [call for call in self._watch.calls if name is None or f".{call.name}".endswith(f".{name}")]

    def flush(self, timeout: float | None = None) -> None:
        """Block until the test's tasks have ended. ``timeout`` is in seconds, that of the test if it is None.

        Raises TimeoutError, naming what has not.
        """
        if left := self._watch.wait(timeout):
            raise TimeoutError(_still_running(left, self._watch.timeout if timeout is None else timeout))

    def __repr__(self) -> str:
        return f"<offloaded: {[(call.name, call.outcome) for call in self.calls()]}>"


class Watch(_observing.Observer):
    """The calls of one test, and who has looked at them."""

    def __init__(self, mode: str, timeout: float, *, keeps_arguments: bool) -> None:
        self.mode = mode
        self.timeout = timeout
        self.keeps_arguments = keeps_arguments
        self._calls: dict[Task[Any], Call] = {}
        self.refusals: set[Call] = set()
        self.told: set[Call] = set()  # failures and leftovers that a test has failed for
        self.seen: set[Task[Any]] = set()
        self.left_behind = False

    @property
    def calls(self) -> list[Call]:
        """The calls so far, in order."""
        return list(self._calls.values())

    def called(self, task: Task[Any]) -> None:
        """Record the call, with its arguments if the test may ask for them."""
        args, kwargs = (task._args, dict(task._kwargs or {})) if self.keeps_arguments else ((), {})
        self._calls[task] = Call(task, args, kwargs, self)

    def refused(self, task: Task[Any]) -> None:
        """It will never end, and nobody is to wait for it."""
        if (call := self._calls.get(task)) is not None:
            self.refusals.add(call)

    def looked_at(self, task: Task[Any]) -> None:
        """Its failure is no longer the test's."""
        self.seen.add(task)

    def unfinished(self) -> list[Call]:
        """The calls that have not ended, their callbacks included, and that no test has failed for."""
        return [call for call in self.calls if call not in self.refusals and call not in self.told and not _over(call.task)]

    def wait(self, timeout: float | None = None) -> list[Call]:
        """Wait for the tasks, and theirs. Returns those that have not ended in time."""
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while unfinished := self.unfinished():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            if tasks := [call.task for call in unfinished if not call.task.done()]:
                concurrent.futures.wait(tasks, remaining)
            else:
                _wait_for_callbacks([call.task for call in unfinished], deadline)
        return unfinished

    def failures(self) -> list[Call]:
        """The failed calls that nobody has looked at."""
        ended = [call for call in self.calls if call not in self.told and call.task.done() and call.task not in self.seen]
        return [call for call in ended if call.task._exception is not None and _still_kept(call.task)]

    def verdict(self) -> BaseException | None:
        """Wait for the tasks. Returns what the test is to fail with, if anything; tells nothing twice."""
        left = self.wait()
        failures = self.failures()
        self.told.update(left, failures)
        self.left_behind = self.left_behind or bool(left)
        if self.mode == "off":
            return None
        errors = [_as_told(call) for call in failures]
        if left:
            message = _still_running(left, self.timeout)
            for call in left:
                call.task.cancel()
            if not errors:
                import pytest  # whose plugin asks

                return pytest.fail.Exception(message, pytrace=False)
            errors.append(OffloadError(message))
        if len(errors) > 1:
            return ExceptionGroup(f"{len(errors)} of the test's offloaded calls went wrong, and nobody looked at them", errors)
        return errors[0] if errors else None


def _over(task: Task[Any]) -> bool:
    """Whether it has ended and its callbacks have run: one of them may be who looks at its outcome."""
    core: Any = task._owner
    return task.done() and (task not in core.finishing or core.runs_here())  # a callback that waits does not wait for itself


def _wait_for_callbacks(tasks: list[Task[Any]], deadline: float) -> None:
    """Block until the callbacks of tasks that have ended have run, or the deadline has passed."""

    def cores() -> list[Any]:
        return [] if time.monotonic() >= deadline else [task._owner for task in tasks if not _over(task)]

    # Not for longer than a moment at once: their queue may have more to do, for somebody else, when they have run.
    _waiting.wait_until_idle(cores, lambda _: min(LOOK_AGAIN, deadline - time.monotonic()))


def _still_kept(task: Task[Any]) -> bool:
    """Whether ``flush(raise_errors=True)`` has not handed this failure to anybody yet."""
    core: Any = task._owner
    return core.failures_lost > 0 or any(failure.exception is task._exception for failure in list(core.failures))


def _as_told(call: Call) -> Exception:
    error = call.task._exception
    if not isinstance(error, Exception):
        wrapped = OffloadError(f"{call.name} ended by {type(error).__name__}: {error}")
        wrapped.__cause__ = error
        error = wrapped
    error.add_note(f"in {_place(call)}; nobody looked at its outcome")
    return error


def _still_running(calls: list[Call], timeout: float) -> str:
    return f"{len(calls)} of the test's tasks had not ended {timeout:g} s after it: {', '.join(map(_place, calls))}"


def _place(call: Call) -> str:
    core: Any = call.task._owner
    state = ", not started" if call.task._state == PENDING else ", its callbacks still run" if call.task in core.finishing else ""
    return f"{call.name}, offloaded at {call.task.caller} to queue {call.task.queue!r}{state}"
