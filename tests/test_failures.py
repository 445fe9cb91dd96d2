"""Failures: on the Task, in the counts, once at on_error or in the log, and in flush's ExceptionGroup."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import WAIT, Gate

from offload import FlushTimeout, OffloadError, Registry, Task

HERE = Path(__file__).name
SECRET = "hunter2-do-not-log"

Errors = Callable[[], list[logging.LogRecord]]


class Boom(Exception):
    """An error that every test can tell from any other."""


class BaseBoom(BaseException):
    """A failure that is no Exception."""


def boom(*args: object, **kwargs: object) -> None:
    raise Boom("no")


async def async_boom(*args: object, **kwargs: object) -> None:
    raise Boom("no")


class Service:
    def __repr__(self) -> str:
        return SECRET

    def send(self, *args: object, **kwargs: object) -> None:
        raise Boom("no")


def raiser(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def async_raiser(error: BaseException) -> Callable[[], Any]:
    async def fail() -> None:
        raise error

    return fail


def group_of(registry: Registry, *names: str) -> list[Exception]:
    """The failures that flush(raise_errors=True) raises now, none when it raises nothing."""
    try:
        registry.flush(*names, timeout=WAIT, raise_errors=True)
    except ExceptionGroup as group:
        return list(group.exceptions)
    return []


# --- the log


@pytest.mark.parametrize("function", [boom, async_boom])
def test_the_default_logs_the_failure(registry: Registry, caplog: pytest.LogCaptureFixture, function: Callable[..., Any]) -> None:
    task = registry.offload(queue="plots")(function)(1)
    assert isinstance(task.exception(WAIT), Boom)
    (record,) = caplog.records  # it is there by now: logged before the task's waiters wake
    assert (record.name, record.levelno, record.levelname) == ("offload.plots", logging.ERROR, "ERROR")
    text = logging.Formatter().format(record)
    assert f"{__name__}.{function.__name__}" in text
    assert task.caller in text
    assert task.caller.startswith(f"{HERE}:")
    assert "Traceback (most recent call last)" in text
    assert 'raise Boom("no")' in text
    assert "Boom: no" in text


@pytest.mark.parametrize("function", [boom, async_boom, Service().send], ids=["sync", "async", "method"])
def test_the_arguments_values_are_never_logged(registry: Registry, caplog: pytest.LogCaptureFixture, function: Callable[..., Any]) -> None:
    caplog.set_level(logging.DEBUG)
    f = registry.offload(queue="plots")(function)
    f(SECRET, Service(), password=SECRET, nested=[{"key": SECRET}]).exception(WAIT)
    registry.flush(timeout=WAIT)
    assert caplog.records
    for record in caplog.records:
        assert SECRET not in logging.Formatter().format(record)
        assert SECRET not in repr(record.__dict__.get("args"))


def test_the_task_does_not_show_the_arguments_values(registry: Registry, gate: Callable[[str], Gate]) -> None:
    f = registry.offload(queue="plots")(boom)
    with gate("plots"):
        task = f(SECRET, password=SECRET)
        assert SECRET not in repr(task)
    task.exception(WAIT)
    assert SECRET not in repr(task)
    (error,) = group_of(registry)
    assert SECRET not in repr(getattr(error, "__notes__", []))


def test_no_handler_is_installed(registry: Registry) -> None:
    registry.queue("plots").submit(boom).exception(WAIT)
    for name in ("offload", "offload.plots"):
        assert [h for h in logging.getLogger(name).handlers if not isinstance(h, logging.NullHandler)] == []
    assert logging.getLogger("offload.plots").propagate


def test_a_program_that_configured_no_logging_sees_the_failure_on_stderr(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(
            """
            from offload import offload

            @offload(queue="plots")
            def plot(step):
                raise ValueError("no")

            plot(1)
            """
        ),
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, "-X", "dev", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    for words in ("ValueError: no", "plot", "train.py:8"):
        assert words in done.stderr


def test_successes_and_cancelled_tasks_log_nothing(registry: Registry, gate: Callable[[str], Gate], caplog: pytest.LogCaptureFixture) -> None:
    with gate("plots"):
        registry.queue("plots").submit(int)
        registry.queue("plots").submit(boom).cancel()
    registry.flush(timeout=WAIT)
    assert caplog.records == []


@pytest.mark.parametrize("function", [boom, async_boom])
@pytest.mark.parametrize("handled", [False, True])
def test_a_logging_handler_that_raises_harms_neither_task_nor_worker(registry: Registry, function: Callable[..., Any], handled: bool) -> None:
    """`logging` lets through what a handler's `emit` or a filter raises."""
    records = []

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)
            raise RuntimeError("the handler's own failure")

    queue = registry.configure("broken", on_error=(lambda task, error: 1 / 0) if handled else None)
    handler = Broken()
    logger = logging.getLogger("offload.broken")
    logger.addHandler(handler)
    try:
        task = registry.offload(queue="broken")(function)()
        assert isinstance(task.exception(WAIT), Boom)
        assert queue.submit(int, 7).result(WAIT) == 7
        assert [type(error) for error in group_of(registry)] == [Boom]
    finally:
        logger.removeHandler(handler)
    assert records
    assert (queue.stats().failed, queue.stats().succeeded) == (1, 1)


# --- on_error


@pytest.mark.parametrize("function", [boom, async_boom])
def test_on_error_gets_each_failure_once_and_at_once(registry: Registry, errors: Errors, function: Callable[..., Any]) -> None:
    seen: list[tuple[Task[Any], BaseException]] = []
    registry.configure("plots", on_error=lambda task, error: seen.append((task, error)))
    f = registry.offload(queue="plots")(function)
    for number in range(1, 4):
        task = f()
        error = task.exception(WAIT)
        assert len(seen) == number, "called before the task's waiters wake"
        assert seen[-1] == (task, error)
        assert registry.queue("plots").stats().failed == number
    registry.flush(timeout=WAIT)
    assert len(seen) == 3
    assert errors() == [], "on_error stands in the place of the log"


def test_on_error_sees_a_finished_task(registry: Registry) -> None:
    """Nothing that it asks of the task can block."""
    seen: list[Any] = []

    def on_error(task: Task[Any], error: BaseException) -> None:
        seen.append((task.done(), task.exception(0) is error, task.name, task.queue, task.caller))

    registry.configure("plots", on_error=on_error)
    task = registry.queue("plots").submit(boom)
    task.exception(WAIT)
    registry.flush(timeout=WAIT)
    assert seen == [(True, True, f"{__name__}.boom", "plots", task.caller)]


def test_on_error_does_not_hear_of_successes_or_cancelled_tasks(registry: Registry, gate: Callable[[str], Gate]) -> None:
    seen: list[Any] = []
    registry.configure("plots", on_error=lambda *failure: seen.append(failure))
    with gate("plots"):
        registry.queue("plots").submit(int)
        registry.queue("plots").submit(boom).cancel()
    registry.flush(timeout=WAIT)
    assert seen == []


@pytest.mark.parametrize("error", [RuntimeError("handler"), SystemExit(4), KeyboardInterrupt(), BaseBoom()])
@pytest.mark.parametrize("function", [boom, async_boom])
def test_a_failing_on_error_is_logged_and_changes_nothing(
    registry: Registry, errors: Errors, error: BaseException, function: Callable[..., Any]
) -> None:
    def on_error(task: Task[Any], failure: BaseException) -> None:
        raise error

    queue = registry.configure("plots", on_error=on_error)
    task = registry.offload(queue="plots")(function)()
    assert isinstance(task.exception(WAIT), Boom)
    assert queue.submit(int, 7).result(WAIT) == 7
    registry.flush(timeout=WAIT)
    logged = [record for record in errors() if record.exc_info and record.exc_info[1] is error]
    assert len(logged) == 1
    assert logged[0].name == "offload.plots"
    stats = queue.stats()
    assert (stats.submitted, stats.succeeded, stats.failed) == (2, 1, 1)
    assert [type(failure) for failure in group_of(registry)] == [Boom]


def test_on_error_may_offload(registry: Registry) -> None:
    told: list[str] = []
    tell = registry.offload(queue="pager")(told.append)
    registry.configure("plots", on_error=lambda task, error: tell(task.name))
    registry.queue("plots").submit(boom)
    registry.flush(timeout=WAIT)
    assert told == [f"{__name__}.boom"]


def test_on_error_may_offload_to_its_own_queue(registry: Registry) -> None:
    told: list[str] = []
    tell = registry.offload(queue="plots")(told.append)
    registry.configure("plots", on_error=lambda task, error: tell(task.name))
    registry.queue("plots").submit(boom)
    registry.flush(timeout=WAIT)
    assert told == [f"{__name__}.boom"]


def test_on_error_set_live_gets_the_next_failure(registry: Registry, gate: Callable[[str], Gate], errors: Errors) -> None:
    seen: list[Any] = []
    with gate("plots"):
        registry.queue("plots").submit(boom)
        registry.configure("plots", on_error=lambda *failure: seen.append(failure))
    registry.flush(timeout=WAIT)
    assert (len(seen), errors()) == (1, [])


# --- the worker lives on

BASE_EXCEPTIONS = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    BaseBoom("no"),
    StopIteration(1),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("error", BASE_EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_a_worker_survives_whatever_a_task_raises(registry: Registry, errors: Errors, error: BaseException) -> None:
    queue = registry.queue("plots")
    worker = queue.submit(threading.current_thread).result(WAIT)
    task = queue.submit(raiser(error))
    assert task.exception(WAIT) is error
    with pytest.raises(type(error)):
        task.result(WAIT)
    assert queue.submit(threading.current_thread).result(WAIT) is worker
    registry.flush(timeout=WAIT)
    stats = queue.stats()
    assert (stats.submitted, stats.succeeded, stats.failed, stats.cancelled) == (3, 2, 1, 0)
    (record,) = errors()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), BaseBoom("no")], ids=lambda error: type(error).__name__)
def test_an_event_loop_survives_whatever_a_task_raises(registry: Registry, errors: Errors, error: BaseException) -> None:
    """asyncio lets SystemExit and KeyboardInterrupt through its loop; here they end their task alone."""

    async def loop_and_thread() -> tuple[int, threading.Thread]:
        return id(asyncio.get_running_loop()), threading.current_thread()

    f = registry.offload(queue="plots")(loop_and_thread)
    before = f().result(WAIT)
    task = registry.offload(queue="plots")(async_raiser(error))()
    assert task.exception(WAIT) is error
    assert f().result(WAIT) == before
    registry.flush(timeout=WAIT)
    stats = registry.queue("plots").stats()
    assert (stats.submitted, stats.succeeded, stats.failed) == (3, 2, 1)
    assert len(errors()) == 1


def test_an_async_task_that_raises_cancelled_error_ends_once(registry: Registry) -> None:
    task = registry.offload(queue="plots")(async_raiser(asyncio.CancelledError()))()
    registry.flush(timeout=WAIT)
    assert task.done()
    stats = registry.queue("plots").stats()
    assert (stats.submitted, stats.failed + stats.cancelled, stats.running) == (1, 1, 0)
    assert registry.queue("plots").submit(int, 7).result(WAIT) == 7


def test_an_exception_that_can_not_be_printed_is_still_a_failure(registry: Registry) -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text either")

        __repr__ = __str__

    queue = registry.queue("plots")
    task = queue.submit(raiser(Unprintable()))
    assert isinstance(task.exception(WAIT), Unprintable)
    assert queue.submit(int, 7).result(WAIT) == 7
    registry.flush(timeout=WAIT)
    assert queue.stats().failed == 1


# --- a call that runs in place


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("make", [raiser, async_raiser])
def test_in_place_exits_are_recorded_and_then_raised_in_the_caller(
    registry: Registry,
    gate: Callable[[str], Gate],
    error: BaseException,
    make: Callable[[BaseException], Callable[[], Any]],
) -> None:
    seen: list[BaseException] = []
    queue = registry.configure("plots", maxsize=1, on_full="caller_runs", on_error=lambda _, e: seen.append(e))
    f = registry.offload(queue="plots")(make(error))
    with gate("plots"):
        queue.submit(int)
        with pytest.raises(type(error)) as raised:
            f()
        assert raised.value is error
        assert seen == [error]
        assert queue.stats().failed == 1
    (stand_in,) = group_of(registry)
    assert stand_in.__cause__ is error


@pytest.mark.parametrize("function", [boom, async_boom])
def test_in_place_other_failures_stay_on_the_task(
    registry: Registry, gate: Callable[[str], Gate], errors: Errors, function: Callable[..., Any]
) -> None:
    queue = registry.configure("plots", maxsize=1, on_full="caller_runs")
    with gate("plots"):
        queue.submit(int)
        task = registry.offload(queue="plots")(function)()
        assert isinstance(task.exception(0), Boom)
        assert len(errors()) == 1
    assert len(group_of(registry)) == 1


# --- flush(raise_errors=True)


def test_flush_raises_one_group_with_the_failures_since_the_last(registry: Registry) -> None:
    first, second = Boom(1), ValueError(2)
    registry.queue("plots").submit(raiser(first))
    registry.flush(timeout=WAIT)
    registry.queue("mail").submit(raiser(second))
    registry.queue("mail").submit(int)
    with pytest.raises(ExceptionGroup) as raised:
        registry.flush(timeout=WAIT, raise_errors=True)
    assert set(raised.value.exceptions) == {first, second}, "a plain flush takes none of them"
    assert "2" in str(raised.value)
    registry.flush(timeout=WAIT, raise_errors=True)
    third = Boom(3)
    registry.queue("plots").submit(raiser(third))
    assert group_of(registry) == [third]


def test_the_failures_of_one_queue_stand_in_order(registry: Registry) -> None:
    failures = [Boom(number) for number in range(10)]
    for failure in failures:
        registry.queue("plots").submit(raiser(failure))
    assert group_of(registry) == failures


def test_only_the_named_queues_failures_are_raised(registry: Registry) -> None:
    plots, mail = Boom("plots"), Boom("mail")
    registry.queue("plots").submit(raiser(plots))
    registry.queue("mail").submit(raiser(mail))
    assert group_of(registry, "plots") == [plots]
    assert group_of(registry, "plots") == []
    assert group_of(registry) == [mail]


def test_each_failure_carries_a_note_of_its_task(registry: Registry) -> None:
    task = registry.offload(queue="plots")(boom)(SECRET)
    (error,) = group_of(registry)
    notes = "\n".join(error.__notes__)
    assert f"{__name__}.boom" in notes
    assert task.caller in notes
    assert SECRET not in notes


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), BaseBoom("no")], ids=repr)
@pytest.mark.parametrize("make", [raiser, async_raiser])
def test_a_failure_that_is_no_exception_stands_in_the_group_as_an_offload_error(
    registry: Registry, error: BaseException, make: Callable[[BaseException], Callable[[], Any]]
) -> None:
    task = registry.offload(queue="plots")(make(error))()
    plain = Boom("plain")
    registry.queue("plots").submit(raiser(plain))
    stand_in, other = group_of(registry)
    assert type(stand_in) is OffloadError
    assert stand_in.__cause__ is error
    assert other is plain
    assert task.exception() is error, "the task has the failure itself"


def test_cancelled_and_dropped_calls_are_no_failures(registry: Registry, gate: Callable[[str], Gate]) -> None:
    queue = registry.configure("plots", maxsize=1, on_full="drop_newest")
    with gate(queue):
        waiting = queue.submit(boom)
        assert queue.submit(boom).cancelled()
        waiting.cancel()
    assert group_of(registry) == []
    assert (queue.stats().cancelled, queue.stats().dropped) == (1, 1)


def test_when_it_times_out_the_failures_stay_for_the_next(registry: Registry, gate: Callable[[str], Gate]) -> None:
    failure = Boom("no")
    registry.queue("plots").submit(raiser(failure)).exception(WAIT)
    with gate("mail"), pytest.raises(FlushTimeout):
        registry.flush(timeout=0.01, raise_errors=True)
    assert group_of(registry) == [failure]


def test_the_newest_hundred_are_kept_for_each_queue(registry: Registry, errors: Errors) -> None:
    seen: list[Any] = []
    for name in ("plots", "mail"):
        registry.configure(name, on_error=lambda task, error: seen.append(error))
        for number in range(120):
            registry.queue(name).submit(raiser(Boom(number)))
    failures = group_of(registry)
    kept = sorted(error.args[0] for error in failures)
    assert kept == sorted(2 * list(range(20, 120)))
    assert len(seen) == 240, "on_error has heard of every one"


def test_a_failure_seen_by_on_error_or_result_still_counts_for_flush(registry: Registry) -> None:
    registry.configure("plots", on_error=lambda task, error: None)
    task = registry.queue("plots").submit(boom)
    error = task.exception(WAIT)
    assert group_of(registry) == [error]


def test_frames_of_kept_failures_hold_no_locals_but_still_tell_the_lines(registry: Registry) -> None:
    registry.queue("plots").submit(boom, SECRET)
    (error,) = group_of(registry)
    names = []
    trace = error.__traceback__
    while trace:
        names.append(trace.tb_frame.f_code.co_name)
        if names[-1] == "boom":
            assert dict(trace.tb_frame.f_locals) == {}
        trace = trace.tb_next
    assert "boom" in names


def test_the_same_exception_raised_twice_is_two_failures(registry: Registry) -> None:
    shared = Boom("shared")
    for _ in range(2):
        registry.queue("plots").submit(raiser(shared))
    assert group_of(registry) == [shared, shared]
    assert registry.queue("plots").stats().failed == 2


@pytest.mark.parametrize("make", [raiser, async_raiser])
def test_an_exception_that_takes_no_notes_stands_in_the_group_all_the_same(
    registry: Registry, make: Callable[[BaseException], Callable[[], Any]]
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    failure, other = Frozen(3), Boom("other")
    registry.offload(queue="plots")(make(failure))()
    registry.queue("plots").submit(raiser(other))
    assert group_of(registry) == [failure, other]


def test_flush_of_a_closed_queue_still_raises_its_errors(registry: Registry) -> None:
    failure = Boom("late")
    queue = registry.queue("plots")
    queue.submit(raiser(failure))
    queue.shutdown()
    assert group_of(registry) == [failure]
