"""One named race each, made to happen.

Two tools make them. `Pause` stops one thread just before the n-th line that it runs inside offload, while
another thread does something in full, and then lets it go on: a test does so for every n that there is.
`INTERRUPTIONS` is a program of its own that lets a real signal arrive before every instruction of a call.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures._base
import gc
import itertools
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
from offload import Queue, QueueClosed, QueueStats, Registry, Task, _ticket, _worker

WAIT = 10.0  # seconds, used only to fail
PACKAGE = str(Path(offload.__file__).parent)
FUTURES = concurrent.futures._base.__file__
ENDS = ("succeeded", "failed", "cancelled", "dropped", "coalesced")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.0005)


def blocked(thread: threading.Thread) -> bool:
    """Whether the thread waits: at a line that waits (for a lock, at least), the same over several looks."""
    seen = set()
    for _ in range(6):
        top = sys._current_frames().get(thread.ident or 0)
        if top is None or top.f_lineno is None:  # free-threaded: caught between two lines
            return False
        line = linecache.getline(top.f_code.co_filename, top.f_lineno)
        if re.search(r"acquire|wait|join|with ", line) is None:
            return False
        seen.add((id(top), top.f_lasti))
        time.sleep(0.0005)
    return len(seen) == 1


def balanced(stats: QueueStats) -> bool:
    return stats.submitted == sum(getattr(stats, end) for end in ENDS) + stats.waiting + stats.running


class Pause:
    """Stops the thread that arms it before the `at`-th line that it then runs inside offload or futures."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._lines = 0
        self.where = ""
        self.reached = threading.Event()
        self._go = threading.Event()

    def arm(self, *, callers_too: bool) -> None:
        """Called in a task's body with `callers_too`, it covers what the worker does after the body."""
        frame = sys._getframe(1)
        while callers_too and frame is not None:
            if self._covers(frame):
                frame.f_trace = self._trace
            frame = frame.f_back  # type: ignore[assignment]
        sys.settrace(self._trace)

    def go(self) -> None:
        self._at = -1
        self._go.set()

    def _covers(self, frame: types.FrameType) -> bool:
        file = frame.f_code.co_filename
        return file.startswith(PACKAGE) or file == FUTURES

    def _trace(self, frame: types.FrameType, event: str, _arg: object) -> Any:
        if not self._covers(frame):
            return None
        if event == "line":
            self._lines += 1
            if self._lines == self._at:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                self.reached.set()
                assert self._go.wait(WAIT), "nobody let the paused thread go on"
        return self._trace


class Meanwhile:
    """Does something on a thread of its own: to its end, or until it waits for the paused thread."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self._action = action
        self.answer: Any = None
        self._thread = threading.Thread(target=self._run, name="meanwhile", daemon=True)
        self._thread.start()
        until(lambda: not self._thread.is_alive() or blocked(self._thread))

    def _run(self) -> None:
        try:
            self.answer = self._action()
        except BaseException as error:
            self.answer = error

    def join(self, where: str) -> Any:
        self._thread.join(WAIT)
        assert not self._thread.is_alive(), f"deadlock with a thread paused at {where}"
        return self.answer


class Stage:
    """One try of a race: a queue that is new, a pause in one thread, and what was seen."""

    def __init__(self, at: int, settings: dict[str, Any]) -> None:
        self.pause = Pause(at)
        self.registry = Registry()
        self.queue = self.registry.configure("race", **settings)
        self.ran: list[object] = []
        self.worker: threading.Thread | None = None
        self.gate = threading.Event()
        self.held = threading.Event()
        self.call = self.registry.offload(queue="race")(self.ran.append)

    def hold(self, *, then_pause: bool = True) -> Task[None]:
        """Holds the worker until the gate is open; then the pause counts what it does, if it is meant."""

        def body() -> None:
            self.worker = threading.current_thread()
            self.held.set()
            assert self.gate.wait(WAIT)
            if then_pause:
                self.pause.arm(callers_too=True)

        task = self.queue.submit(body)
        assert self.held.wait(WAIT)
        return task

    def paused_or(self, over: Callable[[], bool]) -> bool:
        """Whether the pause was reached, and not `over` (nothing more to pause at) before it."""
        until(lambda: self.pause.reached.is_set() or over())
        return self.pause.reached.is_set()

    def close(self) -> QueueStats:
        self.pause.go()
        self.gate.set()
        self.queue.flush(timeout=WAIT)
        stats = self.queue.stats()
        assert balanced(stats), stats
        assert (stats.waiting, stats.running) == (0, 0)
        self.registry.shutdown()
        return stats


def stages(**settings: Any) -> Iterator[Stage]:
    """A new stage for each line at which to pause; the test breaks out when there is none left."""
    for at in itertools.count(1):
        assert at < 1_000, "the pauses never ended"
        yield Stage(at, settings)


def each_pause(script: Callable[[Stage], bool], least: int = 5, **settings: Any) -> None:
    """Runs the script at every pause until it answers False: the thread was through before the pause."""
    for tried, stage in enumerate(stages(**settings)):
        try:
            more = script(stage)
        finally:
            stage.pause.go()
            stage.gate.set()
        if not more:
            stage.close()
            assert tried >= least, "too few places to pause at: is anything traced?"
            return


# A worker against the rest.


def test_idle_worker_times_out_while_a_task_arrives() -> None:
    def script(stage: Stage) -> bool:
        stage.hold()
        stage.gate.set()
        worker = stage.worker
        assert worker is not None
        if not stage.paused_or(lambda: not worker.is_alive()):
            return False
        late = Meanwhile(lambda: stage.call("late"))
        stage.pause.go()
        assert late.join(stage.pause.where).result(WAIT) is None, stage.pause.where
        assert stage.ran == ["late"]
        assert stage.close().succeeded == 2
        return True

    each_pause(script, idle_timeout=0.005)


def test_a_worker_made_surplus_against_a_new_call() -> None:
    """Two workers, lowered to one while one of them is between tasks: what waits is not left to nobody."""

    def script(stage: Stage) -> bool:
        stage.registry.configure("race", workers=2)
        stage.hold()
        stage.registry.configure("race", workers=1)
        stage.gate.set()
        worker = stage.worker
        assert worker is not None
        if not stage.paused_or(lambda: not worker.is_alive()):
            return False
        late = Meanwhile(lambda: (stage.registry.configure("race", workers=3), stage.call("late"))[1])
        stage.pause.go()
        assert late.join(stage.pause.where).result(WAIT) is None, stage.pause.where
        assert stage.close().succeeded == 2
        return True

    each_pause(script, idle_timeout=0.005)


def test_cancel_against_claim() -> None:
    def script(stage: Stage) -> bool:
        stage.hold()
        task = stage.call("claimed")
        stage.gate.set()
        if not stage.paused_or(task.done):
            return False
        cancel = Meanwhile(task.cancel)
        stage.pause.go()
        cancelled = cancel.join(stage.pause.where)
        stats = stage.close()
        assert stage.ran == ([] if cancelled else ["claimed"]), stage.pause.where
        assert task.cancelled() is cancelled
        assert (stats.submitted, stats.succeeded, stats.cancelled) == (2, 2 - cancelled, cancelled)
        return True

    each_pause(script)


def test_drop_oldest_against_claim() -> None:
    def script(stage: Stage) -> bool:
        stage.hold()
        task = stage.call("oldest")
        stage.gate.set()
        if not stage.paused_or(task.done):
            return False
        new = Meanwhile(lambda: stage.call("new"))
        stage.pause.go()
        new.join(stage.pause.where).result(WAIT)
        stats = stage.close()
        assert stage.ran == (["new"] if task.cancelled() else ["oldest", "new"]), stage.pause.where
        assert (stats.submitted, stats.dropped) == (3, task.cancelled())
        return True

    each_pause(script, maxsize=1, on_full="drop_oldest")


def test_coalesce_against_claim() -> None:
    def script(stage: Stage) -> bool:
        newest = stage.call.using(coalesce=True)
        stage.hold()
        task = newest("older")
        stage.gate.set()
        if not stage.paused_or(task.done):
            return False
        new = Meanwhile(lambda: newest("newer"))
        stage.pause.go()
        new.join(stage.pause.where).result(WAIT)
        stats = stage.close()
        assert stage.ran == (["newer"] if task.cancelled() else ["older", "newer"]), stage.pause.where
        assert (stats.submitted, stats.coalesced) == (3, task.cancelled())
        return True

    each_pause(script)


def test_shutdown_cancelling_against_claim() -> None:
    def script(stage: Stage) -> bool:
        stage.hold()
        task = stage.call("claimed")
        stage.gate.set()
        if not stage.paused_or(task.done):
            return False
        shutdown = Meanwhile(lambda: stage.queue.shutdown(wait=True, cancel_futures=True))
        stage.pause.go()
        assert shutdown.join(stage.pause.where) is None
        assert task.done(), stage.pause.where
        stats = stage.close()
        assert stage.ran == ([] if task.cancelled() else ["claimed"]), stage.pause.where
        assert stats.cancelled == task.cancelled()
        return True

    each_pause(script)


@pytest.mark.parametrize(
    "wait",
    [
        lambda task: concurrent.futures.wait([task], timeout=WAIT).done == {task},
        lambda task: list(concurrent.futures.as_completed([task], timeout=WAIT)) == [task],
        lambda task: task.result(WAIT) is None,
        lambda task: task.exception(WAIT) is None,
    ],
    ids=["wait", "as_completed", "result", "exception"],
)
def test_waiting_against_finishing(wait: Callable[[Task[None]], bool]) -> None:
    def script(stage: Stage) -> bool:
        task, told = stage.hold(), []
        stage.gate.set()
        worker = stage.worker
        assert worker is not None
        if not stage.paused_or(lambda: not worker.is_alive()):
            return False
        waiting = Meanwhile(lambda: (task.add_done_callback(told.append), wait(task))[1])
        stage.pause.go()
        assert waiting.join(stage.pause.where) is True, stage.pause.where
        stage.close()
        assert told == [task], stage.pause.where
        return True

    each_pause(script, idle_timeout=0.0)


def test_flush_against_finishing() -> None:
    def script(stage: Stage) -> bool:
        task = stage.hold()
        stage.gate.set()
        worker = stage.worker
        assert worker is not None
        if not stage.paused_or(lambda: not worker.is_alive()):
            return False
        flush = Meanwhile(lambda: (stage.queue.flush(timeout=WAIT), task.done())[1])
        stage.pause.go()
        assert flush.join(stage.pause.where) is True, stage.pause.where
        assert stage.close().succeeded == 1
        return True

    each_pause(script, idle_timeout=0.0)


def test_a_blocked_caller_against_a_claim() -> None:
    """The room that a claim makes reaches a caller that begins to wait for it at that moment."""

    def script(stage: Stage) -> bool:
        stage.hold()
        task = stage.call("first")
        stage.gate.set()
        if not stage.paused_or(task.done):
            return False
        late = Meanwhile(lambda: stage.call("second"))
        stage.pause.go()
        late.join(stage.pause.where).result(WAIT)
        assert stage.ran == ["first", "second"]
        assert stage.close().succeeded == 3
        return True

    each_pause(script, maxsize=1)


def test_a_call_in_place_ends_after_its_worker_found_no_slot(registry: Registry, gate: Callable[[Queue], Any]) -> None:
    """The worker parks while a caller runs a task in the only slot: the end of that one must wake it."""
    queue = registry.configure("race", maxsize=1, on_full="caller_runs")
    held, done = gate(queue), threading.Event()
    waiting = registry.offload(queue="race")(done.set)()

    def body() -> None:
        held.open()
        held.task.result(WAIT)
        until(lambda: waiting.done() or (held.thread is not None and blocked(held.thread)))

    registry.offload(queue="race")(body)().result(WAIT)
    assert done.wait(WAIT / 5)  # no further call that would wake a worker


# A caller against the rest.


def caller_paused(stage: Stage, call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that makes the call with the pause armed, and what it got."""
    answers: list[Any] = []

    def target() -> None:
        stage.pause.arm(callers_too=False)
        try:
            answers.append(call())
        except BaseException as error:
            answers.append(error)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=target, name="paused caller", daemon=True)
    thread.start()
    return thread, answers


def joined(thread: threading.Thread, where: str) -> None:
    thread.join(WAIT)
    assert not thread.is_alive(), f"the caller paused at {where} never came back"


def test_shutdown_against_a_call() -> None:
    def script(stage: Stage) -> bool:
        caller, answers = caller_paused(stage, lambda: stage.call("late"))
        if not stage.paused_or(lambda: not caller.is_alive()):
            return False
        shutdown = Meanwhile(lambda: stage.queue.shutdown(wait=True))
        stage.pause.go()
        assert shutdown.join(stage.pause.where) is None
        joined(caller, stage.pause.where)
        (answer,) = answers
        accepted = not isinstance(answer, QueueClosed)
        if accepted:  # then it was accepted before the shutdown, which waited for it
            assert answer.done(), stage.pause.where
        stats = stage.close()
        assert stage.ran == (["late"] if accepted else []), stage.pause.where
        assert (stats.submitted, stats.rejected) == (accepted, not accepted)
        return True

    each_pause(script)


@pytest.mark.parametrize("on_full", ["block", "drop_oldest"])
def test_a_call_on_a_full_queue_against_its_worker(on_full: str) -> None:
    """The worker makes room at any line of a call that found none."""

    def script(stage: Stage) -> bool:
        stage.hold(then_pause=False)
        filling = stage.call("filling")
        caller, answers = caller_paused(stage, lambda: stage.call("late"))
        until(lambda: stage.pause.reached.is_set() or not caller.is_alive() or blocked(caller))
        if not stage.pause.reached.is_set() and not caller.is_alive():
            return False  # it got in without a pause: drop_oldest, past its last line
        if not stage.pause.reached.is_set():  # it is blocked: the pause lies behind the wait, or nowhere
            stage.gate.set()
            if not stage.paused_or(lambda: not caller.is_alive()):
                return False
        stage.gate.set()
        worker = stage.worker
        assert worker is not None
        until(lambda: filling.done() or blocked(worker))  # it waits for what the paused caller holds
        stage.pause.go()
        joined(caller, stage.pause.where)
        answers[0].result(WAIT)
        stats = stage.close()
        assert stage.ran == (["late"] if filling.cancelled() else ["filling", "late"]), stage.pause.where
        assert stats.dropped == filling.cancelled()
        return True

    each_pause(script, maxsize=1, on_full=on_full)


def test_a_call_against_a_lookup_of_its_new_queue() -> None:
    """Two first uses of a name at once make one queue."""

    def script(stage: Stage) -> bool:
        call = stage.registry.offload(queue="new")(stage.ran.append)
        caller, answers = caller_paused(stage, lambda: call("late"))
        if not stage.paused_or(lambda: not caller.is_alive()):
            return False
        other = Meanwhile(lambda: stage.registry.configure("new", maxsize=7))
        stage.pause.go()
        queue = other.join(stage.pause.where)
        joined(caller, stage.pause.where)
        answers[0].result(WAIT)
        assert queue is stage.registry.queue("new") is call.queue, stage.pause.where
        assert queue.settings.maxsize == 7
        assert queue.stats().succeeded == 1, stage.pause.where
        stage.close()
        return True

    each_pause(script)


def test_two_calls_against_each_other_start_one_worker() -> None:
    def script(stage: Stage) -> bool:
        caller, answers = caller_paused(stage, lambda: stage.call("one"))
        if not stage.paused_or(lambda: not caller.is_alive()):
            return False
        other = Meanwhile(lambda: stage.call("two"))
        stage.pause.go()
        joined(caller, stage.pause.where)
        other.join(stage.pause.where).result(WAIT)
        answers[0].result(WAIT)
        assert sorted(map(str, stage.ran)) == ["one", "two"]
        assert stage.queue.stats().workers == 1, stage.pause.where
        stage.close()
        return True

    each_pause(script)


# A call that takes no lock, on a queue that has run before, against the rest.


def warm(stage: Stage) -> threading.Thread:
    """The queue's worker is there and waits. Returns its thread."""
    ran: list[threading.Thread] = []
    stage.queue.submit(lambda: ran.append(threading.current_thread())).result(WAIT)
    stage.queue.flush(timeout=WAIT)
    return ran[0]


@pytest.mark.parametrize("worker", ["idle", "busy"])
def test_shutdown_against_a_plain_call(worker: str) -> None:
    """Appended just before the shutdown it runs, and the shutdown waits for it; appended just after it is taken out again."""

    def script(stage: Stage) -> bool:
        thread = warm(stage)
        if worker == "busy":
            stage.hold(then_pause=False)
        caller, answers = caller_paused(stage, lambda: stage.call("late"))
        if not stage.paused_or(lambda: not caller.is_alive()):
            return False
        stage.gate.set()
        shutdown = Meanwhile(lambda: stage.queue.shutdown(wait=True))
        stage.pause.go()
        assert shutdown.join(stage.pause.where) is None
        joined(caller, stage.pause.where)
        (answer,) = answers
        accepted = not isinstance(answer, QueueClosed)
        if accepted:
            assert answer.result(WAIT) is None, stage.pause.where
        assert not thread.is_alive()
        stats = stage.close()
        assert stage.ran == (["late"] if accepted else []), stage.pause.where
        assert stats.submitted == 1 + (worker == "busy") + accepted
        assert stats.rejected == (not accepted)
        return True

    each_pause(script)


def test_a_plain_call_against_a_worker_that_ends() -> None:
    """Whether it saw the worker or not: it finds the call in a last look, or the call finds that it has gone."""

    def script(stage: Stage) -> bool:
        worker = warm(stage)
        caller, answers = caller_paused(stage, lambda: stage.call("late"))
        if not stage.paused_or(lambda: not caller.is_alive()):
            return False
        stage.registry.configure("race", idle_timeout=0.0)
        until(lambda: not worker.is_alive() or blocked(worker))  # blocked: woken already by the paused call, or about to be
        stage.pause.go()
        joined(caller, stage.pause.where)
        assert answers[0].result(WAIT) is None, stage.pause.where
        assert stage.close().succeeded == 2
        return True

    each_pause(script)


def test_a_worker_that_finds_nothing_against_a_plain_call() -> None:
    """(1) It looks, and finds nothing; (2) a call comes in, and finds no idle worker; (3) it parks. Then it must look again."""

    def script(stage: Stage) -> bool:
        stage.hold()
        stage.gate.set()
        worker = stage.worker
        assert worker is not None
        if not stage.paused_or(lambda: blocked(worker)):
            return False
        late = Meanwhile(lambda: stage.call("late"))
        stage.pause.go()
        late.join(stage.pause.where)
        until(lambda: stage.ran == ["late"])  # nobody waits for it, which would wake the worker
        assert stage.close().succeeded == 2
        return True

    each_pause(script)


def test_two_plain_calls_against_each_other_wake_two_workers() -> None:
    def script(stage: Stage) -> bool:
        both = threading.Barrier(2)
        for _ in range(2):
            stage.queue.submit(both.wait, WAIT)
        stage.queue.flush(timeout=WAIT)
        call = stage.registry.offload(queue="race")(lambda: both.wait(WAIT))
        caller, answers = caller_paused(stage, call)
        if not stage.paused_or(lambda: not caller.is_alive()):
            call()
            return False
        other = Meanwhile(call)
        stage.pause.go()
        joined(caller, stage.pause.where)
        assert {answers[0].result(WAIT), other.join(stage.pause.where).result(WAIT)} == {0, 1}, stage.pause.where
        stage.close()
        return True

    each_pause(script, workers=2)


def test_tombstones_are_cleared_away_while_calls_come_in(registry: Registry, gate: Callable[[Queue], Any]) -> None:
    """What waits is moved, a thread goes on to append: each call runs once, and each thread's calls in their order."""
    queue = registry.configure("plots", maxsize=None)
    ran: list[int] = []
    call = registry.offload(queue="plots")(ran.append)
    with gate(queue):
        kept = itertools.count()
        adding = threading.Thread(target=lambda: [call(next(kept)) for _ in range(5_000)])
        adding.start()
        cancelled = 0
        while adding.is_alive() or cancelled < 500:
            cancelled += call(-1).cancel()
        adding.join()
    queue.flush(timeout=WAIT)
    assert ran == list(range(5_000))
    assert queue.stats().cancelled == cancelled


# A thread against itself.


class Calls:
    """An argument whose end makes a call."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def __del__(self) -> None:
        self.call()


def in_time(action: Callable[[], Any]) -> Any:
    """What the action returned, on a thread of its own: a deadlock fails one test, and hangs nothing."""
    answers: list[Any] = []

    def target() -> None:
        try:
            answers.append(action())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    joined(thread, "its own call")
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]


def ignore(_argument: object) -> None:
    """A task that keeps nothing."""


@pytest.mark.parametrize("to", ["race", "other"])
def test_call_from_del_of_a_dropped_call(registry: Registry, gate: Callable[[Queue], Any], to: str) -> None:
    """drop_oldest lets go of a call's arguments in the middle of another, and their end calls in turn."""
    queue = registry.configure("race", maxsize=1, on_full="drop_oldest")
    ran: list[str] = []
    call = registry.offload(queue="race")(ignore)
    from_del = registry.offload(queue=to)(ran.append)
    held = gate(queue)

    def action() -> None:
        call(Calls(lambda: from_del("from del")))
        call(None)

    in_time(action)
    held.open()
    registry.flush(timeout=WAIT)
    assert ran == ["from del"]
    assert balanced(queue.stats())
    assert queue.stats().dropped == (1 if to == "other" else 2)


def test_call_from_del_of_a_coalesced_call(registry: Registry, gate: Callable[[Queue], Any]) -> None:
    registry.configure("race", maxsize=1)
    ran: list[str] = []
    plot = registry.offload(queue="race", coalesce=True)(ignore)
    from_del = registry.offload(queue="race")(ran.append)
    held = gate(registry.queue("race"))

    def action() -> int:
        plot(Calls(lambda: from_del("from del")))
        plot(None)
        return registry.queue("race").stats().waiting

    # The queue is full, and the call comes from inside offload on this very thread: it does not block.
    assert in_time(action) == 2
    held.open()
    registry.flush(timeout=WAIT)
    assert ran == ["from del"]
    assert registry.queue("race").stats().coalesced == 1


def test_call_from_del_of_a_cancelled_call(registry: Registry, gate: Callable[[Queue], Any]) -> None:
    registry.configure("race", maxsize=2)
    ran: list[str] = []
    call = registry.offload(queue="race")(ignore)
    from_del = registry.offload(queue="race")(ran.append)
    held = gate(registry.queue("race"))
    task = call(Calls(lambda: from_del("from del")))
    call(None)
    assert in_time(task.cancel)
    del task
    held.open()
    registry.flush(timeout=WAIT)
    assert ran == ["from del"]


def test_call_from_del_of_the_arguments_that_a_worker_lets_go(registry: Registry) -> None:
    """The queue is full and its only worker makes the call, between two tasks: nobody else makes room."""
    registry.configure("race", maxsize=1)
    ran: list[str] = []
    entered, go = threading.Event(), threading.Event()
    from_del = registry.offload(queue="race")(ran.append)

    @registry.offload(queue="race")
    def body(_argument: object) -> None:
        entered.set()
        assert go.wait(WAIT)

    body(Calls(lambda: from_del("from del")))
    assert entered.wait(WAIT)
    from_del("waits")
    go.set()
    registry.flush(timeout=WAIT)
    assert sorted(ran) == ["from del", "waits"]
    stats = registry.queue("race").stats()
    assert (stats.submitted, stats.succeeded) == (3, 3)


def test_call_from_the_garbage_collector_inside_calls(registry: Registry) -> None:
    ran: list[str] = []
    queue = registry.configure("race", maxsize=None)
    call = registry.offload(queue="race")(ran.append)

    class Cycle(Calls):
        def __init__(self, call: Callable[[], object]) -> None:
            super().__init__(call)
            self.me = self

    def action() -> None:
        before = gc.get_threshold()
        gc.set_threshold(1, 1, 1)
        try:
            for _ in range(300):
                Cycle(lambda: call("from del"))
                call("outer")
        finally:
            gc.set_threshold(*before)

    in_time(action)
    gc.collect()
    queue.flush(timeout=WAIT)
    assert (ran.count("outer"), ran.count("from del")) == (300, 300)
    assert queue.stats().succeeded == 600


def test_call_from_a_logging_handler(registry: Registry, gate: Callable[[Queue], Any]) -> None:
    """A handler that offloads its records to the queue whose warning it handles."""
    queue = registry.configure("race", maxsize=1, on_full="drop_newest")
    ran: list[str] = []
    call = registry.offload(queue="race")(ran.append)

    class Ship(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            call(record.getMessage())

    held, handler, logger = gate(queue), Ship(), logging.getLogger("offload.race")
    logger.addHandler(handler)
    try:
        in_time(lambda: [call("fills"), call("dropped")])
    finally:
        logger.removeHandler(handler)
    held.open()
    queue.flush(timeout=WAIT)
    assert ran == ["fills"]
    assert queue.stats().dropped == 2


def with_idle_workers(queue: Queue, number: int) -> Any:
    """The queue's crew, once so many workers have started and stand idle."""
    together, crew = threading.Barrier(number), queue._core.crew
    for task in [queue.submit(together.wait, WAIT) for _ in range(number)]:
        task.result(WAIT)
    until(lambda: len(crew.idle) == number)
    return crew


@pytest.mark.parametrize("then", ["parks again", "ends"])
def test_a_worker_that_a_call_wakes_is_faster_than_the_call(registry: Registry, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """1. The call wakes the worker. 2. It looks, finds nothing, and parks again or ends. 3. The call appends its task, which still has to run."""
    queue = registry.queue("race")
    ran = threading.Event()
    call = registry.offload(queue="race")(ran.set)
    crew = with_idle_workers(queue, 1)
    if then == "ends":
        monkeypatch.setattr(_worker, "_wants_no_more", lambda core, worker: True)
    wake_one, woken, raced = type(crew).wake_one, crew.idle[0], []

    def wake_and_wait(crew: Any) -> bool:
        there_was = wake_one(crew)
        if not raced:
            raced.append(there_was)
            until(lambda: woken.ended if then == "ends" else woken in crew.idle)
        return there_was

    monkeypatch.setattr(type(crew), "wake_one", wake_and_wait)
    call()
    assert ran.wait(WAIT)  # not result(), which would wake somebody
    assert raced == [True]
    assert woken.ended == (then == "ends")


@pytest.mark.parametrize("idle", [1, 2])
def test_a_worker_that_a_call_wakes_takes_the_task_of_another_call(registry: Registry, monkeypatch: pytest.MonkeyPatch, idle: int) -> None:
    """1. A call wakes a worker. 2. Another call's task comes in, and the worker takes that one. 3. The first call has one come for it too."""
    queue = registry.configure("race", workers=2)
    met = threading.Barrier(2)
    call = registry.offload(queue="race")(met.wait)
    crew = with_idle_workers(queue, idle)
    wake_one, tasks = type(crew).wake_one, []

    def wake_for_another(crew: Any) -> bool:
        there_was = wake_one(crew)
        if not tasks:
            tasks.append(None)
            other = threading.Thread(target=lambda: tasks.append(call(WAIT)))
            other.start()
            other.join(WAIT)
            until(lambda: queue.stats().running + queue.stats().succeeded > idle)
        return there_was

    monkeypatch.setattr(type(crew), "wake_one", wake_for_another)
    tasks.append(call(WAIT))
    until(lambda: queue.stats().succeeded == idle + 2)  # they have met; not result(), which would wake somebody
    assert len(tasks) == 3


def test_a_call_wakes_a_worker_while_a_section_counts_who_is_coming(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. A section has looked at the line. 2. A plain call comes in and wakes a worker. 3. The section wakes another for its own task."""
    queue = registry.configure("race", workers=2)
    met = threading.Barrier(2)
    keyed = registry.offload(queue="race", coalesce=True)(lambda: met.wait(WAIT))
    plain = registry.offload(queue="race")(lambda: met.wait(WAIT))
    crew = with_idle_workers(queue, 2)
    rouse, raced = type(crew).rouse, []

    def rouse_late(crew: Any, number: int) -> None:
        if not raced:
            raced.append(number)
            other = threading.Thread(target=plain)
            other.start()
            other.join(WAIT)
        rouse(crew, number)

    monkeypatch.setattr(type(crew), "rouse", rouse_late)
    keyed()
    until(lambda: queue.stats().succeeded == 4)
    assert raced == [1]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs a signal sent to a thread")
def test_call_from_a_signal_handler_inside_a_blocked_call(registry: Registry, gate: Callable[[Queue], Any]) -> None:
    """It interrupts the wait for room on its own thread: it is accepted above maxsize and does not wait."""
    queue = registry.configure("race", maxsize=1)
    ran: list[str] = []
    call = registry.offload(queue="race")(ran.append)
    held = gate(queue)
    call("fills")
    accepted = threading.Event()
    main = threading.main_thread()
    waiting: list[int] = []

    def handle(_signal: int, _frame: object) -> None:
        if accepted.is_set():
            return
        call("from the handler")
        waiting.append(queue.stats().waiting)
        accepted.set()

    def send() -> None:
        try:
            until(lambda: blocked(main))
            deadline = time.monotonic() + WAIT
            while not accepted.is_set() and time.monotonic() < deadline:
                signal.pthread_kill(main.ident or 0, signal.SIGUSR1)  # one that comes just ahead of the wait itself does not end it
                accepted.wait(0.1)
        finally:
            held.open()

    before = signal.signal(signal.SIGUSR1, handle)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        call("blocked")
    finally:
        sender.join(WAIT)
        signal.signal(signal.SIGUSR1, before)
    queue.flush(timeout=WAIT)
    assert waiting == [2]
    assert ran == ["fills", "from the handler", "blocked"]


@pytest.mark.parametrize("strikes", ["before", "after"])
def test_an_interrupt_of_a_shutdown_that_turns_blocked_callers_away(
    registry: Registry, gate: Callable[[Queue], Any], monkeypatch: pytest.MonkeyPatch, strikes: str
) -> None:
    """1. The queue is closed. 2. Ctrl-C strikes before or after the first caller is let go on. 3. Whoever is left is let in, or turned away."""
    queue = registry.configure("race", maxsize=1)
    ran: list[int] = []
    held = gate(queue)
    queue.submit(ran.append, 0)
    answers: dict[int, object] = {}

    def call(number: int) -> None:
        try:
            answers[number] = queue.submit(ran.append, number)
        except QueueClosed as error:
            answers[number] = error

    callers = [threading.Thread(target=call, args=(number,), daemon=True) for number in (1, 2)]
    for caller in callers:
        caller.start()
    until(lambda: len(queue._core.blocked) == len(callers))
    go_on, struck = _ticket.Ticket.go_on, []

    def interrupted(ticket: _ticket.Ticket) -> None:
        if strikes == "after" or struck:
            go_on(ticket)
        if not struck:
            struck.append(ticket)
            raise KeyboardInterrupt

    monkeypatch.setattr(_ticket.Ticket, "go_on", interrupted)
    with pytest.raises(KeyboardInterrupt):
        queue.shutdown(wait=False)
    held.open()
    for caller in callers:
        caller.join(WAIT)
    queue.shutdown()
    accepted = [number for number, answer in answers.items() if isinstance(answer, Task)]
    assert sorted(answers) == [1, 2]
    assert sorted(ran) == [0, *sorted(accepted)]
    assert queue.stats().rejected == 2 - len(accepted)
    assert not queue._core.blocked
    assert balanced(queue.stats())


def test_an_interrupt_of_a_threads_start_that_comes_out_as_a_runtime_error(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """1. The thread is started. 2. Ctrl-C strikes the wait for it, just after that let go of its lock. 3. `with` finds the lock unlocked."""
    start, struck = threading.Thread.start, []

    def interrupted_start(thread: threading.Thread) -> None:
        start(thread)
        if not struck:
            struck.append(thread)
            try:
                raise KeyboardInterrupt
            finally:
                raise RuntimeError("release unlocked lock")

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    ran = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        registry.offload(queue="race")(ran.set)()
    assert ran.wait(WAIT)
    queue = registry.queue("race")
    queue.flush(WAIT)
    until(lambda: queue.stats().workers == 1)
    assert queue.submit(int).result(WAIT) == 0
    assert queue.stats().workers == 1
    assert caplog.messages == []


def test_a_thread_that_can_not_start_for_a_reason_of_its_own(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody's wrapper of `Thread.start` raises RuntimeError from an OSError: that is no interrupt. The call runs in its caller."""

    def start(thread: threading.Thread) -> None:
        try:
            raise BlockingIOError("no more of them")
        except OSError:
            raise RuntimeError("can't start new thread")  # noqa: B904

    monkeypatch.setattr(threading.Thread, "start", start)
    queue = registry.queue("race")
    assert queue.submit(threading.get_ident).result(WAIT) == threading.get_ident()
    assert queue.stats().succeeded == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# A signal before every instruction of a call.

TRACER = """
import _thread, collections, os, sys

# Python 3.12 tells of no instruction in a frame that asks for it in the trace function: there, by line.
EVENT = "line" if sys.version_info[:2] == (3, 12) else "opcode"

# A missing key calls interrupt_main from C. Nothing looks for signals from there to the traced instruction:
# the handler runs at the first place from that instruction on at which the interpreter would run one.
arrive = collections.defaultdict(_thread.interrupt_main)


class Tracer:
    def __init__(self, step, on_arrival=int):
        self.step, self.seen, self.on_arrival, self.where = step, 0, on_arrival, ""

    def __call__(self, frame, event, arg):
        frame.f_trace_opcodes = True
        if event == EVENT:
            self.seen += 1
            if self.seen == self.step:
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                self.on_arrival()
                sys.settrace(None)  # or the handler would run inside the next call of this tracer
                arrive[self]
        return self
"""

INTERRUPTIONS = r'''
import faulthandler, logging, signal, threading, time
from offload import Registry

mode, scene, stride = sys.argv[1], sys.argv[2], int(sys.argv[3])
if EVENT == "line":  # of some four instructions or more
    stride = max(1, stride // 4)
faulthandler.dump_traceback_later(30, exit=True)
ENDS = "succeeded", "failed", "cancelled", "dropped", "coalesced"


class Scene:
    """A queue, the call to be interrupted, and what happened before it."""

    def __init__(self):
        self.registry = Registry(on_error=lambda task, error: None)
        self.ran = []
        self.call = self.registry.offload(queue="q")(self.ran.append)
        self.before = self.holds = 0
        self.on_arrival = int

    @property
    def queue(self):
        return self.registry.queue("q")

    def close(self):
        self.on_arrival()
        self.registry.shutdown()


class First(Scene):
    """The queue is still to be made, and its worker to be started."""


class Narrow(Scene):
    """Its worker is still to be started, and the call fills it: nobody but this thread starts the worker."""

    def __init__(self):
        super().__init__()
        self.registry.configure("q", maxsize=1)


class Idle(Scene):
    """Its worker is there and waits."""

    def __init__(self):
        super().__init__()
        self.call("before").result(10)
        self.queue.flush(timeout=10)
        self.before = 1


class Full(Scene):
    """Its worker is held and it is full; the worker goes on when the signal arrives."""

    def __init__(self):
        super().__init__()
        self.registry.configure("q", maxsize=1, on_full=scene)
        go, held = threading.Event(), threading.Event()
        self.on_arrival = go.set
        self.queue.submit(lambda: (held.set(), go.wait(10)))
        assert held.wait(10)
        self.call("fills")
        self.before, self.holds = 2, 1


def nested(signum, frame):
    current.call("nested")


def interrupted(tracer):
    """Whether the call ended in KeyboardInterrupt."""
    try:
        sys.settrace(tracer)
        try:
            current.call("outer")
        finally:
            sys.settrace(None)
    except KeyboardInterrupt:
        return True
    return False


def judge(ctrl_c, arrived, place):
    q, ran = current.queue, current.ran
    current.on_arrival()
    # What was accepted runs by itself: no further call is needed that would wake a worker.
    deadline = time.monotonic() + 2
    while q.stats().waiting or q.stats().running:
        assert time.monotonic() < deadline, ("left to nobody", place, ran, q.stats())
        time.sleep(0)
    q.flush(timeout=10)
    stats = q.stats()
    seen = place, ran, stats
    assert stats.submitted == sum(getattr(stats, end) for end in ENDS), seen
    assert stats.waiting == stats.running == stats.cancelled == stats.rejected == 0, seen
    # Wholly accepted or wholly not; a handler's call is always accepted.
    accepted = stats.submitted - current.before - (arrived and mode == "nested")
    assert accepted == 1 or ctrl_c and accepted == 0, seen
    # What was accepted ran once (a call in place that Ctrl-C hits is a failure, before or after its body).
    assert stats.succeeded <= len(ran) + current.holds <= stats.succeeded + stats.failed, seen
    assert stats.failed <= (ctrl_c and scene == "caller_runs"), seen
    if scene != "drop_oldest":
        assert ran.count("nested") == (arrived and mode == "nested") and stats.dropped == 0, seen
    # The queue works as before: nothing is locked, no room and no worker is lost.
    current.call("after").result(10)
    q.flush(timeout=10)
    assert ran[-1] == "after" and q.stats().workers == 1, seen


logging.disable()  # what is full says so, which is not looked at here
signal.signal(signal.SIGINT, nested if mode == "nested" else signal.default_int_handler)
make = {"idle": Idle, "first": First, "narrow": Narrow}.get(scene, Full)
step, landed, wrong = 1, 0, []
while True:
    current = make()
    tracer = Tracer(step, current.on_arrival)
    if scene == "block":
        # The instructions behind the wait for room are reached only if room is made without a signal, too.
        timer = threading.Timer(0.03, current.on_arrival)
        timer.start()
    ctrl_c = interrupted(tracer)
    landed += ctrl_c
    try:
        judge(ctrl_c, tracer.seen >= step, (tracer.where, step))
    except Exception as error:
        wrong.append(error)
        print("WRONG:", error, flush=True)
        if len(wrong) == 5:
            break
    else:
        current.close()
    if scene == "block":
        timer.cancel()
        timer.join()
    if tracer.seen < step:
        break
    step += stride
print("instructions", tracer.seen, "interrupted", landed, flush=True)
if wrong:
    os._exit(1)  # what was left to nobody would be waited for
'''


@pytest.mark.parametrize(
    ("scene", "stride"),
    [("idle", 2), ("first", 11), ("narrow", 5), ("block", 7), ("drop_oldest", 3), ("caller_runs", 3)],
)
@pytest.mark.parametrize("mode", ["ctrl_c", "nested"])
def test_a_signal_before_every_instruction_of_a_call(mode: str, scene: str, stride: int) -> None:
    """Ctrl-C leaves the call wholly accepted or wholly not; a handler's own call never deadlocks."""
    done = subprocess.run(
        [sys.executable, "-c", TRACER + INTERRUPTIONS, mode, scene, str(stride)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    # A KeyboardInterrupt inside a weakref callback, or one that breaks the Event which a new thread sets, is told by the interpreter itself; what
    # offload does is judged in the program.
    files = set(re.findall(r'File "([^"]*)"', done.stderr))
    ours = "" if {Path(file).name for file in files} <= {"threading.py", "_weakrefset.py"} else done.stderr
    assert (done.returncode, ours) == (0, ""), done.stdout + done.stderr
    assert "Traceback" in done.stderr or not done.stderr
    _, instructions, _, landed = done.stdout.split()
    assert int(instructions) > 20
    assert (int(landed) > 5) is (mode == "ctrl_c")


WAITING_HANDLER = """
import signal
from offload import Registry


def handler(signum, frame):
    global answered
    try:
        flush() if sys.argv[1] == "flush" else call("nested").result(5)
    except TimeoutError:  # FlushTimeout is one
        print("hangs at", tracer.where, flush=True)
    except RuntimeError:  # it would never end, and says so
        pass
    answered = True


def flush():
    registry.flush(timeout=5)


signal.signal(signal.SIGINT, handler)
step = 0
while True:
    step += 1
    registry, answered = Registry(), False
    call = registry.offload(queue="q")(lambda number: number)
    call("first").result(10)
    registry.flush(timeout=10)
    tracer = Tracer(step)
    sys.settrace(tracer)
    call("outer")
    sys.settrace(None)
    registry.shutdown()
    if not answered and tracer.seen < step:
        break
print("over", step > 20, flush=True)
"""


@pytest.mark.parametrize("what", ["flush", "result"])
def test_a_signal_handler_that_waits_at_every_instruction_of_a_call(what: str) -> None:
    """It stands on top of a call that may just be waking the worker, and can't go on before the handler has what it waits for."""
    done = subprocess.run([sys.executable, "-c", TRACER + WAITING_HANDLER, what], capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout) == (0, "over True\n"), done.stderr
