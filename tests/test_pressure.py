"""A full queue: each policy, who is woken when, what is said, and that nested use never deadlocks (§4)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import linecache
import logging
import re
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import offload
from offload import Queue, QueueClosed, QueueFull, Registry, Task

WAIT = 10.0  # seconds, used only to fail
PACKAGE = str(Path(offload.__file__).parent)
POLICIES = ("block", "raise", "drop_newest", "drop_oldest", "caller_runs")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.001)


def stack(thread: threading.Thread) -> list[types.FrameType]:
    """The frames of another thread, innermost first."""
    frame = sys._current_frames().get(thread.ident or 0)
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def blocked(thread: threading.Thread) -> bool:
    """Whether the thread waits inside offload: at a line that waits, the same over several looks."""
    seen = set()
    for _ in range(5):
        frames = stack(thread)
        if not any(frame.f_code.co_filename.startswith(PACKAGE) for frame in frames):
            return False
        top = frames[0]
        if top.f_lineno is None:  # free-threaded: caught between two lines
            return False
        if re.search(r"acquire|wait|join", linecache.getline(top.f_code.co_filename, top.f_lineno)) is None:
            return False
        seen.add((id(top), top.f_lasti))
        time.sleep(0.001)
    return len(seen) == 1


class Callers:
    """Threads that each make one call, and what they got."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.answers: dict[object, object] = {}

    def call(self, function: Callable[[Any], Any], value: object) -> threading.Thread:
        def target() -> None:
            try:
                self.answers[value] = function(value)
            except BaseException as error:
                self.answers[value] = error

        thread = threading.Thread(target=target, name=f"caller {value}", daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        for thread in self.threads:
            thread.join(WAIT)
            assert not thread.is_alive(), f"{thread.name} never came back"


@pytest.fixture
def callers() -> Iterator[Callers]:
    callers = Callers()
    yield callers
    callers.join()


class Full:
    """A queue of one worker, which is held, with as many waiting calls as it takes."""

    def __init__(self, registry: Registry, hold: Callable[[Queue], Any], on_full: str, maxsize: int = 2) -> None:
        self.registry = registry
        self.ran: list[object] = []
        self.threads: dict[object, threading.Thread] = {}
        self.queue = registry.configure("narrow", maxsize=maxsize, on_full=on_full)
        self.hold, self.maxsize = hold, maxsize
        self.call = registry.offload(queue="narrow")(self.run)
        self.refill()

    def refill(self) -> None:
        self.gate = self.hold(self.queue)
        self.filling = [self.call(f"filling {n}") for n in range(self.maxsize)]
        assert self.queue.stats().waiting == self.maxsize

    def run(self, value: object) -> object:
        self.ran.append(value)
        self.threads[value] = threading.current_thread()
        if isinstance(value, BaseException):
            raise value
        return value

    def drain(self) -> list[object]:
        """What has run, in its order, once everything has."""
        self.gate.open()
        self.queue.flush(timeout=WAIT)
        return self.ran

    def balance(self) -> None:
        stats = self.queue.stats()
        ended = stats.succeeded + stats.failed + stats.cancelled + stats.dropped + stats.coalesced
        assert stats.submitted == ended + stats.waiting + stats.running


@pytest.fixture
def full(registry: Registry, gate: Callable[[Queue], Any]) -> Callable[..., Full]:
    return lambda on_full, maxsize=2: Full(registry, gate, on_full, maxsize)


# Each policy.


def test_block_waits_for_room(full: Callable[..., Full], callers: Callers) -> None:
    q = full("block")
    thread = callers.call(q.call, "late")
    until(lambda: blocked(thread))
    assert q.queue.stats().submitted == 3  # the gate and what fills the queue: a blocked call is not accepted yet

    assert q.drain()[:2] == ["filling 0", "filling 1"]
    callers.join()
    task = callers.answers["late"]
    assert isinstance(task, Task)
    assert task.result(WAIT) == "late"
    stats = q.queue.stats()
    assert (stats.submitted, stats.succeeded, stats.rejected) == (4, 4, 0)
    assert stats.blocked_seconds > 0


def test_raise_refuses_in_the_caller(full: Callable[..., Full]) -> None:
    q = full("raise")
    with pytest.raises(QueueFull, match=r"narrow.*2|2.*narrow"):
        q.call("refused")

    assert q.drain() == ["filling 0", "filling 1"]
    stats = q.queue.stats()
    assert (stats.submitted, stats.succeeded, stats.rejected) == (3, 3, 1)


def test_drop_newest_cancels_the_new_call(full: Callable[..., Full]) -> None:
    q = full("drop_newest")
    task = q.call("dropped")
    assert task.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        task.result(timeout=0)
    assert concurrent.futures.wait([task], timeout=0).done == {task}

    assert q.drain() == ["filling 0", "filling 1"]
    stats = q.queue.stats()
    assert (stats.submitted, stats.succeeded, stats.dropped, stats.cancelled) == (4, 3, 1, 0)


def test_drop_oldest_cancels_the_call_that_waited_longest(full: Callable[..., Full]) -> None:
    q = full("drop_oldest")
    told: list[object] = []
    q.filling[0].add_done_callback(told.append)
    q.call("new")
    assert [task.cancelled() for task in q.filling] == [True, False]
    assert told == [q.filling[0]]

    assert q.drain() == ["filling 1", "new"]
    stats = q.queue.stats()
    assert (stats.submitted, stats.succeeded, stats.dropped, stats.cancelled) == (4, 3, 1, 0)


def test_drop_oldest_releases_whoever_waits_for_the_dropped_call(full: Callable[..., Full], callers: Callers) -> None:
    q = full("drop_oldest")
    callers.call(lambda _: concurrent.futures.wait([q.filling[0]], timeout=WAIT).not_done, "wait")
    callers.call(lambda _: q.filling[0].exception(timeout=WAIT), "exception")
    q.call("new")
    callers.join()

    assert callers.answers["wait"] == set()
    assert isinstance(callers.answers["exception"], concurrent.futures.CancelledError)


def test_caller_runs_runs_here_and_now(full: Callable[..., Full]) -> None:
    q = full("caller_runs")
    task = q.call("mine")
    assert task.done()
    assert task.result(timeout=0) == "mine"
    assert q.threads["mine"] is threading.current_thread()
    q.balance()

    assert q.drain() == ["mine", "filling 0", "filling 1"]
    assert q.queue.stats().succeeded == 4


def test_caller_runs_keeps_an_exception_on_the_task(full: Callable[..., Full]) -> None:
    q = full("caller_runs")
    told: list[object] = []
    q.registry.configure("narrow", on_error=lambda task, error: told.append((task, error)))
    error = ValueError("the task's own")
    task = q.call(error)

    assert task.exception(timeout=0) is error
    assert told == [(task, error)]
    assert q.queue.stats().failed == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_caller_runs_records_an_exit_and_raises_it(full: Callable[..., Full], kind: type[BaseException]) -> None:
    q = full("caller_runs")
    told: list[BaseException] = []
    q.registry.configure("narrow", on_error=lambda _task, error: told.append(error))
    error = kind("leave")
    with pytest.raises(kind) as caught:
        q.call(error)

    assert caught.value is error
    assert told == [error]
    assert q.queue.stats().failed == 1
    q.balance()


def test_the_policy_may_change_while_the_queue_is_full(full: Callable[..., Full]) -> None:
    q = full("raise")
    q.registry.configure("narrow", on_full="drop_newest")
    assert q.call("dropped").cancelled()
    q.registry.configure("narrow", on_full="drop_oldest")
    q.call("new")

    assert q.drain() == ["filling 1", "new"]


def test_a_lower_maxsize_keeps_what_was_accepted(full: Callable[..., Full]) -> None:
    q = full("raise", maxsize=3)
    q.registry.configure("narrow", maxsize=1)
    with pytest.raises(QueueFull):
        q.call("refused")

    assert q.drain() == ["filling 0", "filling 1", "filling 2"]


def test_a_cancelled_call_makes_room(full: Callable[..., Full]) -> None:
    q = full("raise")
    assert q.filling[0].cancel()
    q.call("in its room")

    assert q.drain() == ["filling 1", "in its room"]


# Who is woken, and when.


def test_blocked_callers_get_in_by_order_of_arrival(full: Callable[..., Full], callers: Callers) -> None:
    q = full("block", maxsize=1)
    names = [f"caller {n}" for n in range(6)]
    for name in names:
        thread = callers.call(q.call, name)
        until(lambda thread=thread: blocked(thread))  # type: ignore[misc]
    assert q.queue.stats().waiting == 1

    q.gate.open()
    callers.join()
    assert q.drain() == ["filling 0", *names]


def test_a_newcomer_does_not_overtake_a_blocked_caller(full: Callable[..., Full], callers: Callers) -> None:
    q = full("block", maxsize=1)
    blocked_thread = callers.call(q.call, "first")
    until(lambda: blocked(blocked_thread))
    assert q.filling[0].cancel()  # room for one: it is the blocked caller's, whoever looks first
    newcomer = callers.call(q.call, "second")
    until(lambda: not blocked_thread.is_alive())
    until(lambda: blocked(newcomer))

    assert q.drain() == ["first", "second"]


def test_a_cancelled_call_wakes_a_blocked_caller(full: Callable[..., Full], callers: Callers) -> None:
    q = full("block")
    thread = callers.call(q.call, "late")
    until(lambda: blocked(thread))
    assert q.filling[1].cancel()
    callers.join()

    assert q.drain() == ["filling 0", "late"]


@pytest.mark.parametrize("maxsize", [4, None])
def test_a_raised_maxsize_releases_as_many_as_fit(full: Callable[..., Full], callers: Callers, maxsize: int | None) -> None:
    q = full("block")
    threads = []
    for n in range(3):
        threads.append(callers.call(q.call, n))
        until(lambda: blocked(threads[-1]))
    q.registry.configure("narrow", maxsize=maxsize)
    released = 2 if maxsize else 3
    until(lambda: [thread.is_alive() for thread in threads].count(False) == released)
    if maxsize:
        until(lambda: blocked(threads[-1]))
    assert q.queue.stats().waiting == 2 + released

    assert q.drain()[:4] == ["filling 0", "filling 1", 0, 1]
    callers.join()
    q.queue.flush(timeout=WAIT)
    assert q.ran[4:] == [2]


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_shutdown_releases_blocked_callers(full: Callable[..., Full], callers: Callers, cancel_futures: bool) -> None:
    q = full("block")
    for n in range(3):
        thread = callers.call(q.call, n)
        until(lambda thread=thread: blocked(thread))  # type: ignore[misc]
    q.queue.shutdown(wait=False, cancel_futures=cancel_futures)
    callers.join()

    assert [type(callers.answers[n]) for n in range(3)] == [QueueClosed] * 3
    assert "narrow" in str(callers.answers[0])
    assert q.drain() == ([] if cancel_futures else ["filling 0", "filling 1"])
    stats = q.queue.stats()
    assert (stats.submitted, stats.rejected) == (3, 3)
    assert stats.cancelled == (2 if cancel_futures else 0)


def test_a_call_after_shutdown_is_refused_until_the_name_is_configured(registry: Registry) -> None:
    call = registry.offload(queue="closing")(abs)
    registry.queue("closing").shutdown()
    with pytest.raises(QueueClosed, match="closing"):
        call(-1)
    registry.configure("closing", maxsize=5)

    assert call(-1).result(WAIT) == 1


@pytest.fixture
def sigint() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the suite was started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs a signal sent to a thread")
@pytest.mark.usefixtures("sigint")
def test_ctrl_c_interrupts_a_blocked_caller(full: Callable[..., Full], callers: Callers) -> None:
    q = full("block")
    main, struck, over = threading.main_thread(), threading.Event(), threading.Event()

    def press(_: object) -> None:
        try:
            until(lambda: blocked(main))
            signal.pthread_kill(main.ident or 0, signal.SIGINT)
            if not struck.wait(WAIT / 4):  # it came just ahead of the wait itself, and did not end it
                signal.pthread_kill(main.ident or 0, signal.SIGINT)
            assert over.wait(WAIT)
        finally:
            q.gate.open()  # where it is not interrupted, the test fails and does not hang

    callers.call(press, "Ctrl-C")
    with pytest.raises(KeyboardInterrupt):
        q.call("interrupted")
    struck.set()
    assert q.queue.stats().waiting == 2

    # The room that it no longer waits for goes to the next one.
    thread = callers.call(q.call, "next")
    until(lambda: blocked(thread))
    assert q.filling[0].cancel()
    until(lambda: not thread.is_alive())
    over.set()
    callers.join()
    assert callers.answers["Ctrl-C"] is None

    assert q.drain() == ["filling 1", "next"]
    stats = q.queue.stats()
    assert (stats.submitted, stats.succeeded, stats.cancelled, stats.rejected) == (4, 3, 1, 0)


# What is said.


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name == "offload.narrow"]


def names_the_way_out(message: str) -> bool:
    return "narrow" in message and re.search(r"\b(maxsize|on_full|workers)\b", message) is not None


@pytest.mark.parametrize("on_full", ["drop_newest", "drop_oldest"])
def test_the_first_dropped_call_is_said_once(full: Callable[..., Full], caplog: pytest.LogCaptureFixture, on_full: str) -> None:
    q = full(on_full)
    assert warnings(caplog) == []
    for n in range(5):
        q.call(n)

    (message,) = warnings(caplog)
    assert names_the_way_out(message)
    assert q.queue.stats().dropped == 5


def test_the_first_blocked_call_is_said_once(full: Callable[..., Full], callers: Callers, caplog: pytest.LogCaptureFixture) -> None:
    q = full("block")
    assert warnings(caplog) == []
    for n in range(3):
        thread = callers.call(q.call, n)
        until(lambda thread=thread: blocked(thread))  # type: ignore[misc]

    (message,) = warnings(caplog)
    assert names_the_way_out(message)
    q.gate.open()


@pytest.mark.parametrize("on_full", ["raise", "caller_runs"])
def test_policies_that_the_caller_sees_say_nothing(full: Callable[..., Full], caplog: pytest.LogCaptureFixture, on_full: str) -> None:
    q = full(on_full)
    try:
        q.call("seen")
    except QueueFull:
        assert on_full == "raise"

    assert warnings(caplog) == []


def test_blocking_an_event_loop_is_said_once(full: Callable[..., Full], callers: Callers, caplog: pytest.LogCaptureFixture) -> None:
    q = full("block")

    def relieve(_: object) -> None:
        main = threading.main_thread()
        until(lambda: blocked(main))
        q.gate.open()

    async def main() -> None:
        for n in range(2):
            thread = callers.call(relieve, n)
            q.call(n)
            thread.join(WAIT)
            q.drain()
            q.refill()

    asyncio.run(main())
    told = [message for message in warnings(caplog) if "loop" in message]
    assert len(told) == 1
    assert "narrow" in told[0]
    assert "on_full" in told[0]


# Nested use never deadlocks.


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_that_offloads_to_its_own_full_queue_runs_the_call_in_place(registry: Registry, workers: int) -> None:
    registry.configure("nest", workers=workers, maxsize=1)
    threads: list[tuple[int, threading.Thread]] = []
    lock = threading.Lock()

    @registry.offload(queue="nest")
    def dig(depth: int) -> int:
        with lock:
            threads.append((depth, threading.current_thread()))
        children = [dig(depth - 1) for _ in range(2)] if depth else []
        return sum(child.result(WAIT) for child in children) + 1

    assert dig(7).result(WAIT) == 2**8 - 1
    stats = registry.queue("nest").stats()
    assert (stats.submitted, stats.succeeded, stats.waiting, stats.running) == (255, 255, 0, 0)
    assert len({thread for _, thread in threads}) <= workers


def test_a_failure_of_a_call_in_place_stays_on_its_task(full: Callable[..., Full]) -> None:
    q = full("block")
    q.registry.configure("narrow", on_error=lambda _task, _error: None, maxsize=3)
    error = ValueError("the inner one")

    @q.registry.offload(queue="narrow")
    def outer() -> BaseException | None:
        q.registry.configure("narrow", maxsize=1)
        fill = q.call("fill")
        inner = q.call(error)
        assert fill.running() is False
        return inner.exception(timeout=0)

    task = outer()
    q.gate.open()
    assert task.result(WAIT) is error
    q.queue.flush(timeout=WAIT)
    assert q.queue.stats().failed == 1


def test_result_on_a_waiting_sibling_runs_it_in_place(registry: Registry) -> None:
    threads: dict[str, int] = {}

    @registry.offload(queue="family")
    def child() -> str:
        threads["child"] = threading.get_ident()
        return "from the child"

    @registry.offload(queue="family")
    def parent() -> str:
        threads["parent"] = threading.get_ident()
        return child().result(WAIT)

    assert parent().result(WAIT) == "from the child"
    assert threads["child"] == threads["parent"]
    stats = registry.queue("family").stats()
    assert (stats.submitted, stats.succeeded) == (2, 2)


def test_result_on_a_waiting_sibling_jumps_the_line(registry: Registry) -> None:
    ran: list[int] = []
    child = registry.offload(queue="family")(ran.append)

    @registry.offload(queue="family")
    def parent() -> None:
        children = [child(n) for n in range(3)]
        children[2].result(WAIT)
        assert [sibling.done() for sibling in children] == [False, False, True]

    parent().result(WAIT)
    registry.flush("family", timeout=WAIT)
    assert ran == [2, 0, 1]


def test_exception_of_a_waiting_sibling_runs_it_in_place(registry: Registry) -> None:
    registry.configure("family", on_error=lambda _task, _error: None)
    error = ValueError("from the child")

    @registry.offload(queue="family")
    def child() -> None:
        raise error

    @registry.offload(queue="family")
    def parent() -> BaseException | None:
        return child().exception(WAIT)

    assert parent().result(WAIT) is error


def test_result_on_a_waiting_async_sibling(registry: Registry) -> None:
    @registry.offload(queue="family")
    async def child() -> str:
        await asyncio.sleep(0)
        return "from the child"

    @registry.offload(queue="family")
    def parent() -> str:
        return child().result(WAIT)

    assert parent().result(WAIT) == "from the child"


def test_await_on_a_waiting_sibling_in_an_async_task(registry: Registry) -> None:
    @registry.offload(queue="family")
    def plain_child() -> str:
        return "plain"

    @registry.offload(queue="family")
    async def async_child() -> str:
        await asyncio.sleep(0)
        return "async"

    @registry.offload(queue="family")
    async def parent() -> list[str]:
        first = await plain_child()
        second = await async_child()
        return [first, second, *await asyncio.gather(async_child(), plain_child())]

    assert parent().result(WAIT) == ["plain", "async", "async", "plain"]
    stats = registry.queue("family").stats()
    assert (stats.submitted, stats.succeeded, stats.waiting, stats.running) == (5, 5, 0, 0)


def test_result_in_an_async_task_runs_a_waiting_sibling(registry: Registry) -> None:
    @registry.offload(queue="family")
    def plain_child() -> str:
        return "plain"

    @registry.offload(queue="family")
    async def async_child() -> str:
        await asyncio.sleep(0)
        return "async"

    @registry.offload(queue="family")
    async def parent() -> list[str]:
        return [plain_child().result(WAIT), async_child().result(WAIT)]

    assert parent().result(WAIT) == ["plain", "async"]


def test_an_async_task_that_offloads_to_its_own_full_queue(registry: Registry) -> None:
    registry.configure("family", maxsize=1)

    @registry.offload(queue="family")
    async def dig(depth: int) -> int:
        await asyncio.sleep(0)
        children = [dig(depth - 1) for _ in range(2)] if depth else []
        return sum([await child for child in children]) + 1

    assert dig(4).result(WAIT) == 2**5 - 1


def test_an_async_call_in_place_on_a_running_loop_has_a_loop_of_its_own(full: Callable[..., Full]) -> None:
    q = full("caller_runs")

    @q.registry.offload(queue="narrow")
    async def where() -> tuple[int, int]:
        await asyncio.sleep(0)
        return threading.get_ident(), id(asyncio.get_running_loop())

    async def main() -> tuple[int, int]:
        task = where()
        assert task.done()
        return task.result(timeout=0)

    thread, _ = asyncio.run(main())
    assert thread != threading.get_ident()
    assert where().result(timeout=0)[0] is not None  # no loop runs here: any thread will do


def on_a_running_loop(action: Callable[[], Any], callers: Callers) -> threading.Thread:
    """A thread that does it in a coroutine, so that a deadlock fails one test and does not hang the run."""

    async def main() -> Any:
        return action()

    return callers.call(lambda _: asyncio.run(main()), "loop")


def test_a_coroutine_in_a_helper_thread_is_a_task_of_its_full_queue(full: Callable[..., Full], callers: Callers) -> None:
    """Its call would wait for room that itself may be holding: it runs in place."""
    q = full("caller_runs")

    @q.registry.offload(queue="narrow")
    async def outer() -> bool:
        q.registry.configure("narrow", on_full="block")
        return q.call("inner").done()

    thread = on_a_running_loop(outer, callers)
    thread.join(WAIT / 5)
    deadlocked = thread.is_alive()
    q.gate.open()
    q.registry.configure("narrow", maxsize=None)  # where it waits, it goes on, and the test ends
    callers.join()
    assert not deadlocked
    assert callers.answers["loop"].result(WAIT) is True  # type: ignore[attr-defined]


def test_a_coroutine_in_a_helper_thread_awaits_a_waiting_sibling(full: Callable[..., Full], callers: Callers) -> None:
    q = full("caller_runs", maxsize=1)
    (sibling,) = q.filling

    @q.registry.offload(queue="narrow")
    async def outer() -> Any:
        return await sibling

    thread = on_a_running_loop(outer, callers)
    thread.join(WAIT / 5)
    deadlocked = thread.is_alive()
    sibling.cancel()  # where it waits, it goes on, and the test ends
    q.gate.open()
    callers.join()
    assert not deadlocked
    assert callers.answers["loop"].result(WAIT) == "filling 0"  # type: ignore[attr-defined]


@pytest.mark.parametrize("wanted", ["own queue", "by name", "all"])
def test_flush_from_inside_its_own_queue_is_an_error_at_once(registry: Registry, wanted: str) -> None:
    flushes: dict[str, Callable[[], object]] = {
        "own queue": lambda: registry.queue("inner").flush(),
        "by name": lambda: registry.flush("inner"),
        "all": registry.flush,
    }

    @registry.offload(queue="inner")
    def task() -> None:
        flushes[wanted]()

    registry.configure("inner", on_error=lambda _task, _error: None)
    error = task().exception(WAIT)
    assert type(error) is RuntimeError
    assert "inner" in str(error)


def test_aflush_from_inside_its_own_queue_is_an_error_at_once(registry: Registry) -> None:
    @registry.offload(queue="inner")
    async def task() -> None:
        await registry.aflush("inner")

    registry.configure("inner", on_error=lambda _task, _error: None)
    assert type(task().exception(WAIT)) is RuntimeError


def test_flush_of_another_queue_from_inside_a_task_waits_for_it(registry: Registry) -> None:
    ran: list[str] = []
    other = registry.offload(queue="other")(ran.append)

    @registry.offload(queue="inner")
    def task() -> list[str]:
        other("done")
        registry.flush("other", timeout=WAIT)
        return list(ran)

    assert task().result(WAIT) == ["done"]


# Many calls at once.

MANY = 100_000
MAXSIZE = 100


def live_tasks(queue: str) -> int:
    """How many Tasks of the queue are in memory."""
    return sum(1 for thing in gc.get_objects() if type(thing) is Task and thing.queue == queue)


def storm(call: Callable[[int], object], threads: int = 4) -> None:
    """MANY calls, as fast as several threads can make them."""

    def some() -> None:
        for n in range(MANY // threads):
            try:
                call(n)
            except QueueFull:
                pass

    workers = [threading.Thread(target=some) for _ in range(threads)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()


@pytest.mark.parametrize(
    ("on_full", "expected"),
    [
        ("raise", {"submitted": MAXSIZE + 1, "rejected": MANY - MAXSIZE, "succeeded": MAXSIZE + 1}),
        ("drop_newest", {"submitted": MANY + 1, "dropped": MANY - MAXSIZE, "succeeded": MAXSIZE + 1}),
        ("drop_oldest", {"submitted": MANY + 1, "dropped": MANY - MAXSIZE, "succeeded": MAXSIZE + 1}),
        ("caller_runs", {"submitted": MANY + 1, "succeeded": MANY + 1}),
    ],
)
def test_a_hundred_thousand_calls_into_a_held_queue(registry: Registry, gate: Callable[[Queue], Any], on_full: str, expected: dict[str, int]) -> None:
    queue = registry.configure("storm", maxsize=MAXSIZE, on_full=on_full)
    held = gate(queue)
    storm(registry.offload(queue="storm")(lambda n: n))
    assert queue.stats().waiting == MAXSIZE
    assert live_tasks("storm") <= MANY / 100  # what was dropped or refused, or is done, is gone

    held.open()
    queue.flush(timeout=WAIT)
    stats = queue.stats()
    counts = ("submitted", "succeeded", "failed", "cancelled", "dropped", "coalesced", "rejected")
    assert {name: getattr(stats, name) for name in counts} == dict.fromkeys(counts, 0) | expected


def test_a_hundred_thousand_calls_under_block(registry: Registry) -> None:
    queue = registry.configure("storm", maxsize=MAXSIZE)
    most = ran = 0

    @registry.offload(queue="storm")
    def count(n: int) -> None:  # the only worker runs it, so it needs no lock
        nonlocal most, ran
        ran += 1
        if n % 5_000 == 0:
            most = max(most, live_tasks("storm"))

    storm(count)
    queue.flush(timeout=WAIT)
    stats = queue.stats()
    assert ran == stats.submitted == stats.succeeded == MANY
    assert (stats.waiting, stats.running, stats.dropped, stats.rejected) == (0, 0, 0, 0)
    assert 0 < most <= MANY / 100  # those that wait, and a few that nobody has come round to free


def test_kept_failures_are_bounded(registry: Registry) -> None:
    queue = registry.configure("storm", maxsize=None, on_error=lambda _task, _error: None)

    @registry.offload(queue="storm")
    def fail(n: int) -> None:
        raise ValueError(n)

    for n in range(1_000):
        fail(n)
    with pytest.raises(ExceptionGroup) as caught:
        queue.flush(timeout=WAIT, raise_errors=True)
    assert [error.args[0] for error in caught.value.exceptions] == list(range(900, 1_000))
    assert "900" in str(caught.value)
    assert queue.stats().failed == 1_000
    queue.flush(timeout=WAIT, raise_errors=True)  # each failure is told once


def test_lowered_workers_end_their_surplus_threads(registry: Registry) -> None:
    queue = registry.configure("resized", workers=4)
    together = threading.Barrier(5)
    for _ in range(4):
        queue.submit(together.wait, WAIT)
    together.wait(WAIT)
    queue.flush(timeout=WAIT)
    assert queue.stats().workers == 4
    registry.configure("resized", workers=1)
    until(lambda: queue.stats().workers <= 1)

    assert queue.submit(abs, -1).result(WAIT) == 1


@pytest.mark.parametrize("seed", [1])
def test_totals_under_stress(seed: int) -> None:
    program = Path(__file__).parent / "stress" / "totals.py"
    done = subprocess.run(
        [sys.executable, "-X", "dev", program, "--seconds", "1", "--seed", str(seed)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr  # a hang tells where
    assert done.stderr == ""
    assert f"seed {seed}" in done.stdout


def test_a_warning_names_the_registry_too(caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry("acme", on_full="drop_newest", maxsize=1)
    queue = registry.queue("events")
    gate = threading.Event()
    queue.submit(gate.wait, WAIT)
    until(lambda: queue.stats().running == 1)
    queue.submit(int)
    queue.submit(int)
    gate.set()
    registry.shutdown()
    assert "queue 'acme.events' dropped calls" in caplog.text
