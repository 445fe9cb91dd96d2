"""Small promises that no larger test happens to meet: errors in words, the unusual platform, the library that is there or not."""

import asyncio
import copy
import pickle
import signal
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from typing import Any, ClassVar

import pytest
from conftest import WAIT

from offload import ConfigurationError, Registry, _failures, _line, _process, _progress, _snapshot, _task, drain_on_signal, testing


def nothing(*args: object, **kwargs: object) -> None:
    """A task."""


@pytest.mark.parametrize("call", [lambda: Registry(1), lambda: Registry().queue(""), lambda: Registry().flush(3), lambda: Registry().configure(None)])
def test_names_are_strings(call: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match="string"):
        call()


@pytest.mark.parametrize("option", ["snapshot", "coalesce"])
def test_options_of_the_decorator_are_checked(option: str) -> None:
    with pytest.raises(ConfigurationError, match=option):
        Registry().offload(**{option: 3})(nothing)


def test_a_registry_of_its_own_sets_its_exit_timeout_from_a_mapping() -> None:
    registry = Registry("acme")
    queue = registry.queue("events")
    registry.configure_from({"exit": {"timeout": 2}})
    assert queue._core.exit_timeout == 2
    with pytest.raises(ConfigurationError, match="progress"):
        registry.configure_from({"exit": {"progress": True}})


def test_exit_variables_of_a_registry_are_read_when_a_queue_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_ACME__EXIT__TIMEOUT", "0.5")
    assert Registry("acme", exit_timeout=20).queue("events")._core.exit_timeout == 0.5
    monkeypatch.setenv("OFFLOAD_ACME__EXIT__TIMOUT", "3")
    with pytest.raises(ConfigurationError, match="timeout"):
        Registry("acme").queue("events")


def test_variables_of_a_queue_with_a_longer_name_are_not_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__A__B__WORKERS", "3")
    registry = Registry()
    assert registry.queue("a").settings.workers == 1
    assert registry.queue("a__b").settings.workers == 3


def test_failures_of_a_queue_that_was_shut_down_are_raised_by_the_one_in_its_place() -> None:
    registry = Registry(on_error=nothing)
    queue = registry.queue("re")
    queue.submit(lambda: 1 / 0)
    queue.shutdown()
    registry.configure("re")
    with pytest.raises(ExceptionGroup) as caught:
        registry.flush(timeout=WAIT, raise_errors=True)
    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


def test_a_task_refuses_to_be_settled_by_others(registry: Registry) -> None:
    task = registry.queue("q").submit(nothing)
    task.result(WAIT)
    for attempt in (lambda: task.set_result(None), lambda: task.set_exception(ValueError()), task.set_running_or_notify_cancel):
        with pytest.raises(InvalidStateError, match="queue alone"):
            attempt()
    with pytest.raises(AttributeError, match="nonsense"):
        task.nonsense  # type: ignore[attr-defined]


def test_a_call_from_nowhere_has_no_place(registry: Registry) -> None:
    task = registry.queue("q").submit(nothing)
    task._code = None
    assert task.caller == "<unknown>"
    assert _task._line(nothing.__code__, 10**6) == nothing.__code__.co_firstlineno


def test_an_argument_without_a_signature_is_named_by_its_number() -> None:
    def refuse(value: object) -> object:
        raise ValueError(value)

    def unknown(value: object) -> None: ...

    unknown.__signature__ = "not one"  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="number 1 of"):
        _snapshot.freeze(refuse, "unknown", unknown, None, (1,), {})
    with pytest.raises(TypeError, match=r"number 1 \(\*args\)"):
        _snapshot.freeze(refuse, "nothing", nothing, None, (1,), {})


def test_a_process_is_marked_by_its_id_where_the_kernel_marks_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _process.PidMark()[0]
    monkeypatch.setattr(_process, "MADV_WIPEONFORK", 10**6)
    assert isinstance(_process.new_mark(), _process.PidMark)
    monkeypatch.delattr("os.fork")
    assert _process.new_mark()[0] == 1


@pytest.mark.parametrize(("number", "why"), [(10**6, "no signal"), ("TERM", "no signal"), (signal.SIGKILL, "no program can handle")])
def test_signals_that_cannot_drain(number: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        drain_on_signal(number)


class Bar:
    """A stand-in for tqdm, which tests must not depend on."""

    made: ClassVar[list["Bar"]] = []
    monitor_interval = 10

    def __init__(self, total: int, **_: object) -> None:
        self.total, self.n, self.text, self.closed = total, 0, "", False
        self.made.append(self)

    def set_description_str(self, text: str) -> None:
        self.text = text

    def close(self) -> None:
        self.closed = True


def test_tqdm_draws_the_progress_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace(tqdm=Bar))  # type: ignore[arg-type]
    progress = _progress.Progress(wanted=True)
    assert progress.tick({"plots": 3}, 0.2) == 0.8
    progress.tick({"plots": 3}, 1.0)
    progress.tick({"plots": 1}, 2.0)
    progress.close()
    (bar,) = Bar.made
    assert (bar.total, bar.n, bar.closed) == (3, 2, True)
    assert "plots 1" in bar.text


def test_tombstones_are_cleared_away(registry: Registry, gate: Callable[..., Any]) -> None:
    queue = registry.configure("q", maxsize=None)
    with gate(queue):
        tasks = [queue.submit(nothing) for _ in range(500)]
        for task in tasks[:-1]:
            task.cancel()
        line = queue._core.line
        assert tasks[-1] in line
        assert tasks[0] not in line
        assert len(line) == 1
        assert len(line.arrivals) + len(line.front) <= 2 * _line.MANY_TOMBSTONES
    queue.flush(timeout=WAIT)
    assert queue.stats().cancelled == 499


def test_bound_methods_show_and_copy_as_themselves(registry: Registry) -> None:
    class Mailer:
        @registry.offload(queue="mails")
        def send(self) -> None: ...

    mailer = Mailer()
    assert "mails" in repr(mailer.send)
    assert "bound" in repr(mailer.send)
    assert copy.copy(Mailer.__dict__["send"]) is Mailer.__dict__["send"]
    again = registry.offload(queue="again")(mailer.send)
    assert again().result(WAIT) is None
    with pytest.raises(pickle.PicklingError, match="top of a module"):
        pickle.dumps(Mailer.__dict__["send"])


def test_a_closed_loop_is_not_woken() -> None:
    registry = Registry()
    held: list[Callable[[], None]] = []

    async def wait_and_leave() -> None:
        waiting = asyncio.ensure_future(registry.aflush())
        await asyncio.sleep(0)
        held.append(registry.queue("q")._core.idle_waiters[0].release)
        waiting.cancel()

    go = threading.Event()
    registry.queue("q").submit(go.wait, WAIT)
    asyncio.run(wait_and_leave())
    held[0]()  # the loop is gone: nothing happens, and nothing is raised
    go.set()
    registry.shutdown()


def test_a_chain_of_exceptions_that_bites_its_tail_is_cleared_once() -> None:
    first, second = ValueError(), ValueError()
    first.__context__, second.__cause__ = second, first
    _failures.clear_frames(ExceptionGroup("both", [first, second]))


def test_an_error_of_a_coroutine_in_place_on_a_running_loop_is_the_tasks(registry: Registry) -> None:
    async def fail() -> None:
        raise ValueError("in a helper thread")

    async def main() -> BaseException | None:
        with testing.inline():
            return registry.offload(queue="q")(fail)().exception(WAIT)

    registry.configure("q", on_error=nothing)
    assert isinstance(asyncio.run(main()), ValueError)
