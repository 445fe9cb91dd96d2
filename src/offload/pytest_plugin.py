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

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from offload import _exit, _observing, testing
from offload._watch import Call, Offloaded, Watch

__all__ = ["Call", "Offloaded"]

MODES = ("threads", "inline", "off")
LAST_WAIT = 1.0  # seconds that tasks which outlived their test are given when the whole run ends

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
