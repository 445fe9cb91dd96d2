"""flush and aflush: what they wait for, what they do not, and how they end when they can not."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from conftest import WAIT, Gate

import offload
from offload import FlushTimeout, OffloadError, Registry, Task


def aflushed(registry: Registry, *names: str, **options: Any) -> None:
    asyncio.run(registry.aflush(*names, **options))


def flushed(registry: Registry, *names: str, **options: Any) -> None:
    registry.flush(*names, **options)


BOTH = pytest.mark.parametrize("flush", [flushed, aflushed])
Flush = Callable[..., None]


@BOTH
def test_waits_for_everything_that_was_accepted(registry: Registry, flush: Flush) -> None:
    registry.configure("b", workers=3)
    tasks = [registry.queue(name).submit(int, n) for n, name in enumerate("abc" * 50)]
    flush(registry, timeout=WAIT)
    assert all(task.done() for task in tasks)
    stats = registry.stats().values()
    assert [(one.waiting, one.running, one.succeeded) for one in stats] == [(0, 0, 50)] * 3


@BOTH
def test_waits_for_named_queues_alone(registry: Registry, gate: Callable[[str], Gate], flush: Flush) -> None:
    with gate("held") as held:
        tasks = [registry.queue(name).submit(int) for name in ("a", "b", "a")]
        flush(registry, "a", "b", timeout=WAIT)
        assert all(task.done() for task in tasks)
        assert held.task.running()
        with pytest.raises(FlushTimeout):
            flush(registry, timeout=0.01)
    flush(registry, timeout=WAIT)
    assert held.task.done()


@BOTH
def test_idle_unused_and_unknown_queues_are_no_error(registry: Registry, flush: Flush) -> None:
    flush(registry)
    flush(registry, timeout=0)
    flush(registry, "never used", timeout=0)
    registry.queue("plots")
    flush(registry, "plots", "never used", timeout=0)
    registry.queue("plots").shutdown()
    flush(registry, "plots", timeout=0)


def test_returns_nothing(registry: Registry) -> None:
    assert registry.flush() is None  # type: ignore[func-returns-value]
    assert registry.queue("plots").flush() is None  # type: ignore[func-returns-value]
    assert asyncio.run(registry.aflush()) is None  # type: ignore[func-returns-value]


@BOTH
def test_children_of_tasks_are_included(registry: Registry, flush: Flush) -> None:
    seen: list[tuple[str, int]] = []

    def ping(depth: int) -> None:
        seen.append(("ping", depth))
        if depth:
            offloaded_pong(depth - 1)

    async def pong(depth: int) -> None:
        seen.append(("pong", depth))
        if depth:
            registry.queue("ping").submit(ping, depth - 1)

    offloaded_pong = registry.offload(queue="pong")(pong)
    registry.queue("ping").submit(ping, 20)
    flush(registry, timeout=WAIT)
    assert seen == [("pong" if depth % 2 else "ping", depth) for depth in range(20, -1, -1)]


@BOTH
def test_children_on_the_same_queue_are_included(registry: Registry, flush: Flush) -> None:
    seen: list[int] = []

    def task(depth: int) -> None:
        if depth:
            registry.queue("plots").submit(task, depth - 1)
        seen.append(depth)

    registry.queue("plots").submit(task, 20)
    flush(registry, "plots", timeout=WAIT)
    assert seen == list(range(20, -1, -1))


def test_tasks_added_meanwhile_are_included(registry: Registry, gate: Callable[[str], Gate]) -> None:
    """The second task is added by a callback of the first one's end, while the flush is waiting for it."""
    held = gate("plots")
    added: list[Task[int]] = []
    held.task.add_done_callback(lambda _: added.append(registry.queue("plots").submit(int, 7)))
    flusher = threading.Thread(target=lambda: registry.flush("plots", timeout=WAIT))
    flusher.start()
    held.open()
    flusher.join(WAIT)
    assert not flusher.is_alive()
    registry.flush("plots", timeout=WAIT)
    assert added[0].result(0) == 7


@BOTH
def test_failed_and_cancelled_tasks_count_as_finished(registry: Registry, gate: Callable[[str], Gate], flush: Flush) -> None:
    with gate("plots"):
        failing = registry.queue("plots").submit(int, "word")
        cancelled = registry.queue("plots").submit(int)
        cancelled.cancel()
    flush(registry, timeout=WAIT)
    assert failing.exception(0) is not None
    assert cancelled.cancelled()


def test_several_threads_flush_at_once(registry: Registry, gate: Callable[[str], Gate]) -> None:
    ended: list[int] = []

    def flush_and_tell(number: int) -> None:
        registry.flush(timeout=WAIT)
        ended.append(number)

    with gate("plots"):
        flushers = [threading.Thread(target=flush_and_tell, args=(n,)) for n in range(5)]
        for flusher in flushers:
            flusher.start()
        assert ended == []
    for flusher in flushers:
        flusher.join(WAIT)
    assert sorted(ended) == [0, 1, 2, 3, 4]


def test_a_queue_flushes_itself(registry: Registry, gate: Callable[[str], Gate]) -> None:
    with gate("held"):
        task = registry.queue("plots").submit(int, "word")
        registry.queue("plots").flush(timeout=WAIT)
        assert task.done()
        with pytest.raises(FlushTimeout, match="held"):
            registry.queue("held").flush(timeout=0.01)
    with pytest.raises(ExceptionGroup):
        registry.queue("plots").flush(timeout=WAIT, raise_errors=True)


# --- timeouts


@BOTH
def test_a_timeout_lists_how_many_tasks_of_which_queues_are_unfinished(registry: Registry, gate: Callable[[str], Gate], flush: Flush) -> None:
    with gate("plots"), gate("mail"):
        for _ in range(2):
            registry.queue("plots").submit(int)
        cancelled = registry.queue("mail").submit(int)
        cancelled.cancel()
        registry.queue("quiet").submit(int).result(WAIT)
        registry.queue("quiet").flush(timeout=WAIT)
        with pytest.raises(FlushTimeout) as raised:
            flush(registry, timeout=0.01)
        message = str(raised.value)
        assert re.search(r"plots\W+3|3\D*plots", message)
        assert re.search(r"mail\W+1|1\D*mail", message)
        assert "quiet" not in message
        with pytest.raises(FlushTimeout, match="mail") as raised:
            flush(registry, "mail", "quiet", timeout=0.01)
        assert "plots" not in str(raised.value)
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, OffloadError)
    flush(registry, timeout=WAIT)
    assert registry.queue("plots").stats().succeeded == 3, "the tasks went on"


@BOTH
def test_several_queues_share_one_timeout(registry: Registry, gate: Callable[[str], Gate], flush: Flush) -> None:
    names = [f"queue{n}" for n in range(8)]
    for name in names:
        gate(name)
    for queues in (names, []):
        start = time.monotonic()
        with pytest.raises(FlushTimeout) as raised:
            flush(registry, *queues, timeout=0.2)
        assert 0.19 <= time.monotonic() - start < 0.8  # eight timeouts would be 1.6 seconds
        assert all(name in str(raised.value) for name in names)


@BOTH
@pytest.mark.parametrize("timeout", [0, -1])
def test_a_timeout_of_nothing_only_looks(registry: Registry, gate: Callable[[str], Gate], flush: Flush, timeout: float) -> None:
    flush(registry, timeout=timeout)
    with gate("plots"), pytest.raises(FlushTimeout):
        flush(registry, timeout=timeout)


# --- from inside a task


@pytest.mark.parametrize("names", [(), ("plots",), ("mail", "plots")])
@pytest.mark.parametrize("timeout", [None, WAIT])
def test_a_flush_that_would_wait_for_its_own_task_is_refused_at_once(registry: Registry, names: tuple[str, ...], timeout: float | None) -> None:
    task = registry.queue("plots").submit(registry.flush, *names, timeout=timeout)
    error = task.exception(WAIT)
    assert isinstance(error, RuntimeError)
    assert "flush" in str(error)
    assert "plots" in str(error)
    assert not isinstance(error, OffloadError), "a mistake in the program, not a state of the queue"


def test_a_queues_own_flush_too(registry: Registry) -> None:
    queue = registry.queue("plots")
    assert isinstance(queue.submit(queue.flush).exception(WAIT), RuntimeError)


def test_with_several_workers_too(registry: Registry) -> None:
    queue = registry.configure("plots", workers=2)
    assert isinstance(queue.submit(registry.flush).exception(WAIT), RuntimeError)


@pytest.mark.parametrize("names", [(), ("plots",)])
def test_from_an_async_task_too(registry: Registry, names: tuple[str, ...]) -> None:
    async def asynchronous() -> None:
        await registry.aflush(*names)

    async def blocking() -> None:
        registry.flush(*names)

    for function in (asynchronous, blocking):
        assert isinstance(registry.offload(queue="plots")(function)().exception(WAIT), RuntimeError)


def test_from_a_callback_or_on_error_too(registry: Registry, gate: Callable[[str], Gate]) -> None:
    """Both run on the worker, and the task counts as unfinished until they have returned."""
    raised: list[BaseException] = []

    def flush_it(*_: object) -> None:
        try:
            registry.flush("plots", timeout=WAIT)
        except BaseException as error:
            raised.append(error)

    registry.configure("plots", on_error=flush_it)
    with gate("plots"):
        registry.queue("plots").submit(int, "word").add_done_callback(flush_it)
    registry.flush(timeout=WAIT)
    assert [type(error) for error in raised] == [RuntimeError, RuntimeError]


def test_a_task_may_flush_other_queues(registry: Registry) -> None:
    def parent() -> bool:
        child = registry.queue("mail").submit(int)
        registry.flush("mail", timeout=WAIT)
        return child.done()

    async def async_parent() -> bool:
        child = registry.queue("mail").submit(int)
        await registry.aflush("mail", timeout=WAIT)
        return child.done()

    assert registry.offload(queue="plots")(parent)().result(WAIT) is True
    assert registry.offload(queue="plots")(async_parent)().result(WAIT) is True


def test_a_task_may_flush_another_registry(registry: Registry, make_registry: Callable[..., Registry]) -> None:
    other = make_registry()

    def parent() -> bool:
        child = other.queue("plots").submit(int)
        other.flush(timeout=WAIT)
        return child.done()

    assert registry.queue("plots").submit(parent).result(WAIT) is True


def test_a_thread_that_a_task_starts_may_flush(registry: Registry, gate: Callable[[str], Gate]) -> None:
    """It is not the task: whether the flush can end is up to the task, and with a timeout it does."""
    raised: list[BaseException] = []

    def flush_it() -> None:
        try:
            registry.flush("plots", timeout=0.01)
        except FlushTimeout as error:
            raised.append(error)

    def parent() -> None:
        thread = threading.Thread(target=flush_it)
        thread.start()
        thread.join(WAIT)

    registry.queue("plots").submit(parent).result(WAIT)
    assert len(raised) == 1


# --- aflush


def test_aflush_does_not_block_its_loop(registry: Registry, gate: Callable[[str], Gate]) -> None:
    held = gate("plots")

    async def main() -> None:
        flusher = asyncio.create_task(registry.aflush("plots", timeout=WAIT))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not flusher.done()
        held.open()
        await flusher
        assert held.task.done()

    asyncio.run(main())


def test_cancelling_aflush_cancels_nothing_else(registry: Registry, gate: Callable[[str], Gate]) -> None:
    """Nor does it leave anything that keeps asyncio.run from ending while the tasks go on."""

    async def main() -> None:
        flusher = asyncio.create_task(registry.aflush())
        await asyncio.sleep(0)
        flusher.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flusher
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(registry.aflush(), 0.01)

    with gate("plots") as held:
        waiting = registry.queue("plots").submit(int, 7)
        asyncio.run(main())
        assert held.task.running()
    assert waiting.result(WAIT) == 7


def test_many_aflushes_at_once(registry: Registry, gate: Callable[[str], Gate]) -> None:
    held = gate("plots")
    before = threading.active_count()

    async def main() -> None:
        flushers = [asyncio.create_task(registry.aflush(timeout=WAIT)) for _ in range(100)]
        await asyncio.sleep(0)
        assert threading.active_count() < before + 10, "a wait costs no thread"
        held.open()
        await asyncio.gather(*flushers)

    asyncio.run(main())


def test_aflush_raises_errors(registry: Registry) -> None:
    async def main() -> None:
        registry.queue("plots").submit(int, "word")
        with pytest.raises(ExceptionGroup) as raised:
            await registry.aflush(timeout=WAIT, raise_errors=True)
        assert [type(error) for error in raised.value.exceptions] == [ValueError]

    asyncio.run(main())


# --- the default registry's


def test_the_modules_functions(default_registry: ModuleType) -> None:
    with Gate(offload.queue("plots")) as held:
        with pytest.raises(FlushTimeout):
            offload.flush("plots", timeout=0.01)
        with pytest.raises(FlushTimeout):
            asyncio.run(offload.aflush(timeout=0.01))
        offload.flush("mail", timeout=0)
    offload.flush()
    assert held.task.done()
    asyncio.run(offload.aflush("plots"))
