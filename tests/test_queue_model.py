"""The accounting of §4, step by step against a plain model, on one thread.

Every task stands still inside its body until the machine tells it to do something (make a call, wait for a
sibling, flush) or to end, so that after each step it is certain which calls wait and which run. The model is
a list of waiting calls, a list of running ones and four settings; what the queue must do with the next call
follows from those alone.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import queue as stdlib_queue
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from offload import FlushTimeout, QueueClosed, QueueFull, Registry, Task

TIMEOUT = 20.0  # seconds, used only to fail

POLICIES = ("block", "raise", "drop_newest", "drop_oldest", "caller_runs")
ENDS = ("succeeded", "failed", "cancelled", "dropped", "coalesced")

sizes = st.one_of(st.none(), st.integers(1, 4))
worker_counts = st.integers(1, 3)
policies = st.sampled_from(POLICIES)
picks = st.integers(0, 1_000)  # an index into whatever is there, taken modulo its length
kinds = st.sampled_from(["plain", "single", "keyed"])


class BoomError(Exception):
    """What a failing task raises."""


class Call:
    """One call as the model sees it, and the wires by which the machine steers its body."""

    def __init__(self, number: int, kind: str, key: int, *, fails: bool) -> None:
        self.number = number
        self.kind = kind
        self.key = key
        self.fails = fails
        self.state = "new"
        self.runs = 0
        self.task: Task[int] | None = None
        self.orders: stdlib_queue.SimpleQueue[Callable[[], Any] | None] = stdlib_queue.SimpleQueue()
        self.replies: stdlib_queue.SimpleQueue[Any] = stdlib_queue.SimpleQueue()

    def __repr__(self) -> str:
        return f"<{self.kind} {self.number} {self.state}>"

    def coalesces_with(self, other: Call) -> bool:
        if self.kind != other.kind or self.kind == "plain":
            return False
        return self.kind == "single" or self.key == other.key

    def end(self) -> int:
        if self.fails:
            raise BoomError(self.number)
        return self.number


class QueueMachine(RuleBasedStateMachine):
    """Drives one queue by rules; `settle` and `accounts` compare it with the model after each."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.local = threading.local()
        self.local.in_place = True  # a body that runs on this thread can't wait for orders: it just ends
        self.draining = False
        self.started: stdlib_queue.SimpleQueue[Call] = stdlib_queue.SimpleQueue()
        self.registry = Registry(on_error=self.record_failure)
        offload = self.registry.offload

        @offload(queue="model")
        def plain(call: Call) -> int:
            return self.body(call)

        @offload(queue="model", coalesce=True)
        def single(call: Call) -> int:
            return self.body(call)

        @offload(queue="model", coalesce=lambda call: call.key)
        def keyed(call: Call) -> int:
            return self.body(call)

        self.functions: dict[str, Callable[[Call], Task[int]]] = {
            "plain": plain,
            "single": single,
            "keyed": keyed,
        }

    # The task's side.

    def record_failure(self, task: Task[Any], error: BaseException) -> None:
        self.failures.append((task, error))

    def body(self, call: Call) -> int:
        call.runs += 1
        if getattr(self.local, "in_place", False) or self.draining:
            return call.end()
        self.started.put(call)
        while (order := call.orders.get(timeout=TIMEOUT)) is not None:
            self.local.in_place = True
            try:
                call.replies.put(order())
            except BaseException as error:
                call.replies.put(error)
            finally:
                self.local.in_place = False
            del order
        return call.end()

    def inside(self, call: Call, order: Callable[[], Any]) -> Any:
        """What `order` returned or raised inside the body of a running call."""
        call.orders.put(order)
        return call.replies.get(timeout=TIMEOUT)

    # The model.

    @initialize(maxsize=sizes, workers=worker_counts, on_full=policies)
    def open(self, maxsize: int | None, workers: int, on_full: str) -> None:
        self.maxsize, self.workers, self.on_full = maxsize, workers, on_full
        self.closed = False
        self.calls: list[Call] = []
        self.waiting: list[Call] = []
        self.running: list[Call] = []
        self.rejected = 0
        self.failures: list[tuple[Task[Any], BaseException]] = []
        self.unflushed = 0
        self.queue = self.registry.configure("model", maxsize=maxsize, workers=workers, on_full=on_full)

    def verdict(self, call: Call, *, nested: bool) -> str:
        """What becomes of the call, as DESIGN has it."""
        if self.closed:
            return "closed"
        if any(call.coalesces_with(other) for other in self.waiting):
            return "replaces"
        if self.maxsize is None or len(self.waiting) < self.maxsize:
            return "waits"
        if self.on_full == "block":
            return "runs here" if nested else "blocks"
        return {
            "raise": "refused",
            "drop_newest": "is dropped",
            "drop_oldest": "drops the oldest",
            "caller_runs": "runs here",
        }[self.on_full]

    def settle(self) -> None:
        """Moves the model's waiting calls to free workers, and waits until the same calls have started."""
        expected = []
        while self.waiting and len(self.running) < self.workers:
            call = self.waiting.pop(0)
            call.state = "running"
            self.running.append(call)
            expected.append(call)
        seen = [self.started.get(timeout=TIMEOUT) for _ in expected]
        assert {call.number for call in seen} == {call.number for call in expected}

    def finished(self, call: Call) -> None:
        call.state = "failed" if call.fails else "succeeded"
        self.unflushed += call.fails

    def make(self, call: Call, inside: Call | None) -> Any:
        """The Task or the error that the call ends in for its caller."""
        if inside is not None:
            return self.inside(inside, lambda: self.functions[call.kind](call))
        try:
            return self.functions[call.kind](call)
        except (QueueFull, QueueClosed) as error:
            return error

    # The rules.

    @rule(kind=kinds, key=st.integers(0, 2), fails=st.booleans(), nested=st.booleans(), pick=picks)
    def call(self, kind: str, key: int, fails: bool, nested: bool, pick: int) -> None:
        call = Call(next(self.numbers), kind, key, fails=fails)
        inside = self.running[pick % len(self.running)] if nested and self.running else None
        verdict = self.verdict(call, nested=inside is not None)
        if verdict == "blocks":  # this thread must not wait for ever: a running task makes the call instead
            inside = self.running[pick % len(self.running)]
            verdict = self.verdict(call, nested=True)
        answer = self.make(call, inside)
        if verdict in ("closed", "refused"):
            assert type(answer) is {"closed": QueueClosed, "refused": QueueFull}[verdict]
            self.rejected += 1
            return
        assert isinstance(answer, Task), answer
        call.task = answer
        self.calls.append(call)
        self.place(call, verdict)
        self.settle()

    def place(self, call: Call, verdict: str) -> None:
        if verdict == "runs here":
            self.finished(call)
            return
        if verdict == "is dropped":
            call.state = "dropped"
            return
        call.state = "waiting"
        if verdict == "replaces":
            index = next(i for i, other in enumerate(self.waiting) if call.coalesces_with(other))
            self.waiting[index].state = "coalesced"
            self.waiting[index] = call
            return
        if verdict == "drops the oldest":
            self.waiting.pop(0).state = "dropped"
        self.waiting.append(call)

    @precondition(lambda self: self.running)
    @rule(pick=picks)
    def end_one(self, pick: int) -> None:
        call = self.running.pop(pick % len(self.running))
        call.orders.put(None)
        assert call.task is not None
        concurrent.futures.wait([call.task], timeout=TIMEOUT)
        self.finished(call)
        self.settle()

    @precondition(lambda self: self.calls)
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        self.cancel_call(self.calls[pick % len(self.calls)])

    @precondition(lambda self: self.waiting)
    @rule(pick=picks)
    def cancel_waiting(self, pick: int) -> None:
        self.cancel_call(self.waiting[pick % len(self.waiting)])

    def cancel_call(self, call: Call) -> None:
        assert call.task is not None
        taken_back = call.state in ("waiting", "cancelled", "dropped", "coalesced")
        assert call.task.cancel() is taken_back
        if call.state == "waiting":
            self.waiting.remove(call)
            call.state = "cancelled"

    @precondition(lambda self: self.waiting and self.running)
    @rule(waiter=picks, sibling=picks)
    def wait_for_a_sibling(self, waiter: int, sibling: int) -> None:
        call = self.waiting.pop(sibling % len(self.waiting))
        assert call.task is not None
        answer = self.inside(self.running[waiter % len(self.running)], call.task.result)
        if call.fails:
            assert isinstance(answer, BoomError)
        else:
            assert answer == call.number
        self.finished(call)

    @precondition(lambda self: not self.closed)
    @rule(workers=worker_counts)
    def set_workers(self, workers: int) -> None:
        self.workers = workers
        assert self.registry.configure("model", workers=workers) is self.queue
        self.settle()

    @precondition(lambda self: not self.closed)
    @rule(maxsize=sizes)
    def set_maxsize(self, maxsize: int | None) -> None:
        self.maxsize = maxsize
        assert self.registry.configure("model", maxsize=maxsize) is self.queue

    @precondition(lambda self: not self.closed)
    @rule(on_full=policies)
    def set_policy(self, on_full: str) -> None:
        self.on_full = on_full
        assert self.registry.configure("model", on_full=on_full) is self.queue

    @precondition(lambda self: self.running)
    @rule(pick=picks)
    def flush_inside(self, pick: int) -> None:
        answer = self.inside(self.running[pick % len(self.running)], self.queue.flush)
        assert isinstance(answer, RuntimeError)

    @precondition(lambda self: self.waiting or self.running)
    @rule(raise_errors=st.booleans())
    def flush_while_busy(self, raise_errors: bool) -> None:
        with pytest.raises(FlushTimeout):
            self.queue.flush(timeout=0, raise_errors=raise_errors)

    @precondition(lambda self: not self.waiting and not self.running)
    @rule()
    def flush_while_idle(self) -> None:
        self.queue.flush(timeout=TIMEOUT)

    @precondition(lambda self: not self.waiting and not self.running)
    @rule()
    def flush_errors(self) -> None:
        if self.unflushed:
            with pytest.raises(ExceptionGroup) as caught:
                self.queue.flush(timeout=TIMEOUT, raise_errors=True)
            assert len(caught.value.exceptions) == self.unflushed  # never more than 100 in one run
        else:
            self.queue.flush(timeout=TIMEOUT, raise_errors=True)
        self.unflushed = 0

    @precondition(lambda self: not self.closed and len(self.calls) > 4)
    @rule(cancel_futures=st.booleans())
    def shutdown(self, cancel_futures: bool) -> None:
        self.queue.shutdown(wait=False, cancel_futures=cancel_futures)
        self.closed = True
        if cancel_futures:
            for call in self.waiting:
                call.state = "cancelled"
            self.waiting.clear()

    @precondition(lambda self: self.closed)
    @rule(maxsize=sizes, workers=worker_counts, on_full=policies)
    def reopen(self, maxsize: int | None, workers: int, on_full: str) -> None:
        while self.running:
            self.end_one(0)
        self.accounts()
        old = self.queue
        old.shutdown(wait=True)
        self.open(maxsize, workers, on_full)
        assert self.queue is not old

    # What must hold after each of them.

    @invariant()
    def accounts(self) -> None:
        if not hasattr(self, "queue"):
            return
        stats = self.queue.stats()
        count = Counter(call.state for call in self.calls)
        assert stats.submitted == len(self.calls)
        assert stats.rejected == self.rejected
        assert stats.waiting == len(self.waiting) == count["waiting"]
        assert stats.running == len(self.running) == count["running"]
        for end in ENDS:
            assert getattr(stats, end) == count[end], end

    @invariant()
    def tasks(self) -> None:
        for call in getattr(self, "calls", ()):
            task = call.task
            assert task is not None
            assert task.running() is (call.state == "running"), call
            assert task.cancelled() is (call.state in ("cancelled", "dropped", "coalesced")), call
            assert task.done() is (call.state in ENDS), call
            assert call.runs == (call.state in ("running", "succeeded", "failed")), call
            if call.state == "succeeded":
                assert task.result(timeout=0) == call.number
            if call.state == "failed":
                assert isinstance(task.exception(timeout=0), BoomError)

    @invariant()
    def each_failure_is_told_once(self) -> None:
        told = Counter(error.args[0] for _, error in getattr(self, "failures", ()))
        assert told == Counter(call.number for call in getattr(self, "calls", ()) if call.state == "failed")

    def teardown(self) -> None:
        self.draining = True
        for call in getattr(self, "running", ()):
            call.orders.put(None)
        self.registry.shutdown(wait=True)
        if not hasattr(self, "queue"):
            return
        stats = self.queue.stats()
        ended = sum(getattr(stats, end) for end in ENDS)
        assert (stats.waiting, stats.running) == (0, 0)
        assert stats.submitted == ended == len(self.calls)
        assert stats.succeeded + stats.failed == sum(call.runs for call in self.calls)


TestQueueModel = QueueMachine.TestCase
TestQueueModel.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
