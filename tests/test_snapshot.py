"""Values that change after the call: `snapshot` and `coalesce` (§5), on functions and methods."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from offload import Queue, QueueClosed, Registry, Task

WAIT = 10.0  # seconds, used only to fail

Hold = Callable[..., Any]


def drain(registry: Registry, held: Any) -> None:
    held.open()
    registry.flush(timeout=WAIT)


class Uncopyable:
    """What a deep copy must not reach."""

    def __deepcopy__(self, memo: object) -> Uncopyable:
        raise AssertionError("this was copied")


# snapshot


def test_without_a_snapshot_a_task_sees_what_became_of_its_argument(registry: Registry, gate: Hold) -> None:
    seen: list[list[int]] = []
    plot = registry.offload(queue="plots")(lambda xs: seen.append(list(xs)))
    held, weights = gate("plots"), [0]
    for step in range(3):
        weights[0] = step
        plot(weights)
    drain(registry, held)

    assert seen == [[2], [2], [2]]  # the reason for snapshot


def test_a_snapshot_is_taken_at_the_call(registry: Registry, gate: Hold) -> None:
    seen: list[tuple[list[int], dict[str, list[int]]]] = []

    @registry.offload(queue="plots", snapshot=True)
    def plot(weights: list[int], *, extra: dict[str, list[int]]) -> None:
        seen.append((weights, extra))

    held, weights, extra = gate("plots"), [0], {"bias": [0]}
    for step in range(3):
        weights[0] = extra["bias"][0] = step
        plot(weights, extra=extra)
    drain(registry, held)

    assert seen == [([step], {"bias": [step]}) for step in range(3)]


def test_numpy_arrays_updated_in_place(registry: Registry, gate: Hold) -> None:
    numpy = pytest.importorskip("numpy")
    seen: list[Any] = []
    deep = registry.offload(queue="plots", snapshot=True)(seen.append)
    chosen = registry.offload(queue="plots", snapshot=lambda value: value.copy() if isinstance(value, numpy.ndarray) else value)(seen.append)
    held, weights = gate("plots"), numpy.zeros(3)
    for step in range(3):
        weights += 1
        deep(weights)
        chosen(weights)
        assert step == weights[0] - 1
    drain(registry, held)

    assert [array.tolist() for array in seen] == [[n] * 3 for n in (1, 1, 2, 2, 3, 3)]


def test_one_memo_for_all_arguments(registry: Registry, gate: Hold) -> None:
    seen: list[tuple[Any, ...]] = []

    @registry.offload(queue="plots", snapshot=True)
    def plot(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    held, shared = gate("plots"), [1]
    plot(shared, [shared], same=shared, within={"deep": shared})
    drain(registry, held)

    ((first, nested), kwargs) = seen[0]
    assert first == shared
    assert first is not shared
    assert first is nested[0] is kwargs["same"] is kwargs["within"]["deep"]


def test_a_callable_is_applied_to_each_argument(registry: Registry, gate: Hold) -> None:
    seen: list[tuple[Any, ...]] = []

    @registry.offload(queue="plots", snapshot=lambda value: list(value) if isinstance(value, list) else value)
    def plot(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    held, xs, other = gate("plots"), [1, [2]], object()
    plot(xs, other, xs=xs, other=other)
    xs[1].append(3)  # type: ignore[attr-defined] # a shallow copy shares it
    xs.append(4)
    drain(registry, held)

    assert seen == [(([1, [2, 3]], other), {"xs": [1, [2, 3]], "other": other})]


def test_the_copy_is_made_on_the_calling_thread(registry: Registry) -> None:
    threads: list[threading.Thread] = []

    class Value:
        def __deepcopy__(self, memo: object) -> Value:
            threads.append(threading.current_thread())
            return self

    registry.offload(queue="plots", snapshot=True)(id)(Value()).result(WAIT)
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize("copy", [True, lambda value: [*value]], ids=["deepcopy", "callable"])
def test_self_and_cls_are_never_copied(registry: Registry, gate: Hold, copy: Any) -> None:
    seen: list[tuple[Any, list[int]]] = []
    decorator = registry.offload(queue="plots", snapshot=copy)

    class Meta(type):
        def __deepcopy__(cls, memo: object) -> Any:  # pragma: no cover - the failure
            raise AssertionError("the class was copied")

    class Plot(Uncopyable, metaclass=Meta):
        @decorator
        def method(self, xs: list[int]) -> None:
            seen.append((self, xs))

        @classmethod
        @decorator
        def class_inside(cls, xs: list[int]) -> None:
            seen.append((cls, xs))

        @decorator
        @classmethod
        def class_outside(cls, xs: list[int]) -> None:
            seen.append((cls, xs))

        @staticmethod
        @decorator
        def static_inside(xs: list[int]) -> None:
            seen.append((None, xs))

        @decorator
        @staticmethod
        def static_outside(xs: list[int]) -> None:
            seen.append((None, xs))

    plot, xs, held = Plot(), [1], gate("plots")
    plot.method(xs)
    Plot.method(plot, xs)
    for owner in (plot, Plot):
        for name in ("class_inside", "class_outside", "static_inside", "static_outside"):
            getattr(owner, name)(xs)
    xs.append(2)
    drain(registry, held)

    assert seen == [(plot, [1])] * 2 + [(Plot, [1]), (Plot, [1]), (None, [1]), (None, [1])] * 2


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda f, bad: f(bad), "first"),
        (lambda f, bad: f(1, bad), "second"),
        (lambda f, bad: f(1, second=[{"deep": bad}]), "second"),
        (lambda f, bad: f(1, named=bad), "named"),
    ],
)
def test_a_failing_copy_names_the_argument(registry: Registry, call: Any, name: str) -> None:
    ran: list[object] = []

    @registry.offload(queue="plots", snapshot=True)
    def draw(first: Any, second: Any = None, *, named: Any = None) -> None:
        ran.append((first, second, named))

    with pytest.raises(TypeError, match=rf"\b{name}\b") as caught:
        call(draw, threading.Lock())
    assert "draw" in str(caught.value)
    assert isinstance(caught.value.__cause__, TypeError)

    registry.flush(timeout=WAIT)
    assert ran == []
    assert (draw.queue.stats().submitted, draw.queue.stats().rejected) == (0, 0)


def test_a_failing_copy_in_a_method_names_the_argument(registry: Registry) -> None:
    class Plot:
        @registry.offload(queue="plots", snapshot=True)
        def draw(self, xs: Any, ys: Any) -> None: ...

    for call in (Plot().draw, lambda *args: Plot.draw(Plot(), *args)):
        with pytest.raises(TypeError, match=r"\bys\b"):
            call([1], threading.Lock())


def test_a_failing_snapshot_callable_names_the_argument(registry: Registry) -> None:
    error = ZeroDivisionError("from the callable")

    def refuse(value: object) -> object:
        if value == 0:
            raise error
        return value

    @registry.offload(queue="plots", snapshot=refuse)
    def draw(xs: int, ys: int) -> None: ...

    with pytest.raises(TypeError, match=r"\bys\b") as caught:
        draw(1, 0)
    assert caught.value.__cause__ is error
    assert draw.queue.stats().submitted == 0


def test_using_changes_the_snapshot_of_a_copy_alone(registry: Registry, gate: Hold) -> None:
    seen: list[list[int]] = []
    plain = registry.offload(queue="plots")(seen.append)
    copying = plain.using(snapshot=True)
    held, xs = gate("plots"), [1]
    plain(xs)
    copying(xs)
    xs.append(2)
    drain(registry, held)

    assert seen == [[1, 2], [1]]


def test_snapshot_and_coalesce_together(registry: Registry, gate: Hold) -> None:
    seen: list[list[int]] = []
    keyed_by: list[object] = []

    def key(xs: list[int]) -> str:
        keyed_by.append(xs)
        return "one"

    plot = registry.offload(queue="plots", snapshot=True, coalesce=key)(seen.append)
    held, weights = gate("plots"), [0]
    for step in range(5):
        weights[0] = step
        plot(weights)
    weights[0] = 99
    drain(registry, held)

    assert seen == [[4]]
    assert all(xs is weights for xs in keyed_by)  # the key is that of the call's own arguments


# coalesce


def counts(queue: Queue) -> tuple[int, int, int, int]:
    stats = queue.stats()
    return stats.submitted, stats.succeeded, stats.coalesced, stats.waiting


def test_the_newest_waiting_call_takes_the_place_of_the_older(registry: Registry, gate: Hold) -> None:
    ran: list[tuple[str, int]] = []
    plot = registry.offload(queue="plots", coalesce=True)(lambda n: ran.append(("plot", n)))
    other = registry.offload(queue="plots")(lambda n: ran.append(("other", n)))
    held = gate("plots")
    first, between, second, third = plot(1), other(1), plot(2), plot(3)

    assert [task.cancelled() for task in (first, second, third, between)] == [True, True, False, False]
    assert concurrent.futures.wait([first, second], timeout=0).not_done == set()
    assert counts(plot.queue) == (5, 0, 2, 2)  # with the gate
    drain(registry, held)
    assert ran == [("plot", 3), ("other", 1)]
    assert counts(plot.queue) == (5, 3, 2, 0)


def test_a_started_call_is_never_replaced(registry: Registry) -> None:
    entered, go = threading.Event(), threading.Event()
    ran: list[int] = []

    @registry.offload(queue="plots", coalesce=True)
    def plot(n: int) -> int:
        ran.append(n)
        entered.set()
        assert go.wait(WAIT)
        return n

    first = plot(1)
    assert entered.wait(WAIT)
    second, third = plot(2), plot(3)
    assert first.running()
    assert second.cancelled()
    go.set()
    assert (first.result(WAIT), third.result(WAIT)) == (1, 3)
    assert ran == [1, 3]


def test_a_cancelled_call_is_not_the_place_of_the_next(registry: Registry, gate: Hold) -> None:
    ran: list[object] = []
    plot = registry.offload(queue="plots", coalesce=True)(ran.append)
    other = registry.offload(queue="plots")(ran.append)
    held = gate("plots")
    old, replacing = plot("old"), plot("replacing")
    other("between")
    assert replacing.cancel()
    after = plot("after")
    drain(registry, held)

    assert old.cancelled()
    assert after.done()
    assert not after.cancelled()
    assert ran == ["between", "after"]
    stats = plot.queue.stats()
    assert (stats.submitted, stats.succeeded, stats.coalesced, stats.cancelled) == (5, 3, 1, 1)


def test_a_dropped_call_is_not_the_place_of_the_next(registry: Registry, gate: Hold) -> None:
    registry.configure("plots", maxsize=2, on_full="drop_oldest")
    ran: list[object] = []
    plot = registry.offload(queue="plots", coalesce=True)(ran.append)
    other = registry.offload(queue="plots")(ran.append)
    held = gate("plots")
    plot("old")
    other(1)
    other(2)  # drops the old one
    plot("new")  # and this drops 1
    drain(registry, held)

    assert ran == [2, "new"]
    stats = plot.queue.stats()
    assert (stats.dropped, stats.coalesced, stats.succeeded) == (2, 0, 3)


def test_a_call_after_the_last_has_run_is_new(registry: Registry) -> None:
    ran: list[int] = []
    plot = registry.offload(queue="plots", coalesce=True)(ran.append)
    for n in range(3):
        plot(n).result(WAIT)

    assert ran == [0, 1, 2]
    assert counts(plot.queue) == (3, 3, 0, 0)


@pytest.mark.parametrize("on_full", ["block", "raise", "drop_newest", "drop_oldest", "caller_runs"])
def test_a_replacing_call_needs_no_room(registry: Registry, gate: Hold, on_full: str) -> None:
    registry.configure("plots", maxsize=1, on_full=on_full)
    ran: list[int] = []
    plot = registry.offload(queue="plots", coalesce=True)(ran.append)
    held = gate("plots")
    for n in range(100):
        plot(n)
    assert counts(plot.queue) == (101, 0, 99, 1)
    drain(registry, held)

    assert ran == [99]
    assert (plot.queue.stats().dropped, plot.queue.stats().rejected) == (0, 0)


def test_a_key_function_keeps_the_newest_for_each_key(registry: Registry, gate: Hold) -> None:
    ran: list[tuple[int, int]] = []

    @registry.offload(queue="plots", coalesce=lambda run, *_, **__: run)
    def plot(run: int, step: int = 0) -> None:
        ran.append((run, step))

    held = gate("plots")
    for step in range(3_000):
        plot(step % 3, step=step)
    assert plot.queue.stats().waiting == 3  # bounded by its number of keys
    drain(registry, held)

    assert ran == [(0, 2_997), (1, 2_998), (2, 2_999)]
    assert counts(plot.queue) == (3_001, 4, 2_997, 0)


def test_functions_do_not_share_their_keys(registry: Registry, gate: Hold) -> None:
    ran: list[str] = []
    decorate = registry.offload(queue="plots", coalesce=lambda *_: "the same")
    plot, upload = decorate(lambda n: ran.append(f"plot {n}")), decorate(lambda n: ran.append(f"upload {n}"))
    bare = registry.offload(queue="plots", coalesce=True)(lambda n: ran.append(f"bare {n}"))
    held = gate("plots")
    for n in range(2):
        plot(n)
        upload(n)
        bare(n)
    drain(registry, held)

    assert ran == ["plot 1", "upload 1", "bare 1"]


def test_an_unhashable_key_is_a_type_error_in_the_caller(registry: Registry) -> None:
    ran: list[object] = []
    plot = registry.offload(queue="plots", coalesce=lambda xs: xs)(ran.append)
    with pytest.raises(TypeError, match="(?i)hash"):
        plot([1])
    plot((1,)).result(WAIT)

    assert ran == [(1,)]
    assert counts(plot.queue) == (1, 1, 0, 0)


def test_a_failing_key_function_raises_in_the_caller(registry: Registry) -> None:
    plot = registry.offload(queue="plots", coalesce=lambda xs: 1 // xs)(abs)
    with pytest.raises(ZeroDivisionError):
        plot(0)

    assert counts(plot.queue) == (0, 0, 0, 0)


@dataclasses.dataclass  # equal to its like, and unhashable
class Chart:
    title: str


def test_methods_coalesce_for_each_object(registry: Registry, gate: Hold) -> None:
    ran: list[tuple[int, int]] = []

    class Plot(Chart):
        @registry.offload(queue="plots", coalesce=True)
        def draw(self, n: int) -> None:
            ran.append((id(self), n))

        @registry.offload(queue="plots", coalesce=True)
        def save(self, n: int) -> None:
            ran.append((id(self), -n))

    one, two = Plot("loss"), Plot("loss")
    held = gate("plots")
    for n in (1, 2):
        one.draw(n)
        two.draw(n)
        Plot.draw(one, n + 10)
        two.save(n)
    drain(registry, held)

    assert ran == [(id(one), 12), (id(two), 2), (id(two), -2)]


def test_a_methods_key_function_gets_the_calls_own_arguments(registry: Registry, gate: Hold) -> None:
    ran: list[tuple[int, int, int]] = []

    class Plot(Chart):
        @registry.offload(queue="plots", coalesce=lambda run, *_, **__: run)
        def draw(self, run: int, *, step: int) -> None:
            ran.append((id(self), run, step))

    one, two = Plot("loss"), Plot("loss")
    held = gate("plots")
    for step in (1, 2):
        for run in (7, 8):
            one.draw(run, step=step)
        two.draw(7, step=step)
    drain(registry, held)

    assert ran == [(id(one), 7, 2), (id(one), 8, 2), (id(two), 7, 2)]


@pytest.mark.parametrize("order", ["inside", "outside"])
def test_class_methods_coalesce_for_each_class(registry: Registry, gate: Hold, order: str) -> None:
    ran: list[tuple[type, int]] = []
    decorator = registry.offload(queue="plots", coalesce=True)

    def draw(cls: type, n: int) -> None:
        ran.append((cls, n))

    method = classmethod(decorator(draw)) if order == "inside" else decorator(classmethod(draw))
    one = type("One", (), {"draw": method})
    two = type("Two", (one,), {})
    held = gate("plots")
    for n in (1, 2):
        one.draw(n)  # type: ignore[attr-defined]
        two.draw(n)  # type: ignore[attr-defined]
        one().draw(n + 10)  # type: ignore[attr-defined]
    drain(registry, held)

    assert ran == [(one, 12), (two, 2)]


def test_no_key_outlives_its_call(registry: Registry, gate: Hold) -> None:
    class Key:
        pass

    class Plot:
        @registry.offload(queue="plots", coalesce=lambda key: key)
        def draw(self, key: Key) -> None: ...

    held, plot, key, dropped = gate("plots"), Plot(), Key(), Key()
    plot.draw(key)
    task = plot.draw(dropped)
    task.cancel()
    gone = [weakref.ref(thing) for thing in (plot, key, dropped)]
    del plot, key, dropped, task
    drain(registry, held)
    registry.queue("plots").submit(int).result(WAIT)  # the worker has let go of the last one
    gc.collect()

    assert [ref() for ref in gone] == [None] * 3


def test_a_coalescing_call_on_a_closed_queue_replaces_nothing(registry: Registry, gate: Hold) -> None:
    ran: list[int] = []
    plot = registry.offload(queue="plots", coalesce=True)(ran.append)
    held = gate("plots")
    waiting = plot(1)
    registry.queue("plots").shutdown(wait=False)
    with pytest.raises(QueueClosed):
        plot(2)
    held.open()
    waiting.result(WAIT)

    assert ran == [1]


def test_a_coalesced_task_is_a_task(registry: Registry, gate: Hold) -> None:
    plot = registry.offload(queue="plots", coalesce=True)(abs)
    held = gate("plots")
    told: list[Task[int]] = []
    old = plot(1)
    old.add_done_callback(told.append)  # type: ignore[arg-type]
    new = plot(2)

    assert told == [old]
    with pytest.raises(concurrent.futures.CancelledError):
        old.result(timeout=0)
    assert old.cancelled()
    drain(registry, held)
    assert new.result(timeout=0) == 2
