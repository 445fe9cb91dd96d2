"""Registries: each with queues, loggers, threads, variables and defaults of its own; one is the default."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import pytest
from conftest import WAIT, Gate

import offload
from offload import ConfigurationError, FlushTimeout, Queue, QueueClosed, QueueStats, Registry

MakeRegistry = Callable[..., Registry]


def fail() -> None:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("name", "logger", "thread"),
    [("", "offload.plots", "offload-plots-0"), ("sdk", "offload.sdk.plots", "offload-sdk-plots-0")],
)
def test_loggers_and_threads_carry_the_registrys_name(
    make_registry: MakeRegistry, caplog: pytest.LogCaptureFixture, name: str, logger: str, thread: str
) -> None:
    own = make_registry(name)
    assert own.queue("plots").submit(threading.current_thread).result(WAIT).name == thread
    own.queue("plots").submit(fail)
    own.flush(timeout=WAIT)
    assert [record.name for record in caplog.records] == [logger]


@pytest.mark.parametrize(("name", "thread"), [("", "offload-plots-loop"), ("sdk", "offload-sdk-plots-loop")])
def test_the_loops_thread_too(make_registry: MakeRegistry, name: str, thread: str) -> None:
    async def where() -> str:
        return threading.current_thread().name

    assert make_registry(name).offload(queue="plots")(where)().result(WAIT) == thread


def test_variables_reach_the_named_registry_alone(make_registry: MakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__PLOTS__WORKERS", "2")
    monkeypatch.setenv("OFFLOAD_SDK__QUEUES__PLOTS__WORKERS", "3")
    monkeypatch.setenv("OFFLOAD_SDK__QUEUES__PLOTS__MAXSIZE", "7")
    nameless, sdk, other = make_registry(), make_registry("sdk"), make_registry("other")
    assert [r.queue("plots").settings.workers for r in (nameless, sdk, other)] == [2, 3, 1]
    assert [r.queue("plots").settings.maxsize for r in (nameless, sdk, other)] == [10_000, 7, 10_000]


def test_a_bad_variable_is_a_problem_of_its_registry_alone(make_registry: MakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_SDK__QUEUES__PLOTS__WORKERS", "many")
    assert make_registry().queue("plots").settings.workers == 1
    with pytest.raises(ConfigurationError, match="many"):
        make_registry("sdk").queue("plots")


def test_queues_of_the_same_name_never_meet(make_registry: MakeRegistry) -> None:
    one, two = make_registry("one"), make_registry("two")
    assert one.queue("plots") is not two.queue("plots")
    one.configure("plots", workers=5)
    assert two.queue("plots").settings.workers == 1
    with Gate(one.queue("plots")) as held:
        two.queue("plots").submit(int).result(WAIT)
        two.flush(timeout=WAIT)
        with pytest.raises(FlushTimeout):
            one.flush(timeout=0)
        assert (one.stats()["plots"].running, two.stats()["plots"].running) == (1, 0)
        two.shutdown()
    assert held.task.result(WAIT) is None
    assert one.queue("plots").submit(int).result(WAIT) == 0
    with pytest.raises(QueueClosed):
        two.queue("plots").submit(int)


def test_even_registries_of_the_same_name_never_meet(make_registry: MakeRegistry) -> None:
    one, two = make_registry("sdk"), make_registry("sdk")
    one.queue("plots").submit(int).result(WAIT)
    assert dict(two.queues()) == {}


def test_defaults_are_those_of_all_its_queues(make_registry: MakeRegistry) -> None:
    seen: list[str] = []
    own = make_registry("sdk", workers=3, maxsize=5, on_error=lambda task, error: seen.append(task.queue))
    assert own.queue("plots").settings.workers == 3
    mail = own.configure("mail", workers=2)
    assert (mail.settings.workers, mail.settings.maxsize) == (2, 5)
    for name in ("plots", "mail"):
        own.queue(name).submit(fail)
        own.flush(timeout=WAIT)
    assert seen == ["plots", "mail"]


def test_variables_override_defaults(make_registry: MakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_SDK__QUEUES__PLOTS__WORKERS", "8")
    own = make_registry("sdk", workers=3)
    assert (own.queue("plots").settings.workers, own.queue("mail").settings.workers) == (8, 3)


@pytest.mark.parametrize("timeout", [None, 0, 3, 2.5])
def test_exit_timeout_takes_seconds_or_none(make_registry: MakeRegistry, timeout: float | None) -> None:
    make_registry("sdk", exit_timeout=timeout)


@pytest.mark.parametrize(
    ("values", "fragments"),
    [
        ({"workers": 0}, ["workers", "0"]),
        ({"wrokers": 2}, ["wrokers", "workers"]),
        ({"exit_timeout": "soon"}, ["exit_timeout", "soon", "seconds"]),
        ({"exit_timeout": -1}, ["exit_timeout", "-1", "seconds"]),
        ({"on_error": 3}, ["on_error", "3"]),
    ],
)
def test_bad_defaults_are_refused_where_they_are_given(values: dict[str, Any], fragments: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Registry("sdk", **values)
    for fragment in fragments:
        assert fragment in str(raised.value)


def test_a_method_for_each_function_of_the_module(registry: Registry) -> None:
    for name in "offload configure configure_from queue queues flush aflush stats shutdown".split():
        assert callable(getattr(registry, name))
        assert callable(getattr(offload, name))


def test_queues_is_a_read_only_view(registry: Registry) -> None:
    view = registry.queues()
    plots = registry.queue("plots")
    assert isinstance(view, Mapping)
    assert dict(view) == {"plots": plots}, "a view follows what it shows"
    assert isinstance(view["plots"], Queue)
    with pytest.raises(TypeError):
        view["mail"] = plots  # type: ignore[index]
    with pytest.raises(KeyError):
        view["mail"]
    assert list(registry.queues()) == ["plots"], "looking into the view creates nothing"


def test_stats_of_every_queue(registry: Registry) -> None:
    registry.queue("plots").submit(int).result(WAIT)
    registry.queue("mail")
    registry.flush(timeout=WAIT)
    stats = registry.stats()
    assert isinstance(stats, Mapping)
    assert set(stats) == {"plots", "mail"}
    assert all(isinstance(one, QueueStats) for one in stats.values())
    assert (stats["plots"].succeeded, stats["mail"].succeeded) == (1, 0)
    table = str(stats)
    assert "plots" in table
    assert "mail" in table
    assert "\n" in table


@pytest.mark.parametrize("method", ["queue", "configure"])
@pytest.mark.parametrize("name", [5, None])
def test_names_are_strings(registry: Registry, method: str, name: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        getattr(registry, method)(name)


def test_the_queue_of_no_name_is_default(registry: Registry) -> None:
    assert registry.queue() is registry.queue("default")
    assert registry.configure() is registry.queue("default")
    assert registry.offload(abs).queue is registry.queue("default")


def test_shutdown_closes_every_queue_and_ends_every_thread(registry: Registry, gate: Callable[[str], Gate]) -> None:
    before = set(threading.enumerate())
    tasks = [registry.queue(name).submit(int) for name in "abc"]
    registry.shutdown()
    assert all(task.done() for task in tasks)
    assert set(threading.enumerate()) == before
    for name in "abc":
        with pytest.raises(QueueClosed):
            registry.queue(name).submit(int)
    assert registry.configure("a").submit(int).result(WAIT) == 0


def test_shutdown_without_waiting_cancels_on_request(registry: Registry, gate: Callable[[str], Gate]) -> None:
    with gate("a"), gate("b"):
        waiting = [registry.queue(name).submit(int) for name in "ab"]
        registry.shutdown(wait=False, cancel_futures=True)
        assert [task.cancelled() for task in waiting] == [True, True]


def test_a_dropped_registry_drains_all_the_same(thread_guard: None) -> None:
    """An SDK object that makes its Registry and is thrown away must not lose its last calls."""
    ran = threading.Event()

    def go() -> Any:
        own = Registry("gone", idle_timeout=0.01)
        return own.queue("plots").submit(ran.set)

    task = go()
    assert ran.wait(WAIT)
    assert task.result(WAIT) is None


# --- the default registry


def test_the_modules_functions_are_of_one_registry(default_registry: ModuleType) -> None:
    plots = offload.configure("plots", workers=2)
    assert offload.queue("plots") is plots
    assert offload.queues()["plots"] is plots
    assert offload.offload(queue="plots")(abs)(-7).result(WAIT) == 7
    offload.flush("plots", timeout=WAIT)
    assert offload.stats()["plots"].succeeded == 1
    offload.configure_from({"queues": {"plots": {"workers": 3}}})
    assert plots.settings.workers == 3
    offload.shutdown()
    with pytest.raises(QueueClosed):
        plots.submit(int)


def test_the_default_registry_never_meets_another(default_registry: ModuleType, registry: Registry) -> None:
    assert offload.queue("plots") is not registry.queue("plots")
    registry.shutdown()
    assert offload.queue("plots").submit(int).result(WAIT) == 0
