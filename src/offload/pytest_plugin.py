"""The pytest plugin: background failures fail the test that offloaded them, and calls can be run in place or recorded.

It does nothing to a test that does not ask for it. A suite asks with the ini option ``offload_mode``, a test with the marker or the fixture:

- ``@pytest.mark.offload("inline")`` runs every call of the test in place; ``"threads"`` runs them in the background as ever; ``"off"`` is the
  exception in a suite that has the ini option set. ``timeout=`` sets the seconds that the test's tasks have to end in, as the ini option
  ``offload_timeout`` does for all (10).
- ``offload_mode = threads`` or ``inline`` is the same for the whole suite.
- ``offloaded``, a fixture, gives the test a fresh default registry and records its calls.

In a test that asked, each task that it offloaded, on whatever queue, has ended when the test has, and its callbacks have run: tasks that still run
are waited for, and after the timeout the test fails and names them. A task that failed fails the test too, with the task's own traceback, unless
somebody looked at the outcome: by ``result()``, ``exception()``, ``await``, ``flush(raise_errors=True)``, or through ``offloaded``. An ``on_error``
handler is not somebody.
"""

import concurrent.futures
import contextlib
import dataclasses
import time
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from offload import _exit, _observing, _waiting, testing
from offload._errors import OffloadError
from offload._task import PENDING, Task

MODES = ("threads", "inline", "off")
LOOK_AGAIN = 0.05  # seconds
LAST_WAIT = 1.0  # seconds that tasks which outlived their test are given when the whole run ends


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


# -- pytest's side -----------------------------------------------------------------------------------------------------------------

_WATCH = pytest.StashKey[Watch]()
_STACK = pytest.StashKey[contextlib.ExitStack]()
_LEFT_BEHIND = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini options."""
    parser.addini(
        "offload_mode",
        "run the calls that tests offload: 'threads' or 'inline'; a failure nobody looked at fails its test (default: off)",
        default="off",
    )
    parser.addini("offload_timeout", "seconds that the tasks of a test have to end in, after it (default: 10)", default="10")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and check the ini options before the first test."""
    config.addinivalue_line(
        "markers",
        "offload(mode='threads', *, timeout=None): run the test's calls in 'threads' or 'inline', fail it for failures nobody looked at; or 'off'",
    )
    _check_mode(config.getini("offload_mode"), "the ini option offload_mode")
    _seconds(config.getini("offload_timeout"), "the ini option offload_timeout")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Tasks that outlived their tests would keep the program from ending, as they are meant to in an application."""
    if config.stash.get(_LEFT_BEHIND, False) and _exit.settings()["timeout"] is None:
        _exit.configure("pytest", timeout=LAST_WAIT)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name every marker that makes no sense before the first test runs."""
    wrong = []
    for item in items:
        if item.get_closest_marker("offload") is not None:
            try:
                _asked(item)
            except pytest.UsageError as error:
                wrong.append(str(error))
    if wrong:
        raise pytest.UsageError("\n".join(wrong))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Watch from the first fixture on."""
    watch = _asked(item)
    if watch is not None:
        stack = contextlib.ExitStack()
        item.stash[_WATCH], item.stash[_STACK] = watch, stack
        _observing.add(watch)
        stack.callback(_observing.remove, watch)
        if watch.mode == "inline":
            stack.enter_context(testing.inline())
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Within pytest's capturing of output and logs: wait for the tasks, and let their failures be the test's."""
    watch = item.stash.get(_WATCH, None)
    if watch is None:
        return (yield)
    try:
        result = yield
    except BaseException:
        _report(item, watch, "call")
        raise
    if getattr(item, "_excinfo", None):  # a unittest.TestCase's own failure, which pytest keeps there
        _report(item, watch, "call")
    elif (error := watch.verdict()) is not None:
        __tracebackhide__ = error.__traceback__ is not None  # the task's own says more
        raise error
    return result


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """The same for what fixtures offloaded, once they are all torn down."""
    watch = item.stash.get(_WATCH, None)
    if watch is None:
        return (yield)
    try:
        try:
            result = yield
        except BaseException:
            _report(item, watch, "teardown")
            raise
        if (error := watch.verdict()) is not None:
            __tracebackhide__ = error.__traceback__ is not None
            raise error
        return result
    finally:
        if watch.left_behind:
            item.config.stash[_LEFT_BEHIND] = True
        item.stash[_STACK].close()
        del item.stash[_STACK], item.stash[_WATCH]


def _report(item: pytest.Item, watch: Watch, when: str) -> None:
    """The test has failed by itself: show what went wrong behind it beside that."""
    error = watch.verdict()
    if error is not None:
        formatted = pytest.ExceptionInfo.from_exception(error).getrepr(style="short")
        item.add_report_section(when, "offload", str(formatted))


def _asked(item: pytest.Item) -> Watch | None:
    """The watch that a test asks for, if it does."""
    mode, timeout = item.config.getini("offload_mode"), item.config.getini("offload_timeout")
    fixture = "offloaded" in getattr(item, "fixturenames", ())
    marker = item.get_closest_marker("offload")
    where = f"the marker offload of {item.nodeid}"
    if marker is not None:
        try:
            mode, own_timeout = _marked(*marker.args, **marker.kwargs)
        except TypeError as error:
            raise pytest.UsageError(f"{where}: {error}") from None
        timeout = timeout if own_timeout is None else own_timeout
    elif fixture and mode == "off":
        mode = "threads"
    watch = Watch(_check_mode(mode, where), _seconds(timeout, where), keeps_arguments=fixture)
    return watch if fixture or mode != "off" else None


def _marked(mode: str = "threads", *, timeout: float | None = None) -> tuple[str, Any]:
    """The marker's parameters."""
    return mode, timeout


def _check_mode(mode: object, where: str) -> str:
    if mode not in MODES:
        raise pytest.UsageError(f"{where}: {mode!r} is not allowed: one of {', '.join(map(repr, MODES))}")
    return str(mode)


def _seconds(value: Any, where: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise pytest.UsageError(f"{where}: timeout {value!r} is not a number of seconds, 0 or more")
    return seconds


@pytest.fixture
def offloaded(request: pytest.FixtureRequest) -> Iterator[Offloaded]:
    """A fresh default registry for this test, and a record of its calls: ``offloaded.calls("app.send_mail")`` are those of one function."""
    watch = request.node.stash[_WATCH]
    with testing._isolated(lambda: 0.0 if watch.left_behind else watch.timeout):
        yield Offloaded(watch)
