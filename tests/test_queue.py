"""A Queue: threads that come and go, settings changed live, and what concurrent.futures.Executor promises."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor
from typing import Any

import pytest
from conftest import WAIT, Gate

from offload import OffloadError, Queue, QueueClosed, QueueStats, Registry, Task

Threads = Callable[[], list[str]]


def flushed(queue: Queue) -> QueueStats:
    queue.flush(timeout=WAIT)
    return queue.stats()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that nothing announces."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


class Payload:
    """Something to hold a weak reference to, and an Event that is set when it has gone."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        weakref.finalize(self, self.gone.set)


def has_gone(gone: threading.Event) -> bool:
    """A worker may let go a moment after its task counts as done; and free-threaded builds may free what it made only when it runs again, or now."""

    def looked() -> bool:
        gc.collect()
        return gone.is_set()

    until(looked)
    return True


# --- queues and threads are made when they are needed


def test_looking_up_creates_a_queue_but_no_thread(registry: Registry, threads: Threads) -> None:
    queue = registry.queue("plots")
    assert isinstance(queue, Queue)
    assert queue.name == "plots"
    assert registry.queue("plots") is queue
    assert list(registry.queues()) == ["plots"]
    assert threads() == []
    assert queue.stats().workers == 0


def test_the_worker_carries_the_queues_name(registry: Registry) -> None:
    worker = registry.queue("plots").submit(threading.current_thread).result(WAIT)
    assert worker.name == "offload-plots-0"
    assert worker.is_alive()


def test_a_thread_that_a_task_starts_is_waited_for_like_any_other(registry: Registry) -> None:
    """offload's own threads are daemons, but a thread must not inherit that from them."""
    assert registry.queue("plots").submit(lambda: threading.Thread().daemon).result(WAIT) is False


def test_threads_start_one_at_a_time_as_work_needs_them(registry: Registry, threads: Threads, gate: Callable[[Queue], Gate]) -> None:
    queue = registry.configure("plots", workers=3)
    for number in range(1, 4):
        gate(queue)
        assert threads() == [f"offload-plots-{n}" for n in range(number)]
        assert (queue.stats().workers, queue.stats().busy, queue.stats().running) == (number,) * 3
    waiting = queue.submit(int)
    assert queue.stats().waiting == 1
    assert not waiting.running()
    assert len(threads()) == 3


def test_an_idle_worker_is_used_before_a_new_one_is_started(registry: Registry, threads: Threads) -> None:
    queue = registry.configure("plots", workers=8)
    for _ in range(20):
        queue.submit(int).result(WAIT)
        until(lambda: queue.stats().busy == 0)  # the result is there a moment before its worker is idle
    assert queue.stats().workers == 1
    assert threads() == ["offload-plots-0"]


def test_one_worker_keeps_calls_in_order(registry: Registry) -> None:
    seen: list[int] = []
    queue = registry.queue("plots")
    for number in range(500):
        queue.submit(seen.append, number)
    assert flushed(queue).succeeded == 500
    assert seen == list(range(500))


def test_at_most_workers_run_at_once(registry: Registry) -> None:
    lock, running, most = threading.Lock(), 0, 0
    both = threading.Barrier(2)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(WAIT)
        with lock:
            running -= 1

    queue = registry.configure("plots", workers=2)
    for _ in range(20):
        queue.submit(work)
    assert flushed(queue).failed == 0
    assert most == 2


def test_idle_workers_end_and_come_back(registry: Registry) -> None:
    queue = registry.configure("plots", idle_timeout=0.01)
    for _ in range(2):
        worker = queue.submit(threading.current_thread).result(WAIT)
        assert worker.name == "offload-plots-0"
        worker.join(WAIT)
        assert not worker.is_alive()
    assert queue.stats().workers == 0
    assert queue.stats().succeeded == 2


def test_an_idle_timeout_given_later_reaches_workers_that_are_idle_already(registry: Registry) -> None:
    queue = registry.configure("plots", idle_timeout=None)
    worker = queue.submit(threading.current_thread).result(WAIT)
    queue.flush(timeout=WAIT)
    registry.configure("plots", idle_timeout=0.01)
    worker.join(WAIT)
    assert not worker.is_alive()


def test_no_work_is_lost_between_idle_end_and_next_call(registry: Registry) -> None:
    queue = registry.configure("plots", idle_timeout=0.0001, workers=2)
    for number in range(300):
        assert queue.submit(int, number).result(WAIT) == number


# --- configured live


def test_workers_raised_live_run_what_waits(registry: Registry, gate: Callable[[Queue], Gate]) -> None:
    queue = registry.queue("plots")
    gate(queue)
    waiting = queue.submit(threading.current_thread)
    assert registry.configure("plots", workers=2) is queue
    assert waiting.result(WAIT).name == "offload-plots-1"
    assert queue.settings.workers == 2


def test_workers_raised_live_by_more_than_one(registry: Registry, gate: Callable[[Queue], Gate]) -> None:
    queue = registry.queue("plots")
    gate(queue)
    together = threading.Barrier(3)
    waiting = [queue.submit(together.wait, WAIT) for _ in range(3)]
    registry.configure("plots", workers=4)
    assert sorted(task.result(WAIT) for task in waiting) == [0, 1, 2]


def test_workers_lowered_live(registry: Registry, gate: Callable[[Queue], Gate]) -> None:
    queue = registry.configure("plots", workers=3)
    gates = [gate(queue) for _ in range(3)]
    registry.configure("plots", workers=1)
    waiting = queue.submit(threading.current_thread)
    assert queue.stats().running == 3, "what runs goes on"
    for held in gates[:2]:
        held.open()
        assert held.thread is not None
        held.thread.join(WAIT)
        assert not held.thread.is_alive(), "a surplus worker ends when its task has ended"
    assert queue.stats().workers == 1
    assert queue.stats().waiting == 1, "one still runs, so none may start"
    gates[2].open()
    assert waiting.result(WAIT) is gates[2].thread
    assert flushed(queue).succeeded == 4


def test_workers_lowered_while_idle_end(registry: Registry, gate: Callable[[Queue], Gate]) -> None:
    queue = registry.configure("plots", workers=3)
    gates = [gate(queue) for _ in range(3)]
    for held in gates:
        held.open()
        held.task.result(WAIT)
    queue.flush(timeout=WAIT)
    registry.configure("plots", workers=1)
    together = threading.Event()
    first, second = queue.submit(together.wait, WAIT), queue.submit(int)
    assert not second.done()
    assert queue.stats().running <= 1
    together.set()
    assert first.result(WAIT)
    assert second.result(WAIT) == 0


def test_lowered_and_raised_again(registry: Registry, gate: Callable[[Queue], Gate]) -> None:
    queue = registry.configure("plots", workers=2)
    held = [gate(queue), gate(queue)]
    registry.configure("plots", workers=1)
    registry.configure("plots", workers=2)
    for one in held:
        one.open()
    together = threading.Barrier(2)
    pair = [queue.submit(together.wait, WAIT) for _ in range(2)]
    assert sorted(task.result(WAIT) for task in pair) == [0, 1]


def test_maxsize_changed_live(registry: Registry, gate: Callable[[Queue], Gate]) -> None:
    from offload import QueueFull

    queue = registry.configure("plots", maxsize=1, on_full="raise")
    with gate(queue):
        queue.submit(int)
        with pytest.raises(QueueFull, match="plots"):
            queue.submit(int)
        registry.configure("plots", maxsize=2)
        queue.submit(int)
        registry.configure("plots", maxsize=None)
        for _ in range(100):
            queue.submit(int)
        registry.configure("plots", maxsize=1)
        assert queue.stats().waiting == 102, "what was accepted stays"
    stats = flushed(queue)
    assert (stats.succeeded, stats.rejected) == (103, 1)


# --- stats


def test_stats_count_every_call_once(registry: Registry, gate: Callable[[Queue], Gate]) -> None:
    queue = registry.queue("plots")
    with gate(queue):
        queue.submit(int, 1)
        queue.submit(int, "word")
        queue.submit(int).cancel()
        stats = queue.stats()
        assert isinstance(stats, QueueStats)
        assert (stats.submitted, stats.running, stats.waiting, stats.cancelled) == (4, 1, 2, 1)
        assert (stats.workers, stats.busy) == (1, 1)
    stats = flushed(queue)
    assert (stats.submitted, stats.succeeded, stats.failed, stats.cancelled) == (4, 2, 1, 1)
    assert (stats.running, stats.waiting, stats.rejected, stats.dropped, stats.coalesced) == (0, 0, 0, 0, 0)
    assert stats.run_seconds >= stats.run_seconds_max > 0
    assert stats.wait_seconds >= stats.wait_seconds_max > 0


def test_stats_are_a_frozen_snapshot(registry: Registry) -> None:
    queue = registry.queue("plots")
    before = queue.stats()
    flushed(queue)
    queue.submit(int).result(WAIT)
    assert before.submitted == 0
    assert dataclasses.is_dataclass(before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.submitted = 5  # type: ignore[misc]


# --- an Executor


def test_is_an_executor(registry: Registry) -> None:
    assert isinstance(registry.queue("plots"), Executor)


def test_submit_passes_everything_on(registry: Registry) -> None:
    def echo(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    keywords = {"self": 1, "fn": 2, "function": 3, "name": 4, "args": 5}
    task = registry.queue("plots").submit(echo, 1, 2, **keywords)
    assert isinstance(task, Task)
    assert task.result(WAIT) == ((1, 2), keywords)


def test_submit_of_an_offloaded_function_does_not_queue_twice(registry: Registry) -> None:
    """A user who submits a decorated function gets its Task as the result, as any executor would give it."""
    f = registry.offload(queue="mail")(abs)
    result = registry.queue("plots").submit(f, -7).result(WAIT)
    assert isinstance(result, Task)
    assert (result.queue, result.result(WAIT)) == ("mail", 7)


def test_map_keeps_the_order_and_zips(registry: Registry) -> None:
    queue = registry.configure("plots", workers=4)
    assert list(queue.map(pow, range(20), [2] * 10)) == [n**2 for n in range(10)]
    assert list(queue.map(int, [])) == []
    assert list(queue.map(int, range(5), timeout=WAIT, chunksize=2)) == [0, 1, 2, 3, 4]


def test_map_raises_at_the_failure(registry: Registry) -> None:
    results = registry.queue("plots").map(int, ["1", "word", "3"])
    assert next(results) == 1
    with pytest.raises(ValueError, match="word"):
        next(results)


def test_map_times_out(registry: Registry, gate: Callable[[Queue], Gate]) -> None:
    queue = registry.queue("plots")
    with gate(queue), pytest.raises(TimeoutError):
        next(queue.map(int, [1], timeout=0.01))


def test_with_drains_and_closes(registry: Registry) -> None:
    with registry.queue("plots") as queue:
        assert queue is registry.queue("plots")
        tasks = [queue.submit(int, n) for n in range(100)]
    assert all(task.done() for task in tasks)
    assert queue.stats().succeeded == 100
    with pytest.raises(QueueClosed):
        queue.submit(int)


def test_run_in_executor(registry: Registry) -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(registry.queue("plots"), threading.current_thread)).name

    assert asyncio.run(main()) == "offload-plots-0"


# --- shutdown


def test_shutdown_runs_what_was_accepted_and_ends_the_threads(registry: Registry, threads: Threads) -> None:
    queue = registry.configure("plots", workers=2, idle_timeout=None)
    tasks = [queue.submit(int, n) for n in range(200)]
    queue.shutdown()
    assert [task.result(0) for task in tasks] == list(range(200))
    assert threads() == []
    assert queue.stats().workers == 0


def test_shutdown_without_waiting_returns_at_once_and_still_runs_everything(
    registry: Registry, threads: Threads, gate: Callable[[Queue], Gate]
) -> None:
    queue = registry.queue("plots")
    with gate(queue) as held:
        task = queue.submit(int, 7)
        queue.shutdown(wait=False)
        assert not task.done()
        assert not held.task.done()
        with pytest.raises(QueueClosed):
            queue.submit(int)
    assert task.result(WAIT) == 7
    queue.shutdown(wait=True)
    assert threads() == []


def test_shutdown_can_cancel_what_waits(registry: Registry, gate: Callable[[Queue], Gate]) -> None:
    queue = registry.queue("plots")
    with gate(queue) as held:
        waiting = [queue.submit(int) for _ in range(3)]
        queue.shutdown(wait=False, cancel_futures=True)
        assert all(task.cancelled() for task in waiting)
        with pytest.raises(CancelledError):
            waiting[0].result(0)
    assert held.task.result(WAIT) is None
    stats = flushed(queue)
    assert (stats.submitted, stats.succeeded, stats.cancelled, stats.waiting) == (4, 1, 3, 0)


def test_shutdown_again_and_of_an_unused_queue(registry: Registry, threads: Threads) -> None:
    queue = registry.queue("plots")
    for options in ({}, {"wait": False}, {"cancel_futures": True}):
        queue.shutdown(**options)
    queue.flush(timeout=WAIT)
    assert threads() == []


def test_a_closed_queue_refuses_every_kind_of_call(registry: Registry) -> None:
    f = registry.offload(queue="plots")(abs)
    queue = registry.queue("plots")
    queue.shutdown()
    calls: list[Callable[[], Any]] = [
        lambda: f(7),
        lambda: f.using()(7),
        lambda: queue.submit(int),
        lambda: list(queue.map(int, [1])),
    ]
    for call in calls:
        with pytest.raises(QueueClosed, match="plots") as raised:
            call()
        assert isinstance(raised.value, RuntimeError)  # as concurrent.futures.Executor says
        assert isinstance(raised.value, OffloadError)
    stats = queue.stats()
    assert (stats.submitted, stats.rejected) == (0, len(calls))
    assert f.call(-7) == 7, "a call here and now needs no queue"


def test_configure_opens_a_fresh_queue(registry: Registry) -> None:
    old = registry.configure("plots", workers=3)
    old.submit(int).result(WAIT)
    old.shutdown()
    fresh = registry.configure("plots", workers=2)
    assert fresh is not old
    assert registry.queue("plots") is fresh
    assert registry.queues()["plots"] is fresh
    assert (fresh.settings.workers, fresh.stats().submitted) == (2, 0)
    assert fresh.submit(threading.current_thread).result(WAIT).name == "offload-plots-0"
    with pytest.raises(QueueClosed):
        old.submit(int)


def test_looking_up_a_closed_queue_does_not_open_it(registry: Registry) -> None:
    registry.queue("plots").shutdown()
    with pytest.raises(QueueClosed):
        registry.queue("plots").submit(int)


def test_a_task_may_shut_its_own_queue_down_without_waiting(registry: Registry) -> None:
    queue = registry.queue("plots")
    first = queue.submit(queue.shutdown, wait=False)
    assert first.result(WAIT) is None
    with pytest.raises(QueueClosed):
        queue.submit(int)


# --- contextvars

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def read_and_set(value: str = "of the task") -> str:
    before = variable.get()
    variable.set(value)
    return before


async def async_read_and_set(value: str = "of the task") -> str:
    return read_and_set(value)


def in_context(value: str, call: Callable[[], Any]) -> Any:
    def inside() -> Any:
        variable.set(value)
        return call()

    return contextvars.copy_context().run(inside)


@pytest.mark.parametrize("function", [read_and_set, async_read_and_set])
def test_tasks_see_a_copy_of_the_callers_context(registry: Registry, function: Callable[..., Any]) -> None:
    f = registry.offload(queue="plots")(function)

    def calls() -> None:
        first = f()
        assert first.result(WAIT) == "of the caller"
        assert f().result(WAIT) == "of the caller", "what one task sets, no other sees"
        assert variable.get() == "of the caller", "nor its caller"

    in_context("of the caller", calls)
    assert f().result(WAIT) == "unset"


def test_the_context_is_that_of_the_moment_of_the_call(registry: Registry, gate: Callable[[str], Gate]) -> None:
    f = registry.offload(queue="plots")(read_and_set)

    def calls() -> list[Task[str]]:
        first = f()
        variable.set("later")
        return [first, f()]

    with gate("plots"):
        tasks = in_context("sooner", calls)
    assert [task.result(WAIT) for task in tasks] == ["sooner", "later"]


@pytest.mark.parametrize("function", [read_and_set, async_read_and_set])
def test_without_context_tasks_see_none_of_the_callers(registry: Registry, function: Callable[..., Any]) -> None:
    registry.configure("plots", context=False)
    f = registry.offload(queue="plots")(function)
    assert in_context("of the caller", f).result(WAIT) == "unset"


def test_a_worker_keeps_no_caller_context(registry: Registry) -> None:
    """The thread that the first call started must not show that call's variables to the second."""
    payload = Payload()
    gone = payload.gone
    held: contextvars.ContextVar[Any] = contextvars.ContextVar("held", default=None)
    f = registry.offload(queue="plots")(held.get)

    context = contextvars.copy_context()
    context.run(held.set, payload)
    assert context.run(f).result(WAIT) is payload
    assert f().result(WAIT) is None
    del payload, context
    assert has_gone(gone)


def set_and_reset() -> None:
    variable.reset(variable.set("of the task"))


def set_and_fail() -> None:
    variable.set("of the task")
    raise ValueError("on purpose")


@pytest.mark.parametrize("function", [set_and_reset, set_and_fail, read_and_set, async_read_and_set])
def test_where_callers_have_no_context_nor_has_the_next_task(registry: Registry, gate: Callable[[str], Gate], function: Callable[..., Any]) -> None:
    """Each such task runs in an empty context of its own, whatever the one before it left in its."""
    queue = registry.configure("plots", on_error=lambda task, error: None)

    def look() -> tuple[str, int]:
        return variable.get(), len(contextvars.copy_context())

    with gate("plots"):
        looks = contextvars.Context().run(lambda: [queue.submit(call) for call in (function, look, function, look)])[1::2]
    assert [task.result(WAIT) for task in looks] == [("unset", 0), ("unset", 0)]


# --- nothing is kept


def nothing(*args: object, **kwargs: object) -> None: ...


def fail_with(*args: object, **kwargs: object) -> None:
    local = args, kwargs  # kept by this frame, and so by the traceback
    raise ValueError(f"no {len(local)}")


async def async_nothing(*args: object, **kwargs: object) -> None: ...


async def async_fail_with(*args: object, **kwargs: object) -> None:
    fail_with(*args, **kwargs)


@pytest.mark.parametrize("function", [nothing, fail_with, async_nothing, async_fail_with])
@pytest.mark.parametrize("how", ["positional", "keyword", "function"])
def test_arguments_go_when_the_task_has_ended(registry: Registry, function: Callable[..., Any], how: str) -> None:
    """The worker is idle, the queue is open, and a failure is kept for flush: still nobody holds them."""
    queue = registry.configure("plots", idle_timeout=None)
    payload = Payload()
    gone = payload.gone
    f = registry.offload(queue="plots")(functools.partial(function, payload) if how == "function" else function)
    if how == "function":
        task = f()
    else:
        task = f(payload) if how == "positional" else f(keyword=payload)
    queue.flush(timeout=WAIT)
    assert task.done()
    del payload, f, task
    assert has_gone(gone)


@pytest.mark.parametrize("function", [len, async_nothing])
def test_arguments_go_while_the_task_is_still_held(registry: Registry, function: Callable[..., Any]) -> None:
    class Sized(Payload):
        def __len__(self) -> int:
            return 3

    payload = Sized()
    gone = payload.gone
    task = registry.offload(queue="plots")(function)(payload)
    task.result(WAIT)
    del payload
    assert has_gone(gone)
    assert task.done()


def test_results_go_with_their_task(registry: Registry) -> None:
    task = registry.queue("plots").submit(Payload)
    gone = task.result(WAIT).gone
    del task
    assert has_gone(gone)


def test_exceptions_go_with_their_task_once_they_were_flushed(registry: Registry) -> None:
    class Heavy(Exception, Payload):
        def __init__(self) -> None:
            Payload.__init__(self)

    def fail() -> None:
        raise Heavy

    registry.configure("plots", on_error=nothing)  # pytest keeps whatever is logged
    task = registry.queue("plots").submit(fail)
    error = task.exception(WAIT)
    assert isinstance(error, Heavy)
    gone = error.gone
    with pytest.raises(ExceptionGroup):
        registry.flush(timeout=WAIT, raise_errors=True)
    del task, error
    assert has_gone(gone)


def test_a_cancelled_tasks_arguments_go(registry: Registry, gate: Callable[[str], Gate]) -> None:
    payload = Payload()
    gone = payload.gone
    with gate("plots"):
        task = registry.queue("plots").submit(print, payload)
        assert task.cancel()
        del payload
    assert has_gone(gone)
    assert task.cancelled()
