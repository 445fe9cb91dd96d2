"""offload.testing: inline() and isolated(), alone, nested, as decorators, across threads; OFFLOAD_INLINE."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from types import ModuleType

import pytest
from conftest import WAIT, Gate

import offload as package
from offload import (
    ConfigurationError,
    Queue,
    QueueClosed,
    Registry,
    _exit,
    configure,
    configure_exit,
    flush,
    offload,
    queue,
    testing,
)


def here() -> threading.Thread:
    return threading.current_thread()


def fail() -> None:
    raise ValueError("boom")


# --- inline


def test_inline_runs_calls_in_place_and_returns_their_finished_tasks(registry: Registry) -> None:
    with testing.inline():
        tasks = [registry.offload(here)(), registry.queue("plots").submit(here)]
        assert all(task.done() for task in tasks)
    assert [task.result() for task in tasks] == [here(), here()]
    assert registry.queue().stats().workers == registry.queue("plots").stats().workers == 0


def test_inline_ends_with_its_block(registry: Registry) -> None:
    send = registry.offload(here)
    for _ in range(2):
        with testing.inline():
            assert send().result() is here()
        assert send().result(WAIT) is not here()


def test_inline_is_seen_by_a_queue_at_work_and_what_waited_still_runs_behind(registry: Registry, gate: Callable[[Queue | str], Gate]) -> None:
    send = registry.offload(here)
    held = gate("default")
    waiting = send()
    with testing.inline():
        assert send().result() is here()
        assert not waiting.done()
        held.open()
        assert waiting.result(WAIT) is held.thread
    assert held.thread is not here()


def test_inline_counts_as_usual(registry: Registry, errors: Callable[[], list[logging.LogRecord]]) -> None:
    with testing.inline():
        registry.offload(here)()
        task = registry.offload(fail)()
    stats = registry.queue().stats()
    assert (stats.submitted, stats.succeeded, stats.failed, stats.waiting, stats.running) == (2, 1, 1, 0, 0)
    assert isinstance(task.exception(), ValueError)
    [record] = errors()
    assert record.name == "offload.default"
    assert "boom" in str(record.exc_info)


def test_inline_tells_on_error_and_flush(registry: Registry) -> None:
    told = []
    registry.configure(on_error=lambda task, error: told.append((task, error)))
    with testing.inline():
        task = registry.offload(fail)()
        assert told == [(task, task.exception())]
        with pytest.raises(ExceptionGroup) as raised:
            registry.flush(raise_errors=True)
    assert raised.value.exceptions == (task.exception(),)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_inline_raises_what_ends_a_program_once_it_is_recorded(
    registry: Registry, kind: type[BaseException], errors: Callable[[], list[logging.LogRecord]]
) -> None:
    def leave() -> None:
        raise kind

    with testing.inline(), pytest.raises(kind):
        registry.offload(leave)()
    assert registry.stats()["default"].failed == 1
    assert len(errors()) == 1


def test_inline_nests(registry: Registry) -> None:
    send = registry.offload(here)
    context = testing.inline()
    with context:
        with context, testing.inline():
            assert send().result() is here()
        assert send().result() is here()
    assert send().result(WAIT) is not here()


def test_inline_ends_with_an_exception(registry: Registry) -> None:
    with pytest.raises(ValueError, match="boom"), testing.inline():
        fail()
    assert registry.offload(here)().result(WAIT) is not here()


def test_inline_holds_for_all_threads_and_registries(make_registry: Callable[..., Registry]) -> None:
    found: list[bool] = []
    sends = [make_registry("one").offload(here), make_registry("two").offload(here)]
    with testing.inline():
        thread = threading.Thread(target=lambda: found.extend(send().result() is here() for send in sends))
        thread.start()
        thread.join(WAIT)
    assert found == [True, True]


def test_inline_knows_no_full_queue_and_runs_a_task_of_a_task(registry: Registry) -> None:
    registry.configure(maxsize=1, on_full="raise")
    order: list[int] = []

    def send(left: int) -> None:
        if left:
            again(left - 1)
        order.append(left)

    again = registry.offload(send)
    with testing.inline():
        again(5)
    assert order == [0, 1, 2, 3, 4, 5]


def test_inline_opens_no_queue_that_was_shut_down(registry: Registry) -> None:
    registry.queue().shutdown()
    with testing.inline(), pytest.raises(QueueClosed):
        registry.queue().submit(here)
    assert registry.stats()["default"].rejected == 1


def test_inline_sees_the_context_and_changes_a_copy(registry: Registry) -> None:
    variable = contextvars.ContextVar("variable", default="unset")

    def change() -> str:
        seen = variable.get()
        variable.set("changed")
        return seen

    variable.set("caller")
    with testing.inline():
        assert registry.offload(change)().result() == "caller"
    assert variable.get() == "caller"


def test_inline_runs_coroutines_to_their_end_in_and_out_of_an_event_loop(registry: Registry) -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    send = registry.offload(answer)

    async def main() -> int:
        task = send()
        assert task.done()
        return await task

    with testing.inline():
        assert send().result() == 42
        assert asyncio.run(main()) == 42


def test_inline_runs_on_no_executor(registry: Registry) -> None:
    registry.configure(executor="processes")
    with testing.inline():
        assert registry.offload(os.getpid)().result() == os.getpid()


def test_inline_still_copies_arguments(registry: Registry) -> None:
    given: list[int] = []
    with testing.inline():
        assert registry.offload(snapshot=True)(lambda seen: seen is given)(given).result() is False
        assert registry.offload(coalesce=True)(lambda seen: seen is given)(given).result() is True


# --- as decorators


def test_the_contexts_decorate_functions(registry: Registry) -> None:
    send = registry.offload(here)

    @testing.inline()
    def run(x: int, *, y: int) -> tuple[int, int, bool]:
        """Documented."""
        return x, y, send().result() is here()

    assert run(1, y=2) == run(1, y=2) == (1, 2, True)
    assert (run.__name__, run.__doc__, str(inspect.signature(run))[:4]) == ("run", "Documented.", "(x: ")
    assert send().result(WAIT) is not here()


def test_the_contexts_decorate_coroutine_functions(registry: Registry) -> None:
    send = registry.offload(here)

    @testing.inline()
    async def run() -> bool:
        await asyncio.sleep(0)
        return send().result() is here()

    assert inspect.iscoroutinefunction(run)
    assert asyncio.run(run())
    assert send().result(WAIT) is not here()


def test_a_decorated_function_may_call_itself(registry: Registry) -> None:
    send = registry.offload(here)

    @testing.inline()
    def run(left: int) -> bool:
        return send().result() is here() and (not left or run(left - 1))

    assert run(3)
    assert send().result(WAIT) is not here()


# --- OFFLOAD_INLINE


def test_the_variable_makes_new_queues_inline(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.queue("old")
    monkeypatch.setenv("OFFLOAD_INLINE", "1")
    assert registry.queue("new").submit(here).result(WAIT) is here()
    assert registry.offload(here)().result(WAIT) is here()
    assert registry.queue("old").submit(here).result(WAIT) is not here()
    registry.configure("old")
    assert registry.queue("old").submit(here).result(WAIT) is here()
    assert registry.stats()["new"].succeeded == 1

    monkeypatch.setenv("OFFLOAD_INLINE", "no")
    registry.configure("new")
    assert registry.queue("new").submit(here).result(WAIT) is not here()


def test_a_variable_that_makes_no_sense_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_INLINE", "perhaps")
    with pytest.raises(ConfigurationError, match="OFFLOAD_INLINE='perhaps'"):
        registry.offload(here)()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_inline_holds_in_a_forked_child_and_ends_there(registry: Registry) -> None:
    send = registry.offload(here)
    inside = registry.queue("inside")
    context = testing.inline()
    context.__enter__()
    child = os.fork()
    context.__exit__(None, None, None)
    if not child:
        status = 1
        try:
            with testing.inline():
                within = send().result() is here() and inside.submit(here).result() is here()
            status = 0 if within and send().result(WAIT) is not here() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert send().result(WAIT) is not here()


# --- isolated


@pytest.fixture
def outer(default_registry: ModuleType) -> ModuleType:
    """The default registry around an isolated() block: one that is itself the test's own."""
    return default_registry


def test_isolated_swaps_in_fresh_queues_of_the_same_settings(outer: ModuleType) -> None:
    configure("plots", workers=3, maxsize=7, on_full="raise")
    offload(queue="plots")(here)().result(WAIT)
    old = queue("plots")
    with testing.isolated():
        assert queue("plots") is not old
        assert queue("plots").settings == old.settings
        assert package.stats()["plots"].submitted == 0
        assert offload(queue="plots")(here)().result(WAIT).name == "offload-plots-0"
    assert queue("plots") is old
    assert old.stats().submitted == 1


def test_isolated_swaps_the_queue_under_what_was_decorated_before(outer: ModuleType) -> None:
    send = offload(queue="plots")(here)
    send().result(WAIT)
    with testing.isolated():
        assert send.queue is queue("plots")
        send().result(WAIT)
        assert queue("plots").stats().submitted == 1
    assert send.queue.stats().submitted == 1


def test_isolated_takes_its_settings_and_queues_with_it(outer: ModuleType) -> None:
    configure("plots", workers=2)
    with testing.isolated():
        configure("plots", workers=5)
        configure("mail")
        configure_exit(timeout=1.0, progress=False)
    assert queue("plots").settings.workers == 2
    assert set(package.queues()) == {"plots"}
    assert _exit.settings() == {"timeout": None, "progress": None}


def test_isolated_drains_on_leaving_tasks_of_tasks_included(outer: ModuleType) -> None:
    order: list[str] = []
    opened = threading.Event()

    def child() -> None:
        order.append("child")

    def parent() -> None:
        assert opened.wait(WAIT)
        offload(queue="other")(child)()
        order.append("parent")

    with testing.isolated():
        offload(parent)()
        inside = queue()
        opened.set()
    assert sorted(order) == ["child", "parent"]
    assert inside.stats().workers == 0
    assert set(package.queues()) == set()


def test_isolated_drains_on_an_exception_too(outer: ModuleType) -> None:
    with pytest.raises(ValueError, match="boom"), testing.isolated():
        task = offload(here)()
        fail()
    assert task.done()
    assert not task.cancelled()


def test_a_queue_kept_from_within_is_shut_down(outer: ModuleType) -> None:
    with testing.isolated():
        kept = queue("plots")
    with pytest.raises(QueueClosed):
        kept.submit(here)
    assert queue("plots").submit(here).result(WAIT)


def test_isolated_leaves_the_tasks_outside_alone(outer: ModuleType) -> None:
    with Gate(queue("plots")):
        waiting = queue("plots").submit(here)
        with testing.isolated():
            flush(timeout=WAIT)
            assert not waiting.done()
    assert waiting.result(WAIT)
    flush(timeout=WAIT)
    assert queue("plots").stats().succeeded == 2


def test_isolated_keeps_failures_apart(outer: ModuleType, errors: Callable[[], list[logging.LogRecord]]) -> None:
    outside = offload(fail)()
    assert outside.exception(WAIT)
    with testing.isolated():
        flush(raise_errors=True, timeout=WAIT)
        offload(fail)()
    with pytest.raises(ExceptionGroup) as raised:
        flush(raise_errors=True, timeout=WAIT)
    assert raised.value.exceptions == (outside.exception(),)
    assert len(errors()) == 2


def test_isolated_opens_what_was_shut_down_and_a_shutdown_within_stays_within(outer: ModuleType) -> None:
    queue("plots").shutdown()
    with testing.isolated():
        assert queue("plots").submit(here).result(WAIT)
        package.shutdown()
        with pytest.raises(QueueClosed):
            queue("plots").submit(here)
        configure("plots")
        assert queue("plots").submit(here).result(WAIT)
    with pytest.raises(QueueClosed):
        queue("plots").submit(here)


def test_isolated_nests_and_combines_with_inline(outer: ModuleType) -> None:
    send = offload(here)
    context = testing.isolated()
    with context:
        send()
        with context, testing.inline():
            assert send().result() is here()
            assert queue().stats().submitted == 1
        send()
        assert queue().stats().submitted == 2
    assert "default" not in package.queues()


def test_isolated_decorates(outer: ModuleType) -> None:
    send = offload(here)

    @testing.isolated()
    def run() -> int:
        send()
        return queue().stats().submitted

    assert run() == run() == 1
    assert "default" not in package.queues()


def test_isolated_is_of_the_default_registry_alone(outer: ModuleType, registry: Registry) -> None:
    before = registry.queue("plots")
    with testing.isolated():
        assert registry.queue("plots") is before


def test_an_interrupted_drain_still_brings_the_old_queues_back(outer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    old = queue("plots")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), testing.isolated():
        within = queue("plots")
        patched.setattr(testing.default, "flush", interrupted)
    assert queue("plots") is old
    within.shutdown()


def test_isolated_holds_no_cancelled_task_for_done(outer: ModuleType) -> None:
    with testing.isolated(), Gate(queue()) as held:
        waiting = offload(here)()
        assert waiting.cancel()
        held.open()
    with pytest.raises(CancelledError):
        waiting.result(0)
