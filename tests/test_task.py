"""A Task is a real concurrent.futures.Future that any running event loop can await."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, CancelledError, Future, as_completed, wait
from pathlib import Path
from typing import Any

import pytest
from conftest import WAIT, Gate

from offload import Registry, Task

HERE = Path(__file__).name
module_registry = Registry()


@pytest.fixture(autouse=True)
def close_module_registry(thread_guard: None) -> Iterator[None]:
    yield
    for queue in module_registry.queues().values():
        queue.shutdown()
        module_registry.configure(queue.name)


@module_registry.offload(queue="plots")
def identity(value: Any) -> Any:
    return value


class Sender:
    @module_registry.offload(queue="plots")
    def send(self, value: Any) -> Any:
        return value

    @module_registry.offload(queue="plots")
    @classmethod
    def class_send(cls, value: Any) -> Any:
        return value

    @module_registry.offload(queue="plots")
    @staticmethod
    def static_send(value: Any) -> Any:
        return value


@module_registry.offload(queue="plots")
def boom(message: str) -> None:
    raise ValueError(message)


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


# --- a real Future


def test_is_a_future_and_generic() -> None:
    task = identity(1)
    assert isinstance(task, Task)
    assert isinstance(task, Future)
    assert issubclass(Task, Future)
    assert Task[int] is not None
    assert (task.result(WAIT), task.exception(WAIT), task.done(), task.cancelled()) == (1, None, True, False)


def test_keeps_what_a_future_keeps() -> None:
    """Python 3.15 reads both from a Future that has ended, whatever the outcome, to copy it into one of asyncio's."""
    done, failed = identity(1), boom("no")
    wait([done, failed], timeout=WAIT)
    assert (done._result, done._exception) == (1, None)
    assert (failed._result, failed._exception) == (None, failed.exception())


def test_wait_and_as_completed_over_several_queues(registry: Registry) -> None:
    tasks = [registry.queue(name).submit(int, n) for n, name in enumerate("abcab")]
    done, rest = wait(tasks, timeout=WAIT)
    assert (done, rest) == (set(tasks), set())
    assert sorted(task.result() for task in as_completed(tasks, timeout=WAIT)) == [0, 1, 2, 3, 4]


def test_wait_for_the_first(registry: Registry, gate: Callable[[str], Gate]) -> None:
    with gate("held"):
        held = registry.queue("held").submit(int)
        free = registry.queue("free").submit(int)
        done, rest = wait([held, free], timeout=WAIT, return_when=FIRST_COMPLETED)
        assert (done, rest) == ({free}, {held})
        assert next(as_completed([held, free], timeout=WAIT)) is free
        with pytest.raises(TimeoutError):
            list(as_completed([held], timeout=0))


def test_wait_for_the_first_exception(registry: Registry, gate: Callable[[str], Gate]) -> None:
    with gate("held"):
        held = registry.queue("held").submit(int)
        failing = boom("no")
        done, rest = wait([held, failing], timeout=WAIT, return_when=FIRST_EXCEPTION)
        assert (done, rest) == ({failing}, {held})


def test_wait_sees_cancelled_tasks(registry: Registry, gate: Callable[[str], Gate]) -> None:
    with gate("plots"):
        task = registry.queue("plots").submit(int)
        assert task.cancel()
    assert wait([task], timeout=WAIT).done == {task}


def test_mixes_with_the_standard_librarys_futures(registry: Registry) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        futures: list[Future[int]] = [pool.submit(int, 1), registry.queue("plots").submit(int, 2)]
        assert sorted(f.result() for f in as_completed(futures, timeout=WAIT)) == [1, 2]


@pytest.mark.parametrize("ends", ["result", "exception", "cancel"])
def test_done_callbacks_get_the_task(registry: Registry, gate: Callable[[str], Gate], ends: str) -> None:
    seen: list[tuple[Task[Any], bool]] = []
    called = threading.Event()

    def callback(future: Future[Any]) -> None:
        seen.append((future, future.done()))  # type: ignore[arg-type]
        called.set()

    with gate("plots"):
        f = registry.offload(queue="plots")(boom.__wrapped__ if ends == "exception" else identity.__wrapped__)
        task = f("value")
        task.add_done_callback(callback)
        if ends == "cancel":
            assert task.cancel()
    assert called.wait(WAIT)
    late = threading.Event()
    task.add_done_callback(lambda _: late.set())
    assert late.is_set(), "a callback added to a finished future runs at once"
    assert seen == [(task, True)]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_a_failing_callback_harms_neither_task_nor_worker(registry: Registry, gate: Callable[[str], Gate], error: type[BaseException]) -> None:
    def callback(future: Future[Any]) -> None:
        raise error("from a callback")

    with gate("plots"):
        task = registry.queue("plots").submit(int, 1)
        task.add_done_callback(callback)
    assert task.result(WAIT) == 1
    assert registry.queue("plots").submit(int, 2).result(WAIT) == 2
    registry.flush(timeout=WAIT)
    stats = registry.queue("plots").stats()
    assert (stats.succeeded, stats.failed) == (3, 0)


def test_result_and_exception_time_out(registry: Registry, gate: Callable[[str], Gate]) -> None:
    with gate("plots"):
        task = registry.queue("plots").submit(int)
        with pytest.raises(TimeoutError):
            task.result(timeout=0)
        with pytest.raises(TimeoutError):
            task.exception(timeout=0.01)
    assert task.result(WAIT) == 0


def test_result_raises_the_very_exception_with_its_traceback() -> None:
    task = boom("no")
    with pytest.raises(ValueError, match="no") as raised:
        task.result(WAIT)
    assert raised.value is task.exception()
    assert "boom" in [entry.name for entry in raised.traceback]


# --- cancel


def test_cancel_a_waiting_task(registry: Registry, gate: Callable[[str], Gate]) -> None:
    ran = threading.Event()
    with gate("plots"):
        task = registry.queue("plots").submit(ran.set)
        assert not task.cancelled()
        assert task.cancel()
        assert task.cancel(), "cancelling twice stays true, as for any Future"
        assert task.cancelled()
        assert task.done()
        stats = registry.queue("plots").stats()
        assert (stats.cancelled, stats.waiting) == (1, 0)
        for call in (task.result, task.exception):
            with pytest.raises(CancelledError):
                call(0)
    registry.flush("plots", timeout=WAIT)
    assert not ran.is_set()
    stats = registry.queue("plots").stats()
    assert (stats.submitted, stats.succeeded, stats.cancelled) == (2, 1, 1)


def test_cancel_of_a_running_or_finished_task_is_refused(registry: Registry, gate: Callable[[str], Gate]) -> None:
    with gate("plots") as held:
        assert held.task.running()
        assert not held.task.cancel()
    held.task.result(WAIT)
    assert not held.task.cancel()
    assert not held.task.cancelled()
    assert registry.queue("plots").stats().cancelled == 0


def test_cancelled_tasks_free_their_place(registry: Registry, gate: Callable[[str], Gate]) -> None:
    queue = registry.configure("plots", maxsize=1, on_full="raise")
    with gate(queue):
        for _ in range(3):
            assert queue.submit(int).cancel()
        last = queue.submit(int, 7)
    assert last.result(WAIT) == 7


# --- await


def test_await_gives_the_result() -> None:
    async def main() -> Any:
        return await identity(1)

    assert asyncio.run(main()) == 1


def test_await_raises_the_very_exception() -> None:
    async def main() -> None:
        task = boom("no")
        with pytest.raises(ValueError, match="no") as raised:
            await task
        assert raised.value is task.exception()

    asyncio.run(main())


def test_await_a_finished_task_again_and_again() -> None:
    task = identity(1)
    task.result(WAIT)

    async def main() -> list[Any]:
        return [await task, await task]

    assert asyncio.run(main()) == [1, 1]
    assert asyncio.run(main()) == [1, 1], "another loop may await it too"


def test_await_does_not_block_the_loop(registry: Registry, gate: Callable[[str], Gate]) -> None:
    held = gate("plots")
    task = registry.queue("plots").submit(int, 5)

    async def main() -> int:
        async def open_it() -> None:
            held.open()

        opener = asyncio.create_task(open_it())  # it runs only if the await lets the loop go on
        result = await asyncio.wait_for(task, WAIT)
        await opener
        return result

    assert asyncio.run(main()) == 5


def test_several_loops_await_one_task(registry: Registry, gate: Callable[[str], Gate]) -> None:
    results: list[int] = []
    ready = threading.Barrier(4)

    def loop_in_a_thread() -> None:
        async def main() -> int:
            waiter = asyncio.ensure_future(awaited(task))
            await asyncio.sleep(0)
            ready.wait(WAIT)
            return await waiter

        results.append(asyncio.run(main()))

    with gate("plots"):
        task = registry.queue("plots").submit(int, 5)
        threads = [threading.Thread(target=loop_in_a_thread) for _ in range(3)]
        for thread in threads:
            thread.start()
        ready.wait(WAIT)
    for thread in threads:
        thread.join(WAIT)
    assert results == [5, 5, 5]


async def awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


WAYS: dict[str, Callable[[Task[Any]], Awaitable[Any]]] = {
    "await": awaited,
    "wrap_future": asyncio.wrap_future,
    "ensure_future": asyncio.ensure_future,
    "wait_for": lambda task: asyncio.wait_for(task, WAIT),
    "shield": asyncio.shield,
    "gather": lambda task: asyncio.gather(task, awaited(task)),
}


@pytest.mark.parametrize("way", WAYS)
def test_asyncio_takes_a_task(registry: Registry, gate: Callable[[str], Gate], way: str) -> None:
    held = gate("plots")
    task = registry.queue("plots").submit(int, 5)

    async def main() -> Any:
        asyncio.get_running_loop().call_soon(held.open)
        return await WAYS[way](task)

    assert asyncio.run(main()) == ([5, 5] if way == "gather" else 5)


@pytest.mark.parametrize("way", ["await", "ensure_future", "wait_for", "shield", "gather"])
@pytest.mark.parametrize("state", ["waiting", "running"])
def test_cancelling_an_await_never_cancels_the_task(registry: Registry, gate: Callable[[str], Gate], way: str, state: str) -> None:
    async def main() -> None:
        async def waits() -> None:
            begun.set()
            await WAYS[way](task)

        begun = asyncio.Event()
        waiter = asyncio.create_task(waits())
        await begun.wait()
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    with gate("plots") as held:
        waiting = registry.queue("plots").submit(int, 5)
        task: Task[Any] = waiting if state == "waiting" else held.task
        asyncio.run(main())
        assert not task.cancelled()
        assert task.running() == (state == "running")
    assert waiting.result(WAIT) == 5
    assert held.task.result(WAIT) is None
    assert registry.queue("plots").stats().cancelled == 0


def test_a_timeout_around_an_await_never_cancels_the_task(registry: Registry, gate: Callable[[str], Gate]) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await task

    with gate("plots"):
        task = registry.queue("plots").submit(int, 5)
        asyncio.run(main())
    assert task.result(WAIT) == 5


def test_cancelling_the_task_ends_its_awaits(registry: Registry, gate: Callable[[str], Gate]) -> None:
    async def main() -> None:
        waiter = asyncio.create_task(awaited(task))
        await asyncio.sleep(0)
        assert task.cancel()
        with pytest.raises((CancelledError, asyncio.CancelledError)):
            await asyncio.wait_for(waiter, WAIT)
        with pytest.raises((CancelledError, asyncio.CancelledError)):
            await task

    with gate("plots"):
        task = registry.queue("plots").submit(int, 5)
        asyncio.run(main())


def test_a_loop_that_ended_while_it_awaited_harms_nothing(registry: Registry, gate: Callable[[str], Gate], errors: Callable[[], list[Any]]) -> None:
    """asyncio.run cancels what still awaits and closes its loop: the task's end must not call into that."""

    async def main() -> None:
        waiter = asyncio.create_task(awaited(task))
        await asyncio.sleep(0)
        assert not waiter.done()

    with gate("plots"):
        task = registry.queue("plots").submit(int, 5)
        asyncio.run(main())
    assert task.result(WAIT) == 5
    assert registry.queue("plots").submit(int, 6).result(WAIT) == 6
    assert errors() == []


# --- name, queue, caller


def test_name_and_queue() -> None:
    assert (identity(1).name, identity(1).queue) == (f"{__name__}.identity", "plots")
    assert identity.using(queue="mail")(1).queue == "mail"
    assert identity.using(queue="mail")(1).name == f"{__name__}.identity"
    assert Sender().send(1).name == f"{__name__}.Sender.send"
    assert module_registry.queue("mail").submit(identity.__wrapped__, 1).name == f"{__name__}.identity"


def test_names_of_what_has_no_name_of_its_own() -> None:
    class Nameless:
        def __call__(self) -> None: ...

    offload = module_registry.offload
    assert "identity" in offload(functools.partial(identity.__wrapped__, 1))().name
    assert "Nameless" in offload(Nameless())().name
    assert "len" in offload(len)("word").name
    assert "lambda" in offload(lambda: None)().name


def test_the_caller_is_the_line_of_the_call() -> None:
    sender = Sender()
    changed = identity.using(queue="mail")
    queue = module_registry.queue("plots")
    calls = [
        (identity(1), line()),
        (changed(1), line()),
        (identity.using(queue="mail")(1), line()),
        (sender.send(1), line()),
        (Sender.send(sender, 1), line()),
        (Sender.class_send(1), line()),
        (sender.class_send(1), line()),
        (sender.static_send(1), line()),
        (sender.send.using(queue="mail")(1), line()),
        (queue.submit(int, 1), line()),
    ]
    assert [task.caller for task, _ in calls] == [f"{HERE}:{number}" for _, number in calls]


def test_the_caller_of_an_async_call() -> None:
    async def nothing() -> None: ...

    async def main() -> None:
        task, number = module_registry.offload(nothing)(), line()
        await task
        assert task.caller == f"{HERE}:{number}"

    asyncio.run(main())


def test_the_caller_of_a_childs_call_is_the_task_that_made_it() -> None:
    def parent() -> tuple[Task[Any], int]:
        return identity.using(queue="mail")(1), line()

    task, number = module_registry.queue("plots").submit(parent).result(WAIT)
    assert task.caller == f"{HERE}:{number}"


@pytest.mark.parametrize("attribute", ["name", "queue", "caller"])
def test_they_stay_when_the_task_has_ended_or_was_cancelled(registry: Registry, gate: Callable[[str], Gate], attribute: str) -> None:
    with gate("plots"):
        ended, cancelled = registry.queue("plots").submit(int), registry.queue("plots").submit(int)
        before = getattr(ended, attribute)
        cancelled.cancel()
    ended.result(WAIT)
    assert getattr(ended, attribute) == getattr(cancelled, attribute) == before
