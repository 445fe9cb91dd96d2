"""Small promises that no larger test happens to meet: errors in words, the unusual platform, the library that is there or not."""

import asyncio
import copy
import gc
import io
import pickle
import signal
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable
from concurrent.futures import InvalidStateError
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import WAIT, refuse_threads

from offload import (
    ConfigurationError,
    Offloaded,
    QueueClosed,
    QueueStats,
    Registry,
    Task,
    _failures,
    _line,
    _process,
    _progress,
    _snapshot,
    _task,
    drain_on_signal,
    offload,
    testing,
)
from offload._threads import BackgroundThread


def nothing(*args: object, **kwargs: object) -> None:
    """A task."""


def until(condition: Callable[[], bool]) -> None:
    """Wait on a state that tells nobody of its changes."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.001)


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


class Shelf:
    """Its methods are decorated where each test says."""


def test_a_class_method_keeps_its_class_out_of_the_snapshot_however_it_is_called(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 3.13 on a class method hands the class to what it wraps as a first argument, which older versions bind to it."""

    def put(cls: type, books: list[int]) -> tuple[type, list[int]]:
        return cls, books

    offloaded = registry.offload(queue="q", snapshot=True)(put)
    monkeypatch.setattr(Shelf, "put", classmethod(offloaded), raising=False)  # type: ignore[arg-type]
    books = [1]
    for call in (Shelf.put, lambda books: offloaded(Shelf, books)):  # type: ignore[attr-defined]
        owner, seen = call(books).result(WAIT)
        assert owner is Shelf
        assert seen == books
        assert seen is not books
    shelf = Shelf()
    owner, _ = offloaded(shelf, books).result(WAIT)  # an object that is no class is an argument like any other
    assert type(owner) is Shelf
    assert owner is not shelf


class ByReduce(pickle.Pickler):
    """A library's pickler that asks for `__reduce__`, as cloudpickle's does for some kinds."""

    def reducer_override(self, obj: Any) -> Any:
        return obj.__reduce__() if isinstance(obj, Offloaded) or hasattr(obj, "using") else NotImplemented


class Parrot:
    @offload(queue="parrots")
    def say(self, word: str) -> tuple[object, str]:
        return self, word

    def __eq__(self, other: object) -> bool:
        return type(other) is Parrot

    __hash__ = None  # type: ignore[assignment]


@offload(queue="parrots")
def squawk() -> None: ...


@pytest.mark.parametrize("called", [squawk, Parrot().say])
def test_whoever_asks_for_reduce_gets_the_reference(called: Any) -> None:
    buffer = io.BytesIO()
    ByReduce(buffer).dump(called)
    again = pickle.loads(buffer.getvalue())
    assert repr(again) == repr(called)
    assert getattr(again, "__self__", None) == getattr(called, "__self__", None)


def test_a_pickled_function_that_is_no_longer_decorated_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(squawk)
    monkeypatch.setattr(sys.modules[__name__], "squawk", squawk.__wrapped__)
    with pytest.raises(pickle.UnpicklingError, match=r"squawk is <function squawk .* here, not a function decorated with offload"):
        pickle.loads(data)
    monkeypatch.delattr(sys.modules[__name__], "squawk")
    with pytest.raises(pickle.UnpicklingError, match=r"squawk is None here"):
        pickle.loads(data)


def test_a_task_that_shuts_its_own_queue_down_and_waits_is_refused(registry: Registry) -> None:
    queue = registry.queue("q")
    with pytest.raises(RuntimeError, match=r"task of queue 'q' would wait for that task itself; use wait=False"):
        queue.submit(queue.shutdown).result(WAIT)
    assert queue.submit(int, 1).result(WAIT) == 1


def test_a_registry_shows_its_name_and_its_queues() -> None:
    registry = Registry("acme")
    assert repr(registry) == "<Registry 'acme': no queues yet>"
    registry.queue("b"), registry.queue("a")
    assert repr(registry) == "<Registry 'acme': 'b', 'a'>"


def test_what_only_code_can_say_is_refused_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__Q__ON_ERROR", "print")
    with pytest.raises(ConfigurationError, match=r"ON_ERROR='print': on_error can't be set from the environment; set it in code"):
        Registry().queue("q")


def test_a_file_whose_table_is_no_table(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text("[tool]\noffload = 3\n")
    with pytest.raises(ConfigurationError, match=r"pyproject\.toml: \[tool\.offload\] is 3, not a table"):
        Registry().configure_from(file)


def test_where_daemons_are_refused_workers_are_threads_that_are_waited_for(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an isolated subinterpreter, which no tracer can see into."""
    init = threading.Thread.__init__

    def no_daemons(self: threading.Thread, *args: Any, daemon: bool | None = None, **kwargs: Any) -> None:
        if daemon:
            raise RuntimeError("daemon threads are not supported in this interpreter")
        init(self, *args, daemon=daemon, **kwargs)

    monkeypatch.setattr(threading.Thread, "__init__", no_daemons)
    queue = registry.queue("q")
    worker = queue.submit(threading.current_thread).result(WAIT)
    assert (worker.name, worker.daemon) == ("offload-q-0", False)
    queue.shutdown()
    assert not worker.is_alive()


def test_where_a_queues_loop_gets_no_thread_its_coroutines_run_on_the_worker(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    async def where(number: int) -> tuple[int, str]:
        await asyncio.sleep(0)
        if number < 0:
            raise ValueError(number)
        return number, threading.current_thread().name

    registry.configure("q", on_error=nothing)
    call = registry.offload(queue="q")(where)
    with monkeypatch.context() as patch:
        refuse_threads(patch, "offload-q-loop")
        assert [task.result(WAIT) for task in (call(1), call(2))] == [(1, "offload-q-0"), (2, "offload-q-0")]
        assert isinstance(call(-1).exception(WAIT), ValueError)
        registry.flush(timeout=WAIT)
    assert call(3).result(WAIT) == (3, "offload-q-loop")


def test_two_coroutines_that_wait_for_a_loop_that_gets_no_thread_both_run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 Two workers want the loop. 2 The first is refused its thread. 3 The second, which stood behind it, does not try again."""
    tried, go = threading.Event(), threading.Event()
    start = threading.Thread.start
    attempts: list[str] = []

    def start_slowly(self: threading.Thread) -> None:
        if self.name == "offload-q-loop":
            attempts.append(self.name)
            tried.set()
            assert go.wait(WAIT)
            raise RuntimeError("can't start new thread")
        start(self)

    async def nap() -> int:
        await asyncio.sleep(0)
        return 1

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    queue = registry.configure("q", workers=2)
    together = threading.Barrier(2)
    for task in [queue.submit(together.wait, WAIT) for _ in range(2)]:
        task.result(WAIT)
    call = registry.offload(queue="q")(nap)
    tasks = [call(), call()]
    assert tried.wait(WAIT)
    until(lambda: queue.stats().running == 2)
    go.set()
    assert [task.result(WAIT) for task in tasks] == [1, 1]
    queue.shutdown()  # does not wait for the thread that did not start


def test_a_function_that_wraps_itself_goes_by_its_own_name(registry: Registry) -> None:
    """Tools that unwrap it would go round for ever."""
    looped.__wrapped__ = looped  # type: ignore[attr-defined]
    assert registry.configure("q", executor="processes").submit(looped, 3).result(4 * WAIT) == 3


def looped(value: int) -> int:
    return value


def nowhere() -> None: ...


nowhere.__qualname__ = "Nobody.nowhere"


def test_a_function_whose_class_is_gone_fails_in_words(registry: Registry) -> None:
    queue = registry.configure("q", executor="processes", on_error=nothing)
    with pytest.raises(pickle.PicklingError, match=r"nowhere can't go to another process, which finds a function by its name"):
        queue.submit(nowhere).result(WAIT)


class Nosy:
    """A key that makes calls of its own whenever it is looked up: in the middle of a call, as a __del__ or a signal handler may."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self.ask = ask
        self.asking = False
        self.answers: list[object] = []

    def __hash__(self) -> int:
        if not self.asking:
            self.asking = True
            try:
                self.answers.append(self.ask())
            except (RuntimeError, TimeoutError) as error:
                self.answers.append(error)
            finally:
                self.asking = False
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


def call_by(key: Nosy, registry: Registry) -> list[object]:
    """Make a call that looks the key up, and say what the key was answered meanwhile."""
    call: Any = registry.offload(queue="outer", coalesce=lambda: key)(lambda: "outer")
    assert call().result(WAIT) == "outer"
    registry.flush(timeout=WAIT)
    assert key.answers
    return key.answers


def counts_add_up(stats: QueueStats) -> bool:
    return stats.submitted == stats.succeeded + stats.failed + stats.cancelled + stats.dropped + stats.coalesced + stats.waiting + stats.running


@pytest.mark.parametrize("name", ["outer", "inner"])
def test_a_call_made_in_the_middle_of_a_call_runs(name: str, registry: Registry) -> None:
    ran: list[int] = []
    queue = registry.configure(name, maxsize=1, on_full="raise")
    answers = call_by(Nosy(lambda: queue.submit(ran.append, 1)), registry)
    assert [task.result(WAIT) for task in answers] == [None] * len(answers)  # type: ignore[attr-defined]
    assert len(ran) == len(answers)
    assert counts_add_up(queue.stats())


def test_a_call_made_in_the_middle_of_a_call_takes_the_place_of_an_older_one(registry: Registry, gate: Callable[..., Any]) -> None:
    inner: Any = registry.offload(queue="inner", coalesce=True)(nothing)
    with gate("inner"):
        oldest = inner(0)
        answers = call_by_without_flush(Nosy(lambda: inner(1)), registry)
        assert oldest.cancelled()
        assert [task.cancelled() for task in answers] == [True] * (len(answers) - 1) + [False]
    assert answers[-1].result(WAIT) is None
    stats = registry.queue("inner").stats()
    assert counts_add_up(stats)
    assert (stats.coalesced, stats.succeeded) == (len(answers), 2)


def call_by_without_flush(key: Nosy, registry: Registry) -> list[Any]:
    call: Any = registry.offload(queue="outer", coalesce=lambda: key)(nothing)
    call().result(WAIT)
    registry.flush("outer", timeout=WAIT)
    return list(key.answers)


def test_a_call_of_a_closed_queue_in_the_middle_of_a_call_is_refused_or_runs(registry: Registry) -> None:
    """Nobody is left to be told no: what was not refused at once runs."""
    ran: list[int] = []
    closed = registry.queue("closed")
    closed.shutdown()
    answers = call_by(Nosy(lambda: closed.submit(ran.append, 1)), registry)
    accepted = [task for task in answers if not isinstance(task, QueueClosed)]
    assert [task.result(WAIT) for task in accepted] == [None] * len(accepted)  # type: ignore[attr-defined]
    assert len(ran) == len(accepted) < len(answers)
    stats = closed.stats()
    assert counts_add_up(stats)
    assert (stats.succeeded, stats.rejected) == (len(accepted), len(answers) - len(accepted))


def test_a_cancel_in_the_middle_of_a_call_says_what_became_of_the_task(registry: Registry, gate: Callable[..., Any]) -> None:
    with gate("inner"):
        waiting = [registry.queue("inner").submit(nothing) for _ in range(9)]
        left = iter(waiting)

        def cancel() -> tuple[bool, Task[Any]]:
            task = next(left)
            return task.cancel(), task

        answers = call_by_without_flush(Nosy(cancel), registry)
    registry.flush(timeout=WAIT)
    assert [told for told, _ in answers] == [task.cancelled() for _, task in answers]
    assert all(task.done() for task in waiting)
    assert counts_add_up(registry.queue("inner").stats())


def test_waiting_in_the_middle_of_a_call_is_refused_rather_than_endless(registry: Registry, gate: Callable[..., Any]) -> None:
    with gate("inner"):
        waiting = registry.queue("inner").submit(nothing)
        answers = call_by_without_flush(Nosy(lambda: waiting.result(0)), registry)
        assert any("would never end; do it later" in str(answer) for answer in answers)
        answers = call_by_without_flush(Nosy(lambda: registry.flush(timeout=0)), registry)
    assert all(isinstance(answer, RuntimeError | TimeoutError) for answer in answers)
    assert waiting.result(WAIT) is None


def test_what_is_dropped_inside_a_workers_step_may_start_another_queue(registry: Registry) -> None:
    """A tombstone's last reference goes with the worker's look at the line; its callback's __del__ calls a queue that has no worker yet."""
    held, gate, ran = threading.Event(), threading.Event(), threading.Event()
    first_call = registry.offload(queue="other")(ran.set)

    class Noisy:
        def __call__(self, _: object) -> None: ...

        def __del__(self) -> None:
            first_call()

    queue = registry.queue("plots")
    queue.submit(lambda: (held.set(), gate.wait(WAIT)))
    assert held.wait(WAIT)
    task = queue.submit(int)
    task.add_done_callback(Noisy())
    assert task.cancel()
    del task
    gate.set()
    deadline = time.monotonic() + WAIT
    while not ran.wait(0.01):  # on free-threaded builds __del__ runs here, where the callback was made, between two waits
        assert time.monotonic() < deadline


def test_a_result_goes_with_its_task_while_the_next_one_runs(registry: Registry) -> None:
    queue = registry.queue("plots")
    held, gate, started, end, gone = (threading.Event() for _ in range(5))

    class Result:
        def __del__(self) -> None:
            gone.set()

    queue.submit(lambda: (held.set(), gate.wait(WAIT)))
    assert held.wait(WAIT)
    queue.submit(Result)
    queue.submit(lambda: (started.set(), end.wait(WAIT)))
    gate.set()
    assert started.wait(WAIT)
    deadline = time.monotonic() + WAIT
    while not gone.wait(0.01) and time.monotonic() < deadline:
        gc.collect()  # free-threaded builds may free what another thread made only then
    end.set()
    assert gone.is_set()


@pytest.mark.parametrize("watched", [True, False])
def test_a_result_that_nobody_keeps_goes_outside_of_offloads_own_steps(registry: Registry, watched: bool) -> None:
    """Its __del__ may take a lock whose holder is waiting for offload's."""
    queue = registry.queue("plots")
    held, gone = threading.Event(), []
    monitor = queue._core.monitor

    class Result:
        def __del__(self) -> None:
            gone.append("in a step" if monitor.entered and monitor.lock._is_owned() else "outside")  # type: ignore[attr-defined]

    def make() -> Result:
        held.wait(WAIT)
        return Result()

    task = queue.submit(make)
    if watched:
        task.add_done_callback(nothing)
    del task
    held.set()
    queue.submit(int).result(WAIT)
    until(lambda: gc.collect() >= 0 and bool(gone))
    assert gone == ["outside"]


def test_the_first_call_of_a_queue_is_not_made_while_an_error_is_handled(registry: Registry) -> None:
    """What fails in it would have that error as its context."""

    def fail() -> None:
        raise ValueError(repr(sys.exc_info()[1]))

    with testing.inline():
        error = registry.offload(queue="fresh")(fail)().exception(WAIT)
    assert (str(error), error and error.__context__) == ("None", None)


def test_a_worker_that_parked_runs_what_one_that_could_not_start_was_to_run(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = registry.configure("plots", workers=2, maxsize=100)
    held, gate, starting, fail, ran = (threading.Event() for _ in range(5))
    queue.submit(lambda: (held.set(), gate.wait(WAIT)))
    assert held.wait(WAIT)

    def no_more(_: threading.Thread) -> None:
        starting.set()
        assert fail.wait(WAIT)
        raise RuntimeError("can't start new thread")

    calling = threading.Thread(target=lambda: queue.submit(int))
    start = calling.start
    with monkeypatch.context() as patch:
        patch.setattr(BackgroundThread, "start", no_more)
        start()  # a second worker is on its way
        assert starting.wait(WAIT)
        gate.set()
        deadline = time.monotonic() + WAIT
        while queue.stats().busy or queue.stats().waiting:  # the first takes its task, and parks
            assert time.monotonic() < deadline
            time.sleep(0.001)
        queue.submit(ran.set)
        fail.set()
        calling.join()
        assert ran.wait(WAIT)


@pytest.mark.parametrize("closed_meanwhile", [False, True])
def test_a_loop_that_something_else_blocked_ends_with_its_queue(registry: Registry, closed_meanwhile: bool) -> None:
    """A timer that a coroutine has left behind blocks the loop's thread, while no coroutine is on it."""
    queue = registry.configure("plots", idle_timeout=None)
    go = threading.Event()
    held = registry.queue("other").submit(go.wait, WAIT)

    def later() -> None:
        held.result(WAIT)

    async def leave_a_timer() -> None:
        asyncio.get_running_loop().call_later(0.0, later)

    async def quick() -> int:
        return 7

    queue.submit(leave_a_timer).result(WAIT)
    deadline = time.monotonic() + WAIT
    while queue._core.loop is not None:  # until it is blocked the next coroutine would go to this loop, and wait there
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert queue.submit(quick).result(WAIT) == 7
    if closed_meanwhile:
        queue.shutdown(wait=False)
        while queue._core.loop is not None:  # the loop in its place has ended, and nobody will ask the blocked one to
            assert time.monotonic() < deadline
            time.sleep(0.001)
    go.set()
    held.result(WAIT)
    queue.shutdown()  # blocks until the threads have ended


def test_a_loop_that_is_over_does_not_come_back(registry: Registry) -> None:
    """What a coroutine leaves on its loop is cancelled at the loop's end, and may block there: the queue's next coroutine gets another loop."""
    queue = registry.configure("plots", idle_timeout=0.01)
    other = registry.queue("other")
    cleaned = threading.Event()

    async def leftover() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            other.submit(time.sleep, 0.01).result(WAIT)
            cleaned.set()

    async def leave() -> None:
        left.append(asyncio.ensure_future(leftover()))
        await asyncio.sleep(0)  # it begins

    async def quick() -> int:
        return 7

    left: list[object] = []
    queue.submit(leave).result(WAIT)
    assert cleaned.wait(WAIT)
    deadline = time.monotonic() + WAIT
    while any(thread.name == "offload-plots-loop" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert queue.submit(quick).result(WAIT) == 7


def test_a_call_of_a_key_whose_cancelled_call_still_stands_in_the_line_waits_anew(registry: Registry) -> None:
    queue = registry.queue("plots")
    ran: list[int] = []
    call = registry.offload(queue="plots", coalesce=True)(ran.append)
    held, gate = threading.Event(), threading.Event()
    queue.submit(lambda: (held.set(), gate.wait(WAIT)))
    assert held.wait(WAIT)
    assert call(1).cancel()
    call(2)
    newest = call(3)
    gate.set()
    assert newest.result(WAIT) is None
    queue.flush(WAIT)
    assert ran == [3]
    assert queue.stats().coalesced == queue.stats().cancelled == 1


def test_refused_calls_keep_no_queue_alive(registry: Registry) -> None:
    queue = registry.queue("plots")
    queue.submit(int).result(WAIT)
    queue.shutdown()
    with pytest.raises(QueueClosed):
        queue.submit(int)
    gone = weakref.ref(queue._core)
    registry.configure("plots")  # a fresh queue in its place
    del queue
    gc.collect()
    registry.flush(timeout=WAIT)
    gc.collect()
    assert gone() is None
