"""async def tasks: one event loop for each queue, at most `workers` at a time, else like any task."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import inspect
import queue as stdlib_queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from conftest import WAIT, Gate

from offload import Registry, Task

Threads = Callable[[], list[str]]


class AsyncGates:
    """Async tasks that hold until they are released, and say when they have begun."""

    def __init__(self) -> None:
        self.entered: stdlib_queue.SimpleQueue[int] = stdlib_queue.SimpleQueue()
        self.releases: dict[int, Future[None]] = {}

    async def hold(self, number: int) -> int:
        self.entered.put(number)
        await asyncio.wrap_future(self.releases.setdefault(number, Future()))
        return number

    def begun(self) -> int:
        return self.entered.get(timeout=WAIT)

    def release(self, number: int) -> None:
        self.releases.setdefault(number, Future()).set_result(None)

    def release_all(self) -> None:
        for future in self.releases.values():
            with contextlib.suppress(Exception):
                future.set_result(None)


@pytest.fixture
def gates(registry: Registry) -> Iterator[AsyncGates]:
    made = AsyncGates()
    yield made
    made.release_all()


async def where() -> tuple[str, int]:
    await asyncio.sleep(0)
    return threading.current_thread().name, id(asyncio.get_running_loop())


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_runs_on_one_loop_for_each_queue(registry: Registry) -> None:
    registry.configure("plots", workers=4)
    plots = registry.offload(queue="plots")(where)
    places = {task.result(WAIT) for task in [plots() for _ in range(20)]}
    assert len(places) == 1
    thread, loop = places.pop()
    assert thread == "offload-plots-loop"
    thread, other = plots.using(queue="mail")().result(WAIT)
    assert thread == "offload-mail-loop"
    assert other != loop


def test_the_loop_starts_with_the_first_async_call_alone(registry: Registry, threads: Threads) -> None:
    registry.queue("plots").submit(int).result(WAIT)
    assert threads() == ["offload-plots-0"]
    registry.offload(queue="plots")(where)().result(WAIT)
    assert threads() == ["offload-plots-0", "offload-plots-loop"]


def test_at_most_workers_at_a_time(registry: Registry, gates: AsyncGates) -> None:
    queue = registry.configure("plots", workers=2)
    hold = registry.offload(queue="plots")(gates.hold)
    tasks = [hold(number) for number in range(4)]
    assert {gates.begun(), gates.begun()} == {0, 1}
    stats = queue.stats()
    assert (stats.running, stats.waiting) == (2, 2)
    assert [task.running() for task in tasks] == [True, True, False, False]
    gates.release(1)
    assert gates.begun() == 2
    assert tasks[1].result(WAIT) == 1
    assert queue.stats().running == 2
    gates.release(0)
    gates.release(2)
    assert gates.begun() == 3
    gates.release(3)
    assert [task.result(WAIT) for task in tasks] == [0, 1, 2, 3]


def test_one_worker_runs_each_to_its_end_in_order(registry: Registry) -> None:
    seen: list[tuple[str, int]] = []

    async def step(number: int) -> None:
        seen.append(("begin", number))
        for _ in range(3):
            await asyncio.sleep(0)
        seen.append(("end", number))

    f = registry.offload(queue="plots")(step)
    for number in range(20):
        f(number)
    registry.flush(timeout=WAIT)
    assert seen == [(what, number) for number in range(20) for what in ("begin", "end")]


def test_async_and_other_tasks_share_the_limit(registry: Registry, gates: AsyncGates) -> None:
    queue = registry.queue("plots")
    task = registry.offload(queue="plots")(gates.hold)(1)
    gates.begun()
    plain = queue.submit(int, 7)
    assert (queue.stats().running, queue.stats().waiting) == (1, 1)
    gates.release(1)
    assert (task.result(WAIT), plain.result(WAIT)) == (1, 7)


def test_async_tasks_wait_behind_others(registry: Registry, gate: Callable[[str], Gate]) -> None:
    with gate("plots"):
        task = registry.offload(queue="plots")(double)(4)
        assert not task.running()
        assert not task.done()
    assert task.result(WAIT) == 8


def test_workers_raised_live(registry: Registry, gates: AsyncGates) -> None:
    hold = registry.offload(queue="plots")(gates.hold)
    tasks = [hold(1), hold(2)]
    assert gates.begun() == 1
    registry.configure("plots", workers=2)
    assert gates.begun() == 2
    gates.release(2)
    gates.release(1)
    assert [task.result(WAIT) for task in tasks] == [1, 2]


def test_two_tasks_of_one_queue_meet_on_their_loop(registry: Registry) -> None:
    registry.configure("plots", workers=2)
    event: list[asyncio.Event] = []
    ready = threading.Event()

    async def waits() -> str:
        event.append(asyncio.Event())
        ready.set()
        await event[0].wait()
        return "met"

    async def sets() -> None:
        event[0].set()

    first = registry.offload(queue="plots")(waits)()
    assert ready.wait(WAIT)
    registry.offload(queue="plots")(sets)()
    assert first.result(WAIT) == "met"


# --- the kinds of async callables


class Client:
    @functools.cached_property
    def name(self) -> str:
        return "client"

    async def send(self, number: int) -> tuple[Client, int]:
        await asyncio.sleep(0)
        return self, number

    @classmethod
    async def make(cls, number: int) -> tuple[type[Client], int]:
        return cls, number

    async def __call__(self, number: int) -> tuple[Client, int]:
        return self, number


def test_every_kind_of_async_callable(registry: Registry) -> None:
    client = Client()
    offload = registry.offload(queue="plots")
    assert offload(client.send)(3).result(WAIT) == (client, 3)
    assert offload(Client.make)(3).result(WAIT) == (Client, 3)
    assert offload(client)(3).result(WAIT) == (client, 3)
    assert offload(functools.partial(client.send, 3))().result(WAIT) == (client, 3)
    assert offload(functools.partial(client, 3))().result(WAIT) == (client, 3)


def test_decorated_in_the_class(registry: Registry) -> None:
    class Mailer:
        @registry.offload(queue="plots")
        async def send(self, number: int) -> tuple[Mailer, int]:
            return self, number

        @registry.offload(queue="plots")
        @classmethod
        async def inside(cls, number: int) -> tuple[type[Mailer], int]:
            return cls, number

        @classmethod
        @registry.offload(queue="plots")
        async def outside(cls, number: int) -> tuple[type[Mailer], int]:
            return cls, number

        @registry.offload(queue="plots")
        @staticmethod
        async def static(number: int) -> int:
            return number

    mailer = Mailer()
    assert mailer.send(1).result(WAIT) == (mailer, 1)
    assert Mailer.inside(1).result(WAIT) == (Mailer, 1)
    assert Mailer.outside(1).result(WAIT) == (Mailer, 1)
    assert Mailer.static(1).result(WAIT) == 1
    assert asyncio.run(mailer.send.call(1)) == (mailer, 1)


# --- call


def test_call_is_the_coroutine_itself(registry: Registry) -> None:
    f = registry.offload(queue="plots")(where)

    async def main() -> None:
        coroutine = f.call()
        assert inspect.iscoroutine(coroutine)
        assert await coroutine == (threading.current_thread().name, id(asyncio.get_running_loop()))

    asyncio.run(main())
    assert f.queue.stats().submitted == 0


# --- awaited, cancelled, failed


@pytest.mark.parametrize("child", [double, lambda number: 2 * number], ids=["async", "sync"])
def test_a_task_may_await_its_own_queues_tasks(registry: Registry, child: Callable[[int], Any]) -> None:
    """With one worker that would wait for ever, if the waiting task did not lend its place."""
    f = registry.offload(queue="plots")(child)

    async def parent() -> list[int]:
        return [await f(1), *await asyncio.gather(f(2), f(3))]

    assert registry.offload(queue="plots")(parent)().result(WAIT) == [2, 4, 6]


def test_a_task_may_await_its_own_queue_to_any_depth(registry: Registry) -> None:
    async def countdown(number: int) -> int:
        return await f(number - 1) + 1 if number else 0

    f = registry.offload(queue="plots")(countdown)
    assert f(50).result(WAIT) == 50
    assert registry.queue("plots").submit(int, 7).result(WAIT) == 7


def test_await_from_the_callers_loop(registry: Registry) -> None:
    f = registry.offload(queue="plots")(double)

    async def main() -> list[int]:
        return await asyncio.gather(*(f(number) for number in range(10)))

    assert asyncio.run(main()) == [2 * number for number in range(10)]


def test_await_from_another_queues_async_task(registry: Registry) -> None:
    f = registry.offload(queue="mail")(double)

    async def parent() -> int:
        return await f(4) + await f(5)

    assert registry.offload(queue="plots")(parent)().result(WAIT) == 18


def test_cancel_while_it_waits(registry: Registry, gate: Callable[[str], Gate]) -> None:
    """The coroutine is never made, so none is left that was never awaited (a warning, and here an error)."""
    began = threading.Event()

    async def begin() -> None:
        began.set()

    with gate("plots"):
        task = registry.offload(queue="plots")(begin)()
        assert task.cancel()
    registry.flush(timeout=WAIT)
    with pytest.raises(CancelledError):
        task.result(0)
    assert not began.is_set()
    del task
    gc.collect()


def test_cancel_while_it_runs_is_refused(registry: Registry, gates: AsyncGates) -> None:
    task = registry.offload(queue="plots")(gates.hold)(1)
    gates.begun()
    assert task.running()
    assert not task.cancel()
    gates.release(1)
    assert task.result(WAIT) == 1


def test_cancelling_an_await_never_cancels_it(registry: Registry, gates: AsyncGates) -> None:
    task = registry.offload(queue="plots")(gates.hold)(1)
    gates.begun()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(task, 0.01)

    asyncio.run(main())
    assert task.running()
    gates.release(1)
    assert task.result(WAIT) == 1


def test_a_failure_in_the_first_line_and_after_an_await(registry: Registry) -> None:
    async def fails(when: int) -> None:
        for _ in range(when):
            await asyncio.sleep(0)
        raise ValueError(str(when))

    f = registry.offload(queue="plots")(fails)
    for when in (0, 1):
        with pytest.raises(ValueError, match=str(when)):
            f(when).result(WAIT)
    registry.flush(timeout=WAIT)
    assert registry.queue("plots").stats().failed == 2


def test_wrong_arguments_fail_the_task(registry: Registry) -> None:
    task: Task[Any] = registry.offload(queue="plots")(double)(1, 2, 3)  # type: ignore[call-arg]
    assert isinstance(task.exception(WAIT), TypeError)
    assert registry.offload(queue="plots")(double)(4).result(WAIT) == 8


# --- in place


def test_in_place_it_runs_on_the_callers_thread(registry: Registry, gate: Callable[[str], Gate]) -> None:
    queue = registry.configure("plots", maxsize=1, on_full="caller_runs")
    with gate("plots"):
        queue.submit(int)
        task = registry.offload(queue="plots")(where)()
        assert task.result(0)[0] == threading.current_thread().name


def test_in_place_under_a_running_loop_it_runs_on_a_loop_of_its_own_in_a_helper_thread(registry: Registry, gate: Callable[[str], Gate]) -> None:
    queue = registry.configure("plots", maxsize=1, on_full="caller_runs")

    async def main() -> None:
        task = registry.offload(queue="plots")(where)()
        thread, loop = task.result(0)
        assert thread not in (threading.current_thread().name, "offload-plots-loop")
        assert loop != id(asyncio.get_running_loop())

    with gate("plots"):
        queue.submit(int)
        asyncio.run(main())


# --- a coroutine that blocks its queue's own loop


def test_what_runs_in_place_on_the_loop_may_await_the_queues_next_coroutines(registry: Registry) -> None:
    """Once: (1) `outer` blocks the loop until `inner`, run in place, has ended; (2) a worker gives `double` to that loop; (3) `inner` awaits it."""
    queue = registry.configure("plots", maxsize=1, on_full="caller_runs")
    double_ = registry.offload(queue="plots")(double)
    waiting: list[Task[Any]] = []

    async def inner() -> int:
        assert waiting[0].cancel()  # so there is room for one more
        return await double_(4)

    async def outer() -> tuple[int, str, str]:
        before = await where()
        waiting.append(queue.submit(int))
        result = registry.offload(queue="plots")(inner)().result(0)
        after = await where()
        return result, before[0], after[0]

    assert registry.offload(queue="plots")(outer)().result(WAIT) == (8, "offload-plots-loop", "offload-plots-loop")
    assert double_(5).result(WAIT) == 10
    queue.flush(WAIT)


def test_the_loop_that_stepped_aside_ends_with_its_last_coroutine(registry: Registry, gates: AsyncGates, threads: Threads) -> None:
    queue = registry.configure("plots", workers=2, maxsize=1, on_full="caller_runs", idle_timeout=None)
    hold = registry.offload(queue="plots")(gates.hold)
    busy, held = threading.Event(), threading.Event()
    waiting: list[Task[Any]] = []

    def inner() -> None:
        """In place, on the thread of the loop: it waits for a coroutine of the queue, which so must run on another loop."""
        assert waiting[0].cancel()
        held.set()  # the other worker is free
        hold(1)
        gates.begun()

    async def block() -> None:
        queue.submit(lambda: (busy.set(), held.wait(WAIT)))
        assert busy.wait(WAIT)
        waiting.append(queue.submit(int))
        queue.submit(inner).result(0)
        raise NotImplementedError

    blocked = registry.offload(queue="plots")(block)()
    assert isinstance(blocked.exception(WAIT), NotImplementedError)
    gates.release(1)
    queue.shutdown()
    assert threads() == []


def test_to_wait_on_the_loop_for_what_runs_on_it_is_refused(registry: Registry, gates: AsyncGates) -> None:
    registry.configure("plots", workers=2)
    hold = registry.offload(queue="plots")(gates.hold)

    async def wait_for(task: Task[int]) -> int:
        return task.result(WAIT)

    held = hold(1)
    gates.begun()
    error = registry.offload(queue="plots")(wait_for)(held).exception(WAIT)
    gates.release(1)
    assert isinstance(error, RuntimeError)
    assert f"waiting here for {held.name} would never end" in str(error)
    assert held.result(WAIT) == 1


def test_to_await_it_in_a_helper_thread_is_refused_too(registry: Registry, gates: AsyncGates) -> None:
    queue = registry.configure("plots", workers=2, maxsize=1, on_full="caller_runs")
    hold = registry.offload(queue="plots")(gates.hold)

    async def inner(task: Task[int]) -> int:
        return await task

    async def outer(task: Task[int]) -> BaseException | None:
        queue.submit(int)
        return registry.offload(queue="plots")(inner)(task).exception(0)

    held = hold(1)
    gates.begun()
    error = registry.offload(queue="plots")(outer)(held).result(WAIT)
    gates.release(1)
    assert isinstance(error, RuntimeError)
    assert "on the event loop that this very call blocks" in str(error)


# --- the loop ends with its queue


def test_shutdown_runs_what_was_accepted_and_ends_the_loop(registry: Registry, threads: Threads) -> None:
    queue = registry.configure("plots", idle_timeout=None, workers=3)
    f = registry.offload(queue="plots")(double)
    tasks = [f(number) for number in range(100)]
    queue.shutdown()
    assert [task.result(0) for task in tasks] == [2 * number for number in range(100)]
    assert threads() == []


def test_shutdown_without_waiting_lets_what_runs_end(registry: Registry, gates: AsyncGates) -> None:
    queue = registry.queue("plots")
    hold = registry.offload(queue="plots")(gates.hold)
    first, second = hold(1), hold(2)
    gates.begun()
    queue.shutdown(wait=False)
    gates.release(1)
    gates.begun()
    gates.release(2)
    assert (first.result(WAIT), second.result(WAIT)) == (1, 2)


def test_an_idle_loop_ends_and_a_fresh_one_starts(registry: Registry, threads: Threads) -> None:
    registry.configure("plots", idle_timeout=0.01)

    async def me() -> threading.Thread:
        return threading.current_thread()

    f = registry.offload(queue="plots")(me)
    for _ in range(3):
        thread = f().result(WAIT)
        assert thread.name == "offload-plots-loop"
        thread.join(WAIT)
        assert not thread.is_alive()
    assert "offload-plots-loop" not in threads()


def test_work_that_a_task_left_on_the_loop_does_not_outlive_the_queue(registry: Registry) -> None:
    """What a task started and did not await is cancelled with the loop, as asyncio.run does."""
    ended: list[str] = []
    left: list[asyncio.Task[None]] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def parent() -> None:
        left.append(asyncio.create_task(endless()))
        await asyncio.sleep(0)

    registry.offload(queue="plots")(parent)().result(WAIT)
    registry.queue("plots").shutdown()
    assert ended == ["cancelled"]
