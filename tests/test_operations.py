"""For whoever operates a program: OpenTelemetry, Prometheus, an ASGI server that is stopped, and where a plain program's warnings go."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import WAIT, Gate

from offload import QueueFull, Registry, _monitor
from offload._otel import instrument
from offload._prometheus import QueueCollector, register

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def needs(*modules: str, extra: str) -> pytest.MarkDecorator:
    def missing(module: str) -> bool:
        with contextlib.suppress(ModuleNotFoundError):  # of the package that it is in
            return importlib.util.find_spec(module) is None
        return True

    return pytest.mark.skipif(any(map(missing, modules)), reason=f"needs {', '.join(modules)}: pip install -e '.[{extra}]'")


needs_otel = needs("opentelemetry", "opentelemetry.sdk", extra="dev")
needs_prometheus = needs("prometheus_client", extra="prometheus")
needs_uvicorn = needs("uvicorn", extra="dev")


def ping(*_: object) -> str:
    return "pong"


def boom() -> None:
    raise ValueError("it failed")


# --- OpenTelemetry


class Telemetry:
    """A tracer and a meter provider of a test's own, and what they were told."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._spans = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._metrics = InMemoryMetricReader()
        self.meters = MeterProvider([self._metrics], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("the application")

    def instrument(self, *registries: Registry) -> Callable[[], None]:
        return instrument(*registries, tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self, name: str = "") -> list[Any]:
        """Those that have ended, in the order of their start."""
        ended = [span for span in self._spans.get_finished_spans() if span.name.rpartition(".")[2] == name or not name]
        return sorted(ended, key=lambda span: span.start_time)

    def values(self, metric: str) -> dict[tuple[str, ...], float]:
        """By the values of the attributes."""
        data = self._metrics.get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for each in scope.metrics:
                    if each.name == metric:
                        found |= {tuple(point.attributes.values()): point.value for point in each.data.data_points}
        return found


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    own = Telemetry()
    yield own
    own.tracers.shutdown()
    own.meters.shutdown()


@pytest.fixture
def instrumented(telemetry: Telemetry, registry: Registry) -> Iterator[Telemetry]:
    uninstrument = telemetry.instrument(registry)
    yield telemetry
    uninstrument()


@needs_otel
def test_a_span_for_each_task_linked_to_the_callers(instrumented: Telemetry, registry: Registry, gate: Callable[..., Gate]) -> None:
    held = gate("plots")
    with instrumented.tracer.start_as_current_span("request") as request:
        registry.queue("plots").submit(ping, "secret 4711")
    held.open()
    registry.flush(timeout=WAIT)
    (span,) = instrumented.spans("ping")
    assert span.parent == request.get_span_context()
    assert [link.context for link in span.links] == [request.get_span_context()]
    attributes = dict(span.attributes)
    assert re.fullmatch(r"test_operations\.py:\d+", attributes.pop("offload.caller"))
    assert attributes == {
        "offload.queue": "plots",
        "offload.registry": "",
        "offload.outcome": "succeeded",
        "code.function.name": f"{__name__}.ping",
    }
    assert span.status.is_ok
    (started,) = span.events
    assert started.name == "offload.started"
    assert span.start_time <= started.timestamp <= span.end_time
    assert request.end_time < started.timestamp, "it has outlived its caller's"
    assert "4711" not in span.to_json()


@needs_otel
def test_spans_made_by_a_task_are_children_of_its_own(instrumented: Telemetry, registry: Registry) -> None:
    def work() -> None:
        with instrumented.tracer.start_as_current_span("inner"):
            registry.queue("mails").submit(ping)

    async def coroutine() -> None:
        with instrumented.tracer.start_as_current_span("inner of a coroutine"):
            pass

    registry.queue("plots").submit(work)
    registry.queue("web").submit(coroutine)
    registry.flush(timeout=WAIT)
    (outer,), (inner,), (mail,) = instrumented.spans("work"), instrumented.spans("inner"), instrumented.spans("ping")
    assert outer.parent is None
    assert not outer.links
    assert inner.parent == outer.get_span_context()
    assert mail.parent == inner.get_span_context()
    (outer,), (inner,) = instrumented.spans("coroutine"), instrumented.spans("inner of a coroutine")
    assert inner.parent == outer.get_span_context()


@needs_otel
def test_without_the_callers_context_a_task_has_its_span_all_the_same(instrumented: Telemetry, registry: Registry) -> None:
    registry.configure("plots", context=False)
    with instrumented.tracer.start_as_current_span("request") as request:
        registry.queue("plots").submit(ping)
    registry.flush(timeout=WAIT)
    (span,) = instrumented.spans("ping")
    assert span.parent == request.get_span_context()


@needs_otel
def test_spans_of_calls_that_came_to_no_good(instrumented: Telemetry, registry: Registry, gate: Callable[..., Gate]) -> None:
    registry.configure("q", maxsize=1, on_full="raise", on_error=lambda *_: None)
    held = gate("q")
    registry.queue("q").submit(ping).cancel()
    registry.queue("q").submit(boom)
    with pytest.raises(QueueFull):
        registry.queue("q").submit(ping)
    held.open()
    registry.flush(timeout=WAIT)
    _, cancelled, failed, refused = instrumented.spans()
    assert [span.attributes["offload.outcome"] for span in (cancelled, failed, refused)] == ["cancelled", "failed", "rejected"]
    assert [event.name for event in failed.events] == ["offload.started", "exception"]
    assert (failed.status.description, refused.status.description) == ("ValueError", "not accepted")
    assert [span.status.status_code.name for span in (cancelled, failed, refused)] == ["UNSET", "ERROR", "ERROR"]


@needs_otel
def test_metrics_of_the_queues(instrumented: Telemetry, registry: Registry, gate: Callable[..., Gate]) -> None:
    registry.configure("q", on_error=lambda *_: None)
    registry.queue("q").submit(boom).exception(WAIT)
    held = gate("q")
    registry.queue("q").submit(ping)
    tasks = instrumented.values("offload.tasks")
    assert tasks["q", "", "failed"] == 1
    assert sum(tasks.values()) == 1
    assert instrumented.values("offload.tasks.waiting") == {("q", ""): 1}
    assert instrumented.values("offload.tasks.running") == {("q", ""): 1}
    assert instrumented.values("offload.run")["q", ""] > 0
    held.open()
    registry.flush(timeout=WAIT)
    assert instrumented.values("offload.tasks")["q", "", "succeeded"] == 2


@needs_otel
def test_only_the_registries_that_were_asked_for_and_only_so_long(
    telemetry: Telemetry, registry: Registry, make_registry: Callable[..., Registry]
) -> None:
    acme = make_registry("acme")
    uninstrument = telemetry.instrument(acme)
    for each in (acme, registry):
        each.queue("q").submit(ping).result(WAIT)
    assert telemetry.values("offload.tasks.waiting") == {("q", "acme"): 0}
    uninstrument()
    acme.queue("q").submit(ping).result(WAIT)
    acme.flush(timeout=WAIT)
    assert [span.attributes["offload.registry"] for span in telemetry.spans("ping")] == ["acme"]
    assert telemetry.values("offload.tasks.waiting") == {}
    assert _monitor.current.observers == ()


@needs_otel
def test_an_exporter_that_suppresses_instrumentation_makes_no_spans(instrumented: Telemetry, registry: Registry) -> None:
    from opentelemetry import context

    token = context.attach(context.set_value("suppress_instrumentation", True))
    try:
        registry.queue("q").submit(ping).result(WAIT)
    finally:
        context.detach(token)
    registry.flush(timeout=WAIT)
    assert instrumented.spans() == []


@needs_otel
def test_with_the_api_alone_nothing_happens(registry: Registry) -> None:
    uninstrument = instrument(registry)
    assert registry.queue("q").submit(ping).result(WAIT) == "pong"
    uninstrument()


# --- Prometheus


@needs_prometheus
def test_a_collector_over_stats(make_registry: Callable[..., Registry], gate: Callable[..., Gate], registry: Registry) -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    acme = make_registry("acme")
    to = CollectorRegistry()
    collector = register(registry, acme, to=to)
    registry.configure("plots", on_error=lambda *_: None)
    registry.queue("plots").submit(boom).exception(WAIT)
    held = gate("plots")
    registry.queue("plots").submit(ping)
    acme.queue("events").submit(ping).result(WAIT)
    acme.flush(timeout=WAIT)

    def value(name: str, queue: str = "plots", own: str = "", **labels: str) -> float | None:
        return to.get_sample_value(f"offload_{name}", {"queue": queue, "registry": own, **labels})

    assert value("tasks_total", outcome="failed") == 1
    assert value("tasks_total", outcome="succeeded") == 0
    assert value("tasks_total", "events", "acme", outcome="succeeded") == 1
    assert value("tasks_total", "events", outcome="succeeded") is None
    assert (value("tasks_waiting"), value("tasks_running"), value("workers"), value("workers_busy")) == (1, 1, 1, 1)
    stats = registry.stats()["plots"]
    assert (value("wait_seconds_total"), value("run_seconds_total")) == (stats.wait_seconds, stats.run_seconds)
    assert value("blocked_seconds_total") == 0
    assert b"# TYPE offload_tasks_total counter" in generate_latest(to)
    held.open()

    with pytest.raises(ValueError, match="[Dd]uplicated"):
        register(registry, to=to)
    to.unregister(collector)
    assert generate_latest(to) == b""


@needs_prometheus
def test_the_default_registry_in_the_global_one(default_registry: Any) -> None:
    from prometheus_client import REGISTRY

    default_registry.queue("plots").submit(ping).result(WAIT)
    default_registry.flush(timeout=WAIT)
    collector = register()
    try:
        assert isinstance(collector, QueueCollector)
        labels = {"queue": "plots", "registry": "", "outcome": "succeeded"}
        assert REGISTRY.get_sample_value("offload_tasks_total", labels) == 1
    finally:
        REGISTRY.unregister(collector)


# --- servers and programs


@needs_uvicorn
@pytest.mark.skipif(sys.platform == "win32", reason="needs signals between processes")
def test_an_asgi_server_that_is_stopped_loses_nothing() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ended = subprocess.run([sys.executable, "-X", "dev", str(EXAMPLES / "asgi_app.py")], capture_output=True, text=True, env=environment, timeout=100)
    assert (ended.stderr, ended.returncode) == ("", 0)
    words, told, waiting, sent, over = ended.stdout.splitlines()
    assert words == "6 words"
    assert told.startswith("40 visitors were told 'welcome' after ")
    assert int(re.fullmatch(r"server: (\d+) mails wait", waiting)[1]) > 0  # type: ignore[index]
    assert sent == "server: 40 mails sent, 41 requests recorded"
    status = re.escape(str(-signal.SIGTERM))
    assert re.fullmatch(rf"the server has ended \(status ({status}|0)\); 40 of 40 mails were sent, each once: True", over)


def test_the_index_of_the_examples_names_each() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if path.name not in index] == []
    assert [link for link in re.findall(r"\]\(([^)]+)\)", index) if not (EXAMPLES / link).exists()] == []


def test_a_program_without_logging_shows_failures_and_warnings_on_stderr() -> None:
    code = """
    import logging, threading
    from offload import configure, flush, offload
    gate = threading.Event()
    configure("q", maxsize=1, on_full="drop_newest")
    @offload(queue="q")
    def boom(secret):
        gate.wait(30)
        raise ValueError("it failed")
    for _ in range(5):
        boom(4711)
    gate.set()
    flush()
    assert logging.getLogger().handlers == logging.getLogger("offload").handlers == logging.getLogger("offload.q").handlers == []
    """
    import textwrap

    ended = subprocess.run([sys.executable, "-X", "dev", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.returncode) == ("", 0)
    assert ended.stderr.count("queue 'q' dropped calls: it is full") == 1
    assert 1 <= ended.stderr.count("ValueError: it failed") <= 2
    assert "4711" not in ended.stderr
