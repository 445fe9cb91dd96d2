"""OpenTelemetry, by its API alone, with the extra ``otel``: spans of tasks and metrics of queues. Nothing happens until `instrument` is called.

A task's span lasts from the call to the task's end; its event ``offload.started`` stands between waiting and running. It is a child of the span
that was the caller's, to which it is linked as well, for it may outlive it. With the setting ``context`` (the default) it is the current span of the
task's code, so that the spans made there are its children. Its attributes are ``offload.queue``, ``offload.registry``, ``offload.caller``,
``offload.outcome`` and ``code.function.name``; never arguments. While instrumented, no call takes the fast path.

The metrics are those of the collector for Prometheus, with dots for underscores: ``offload.tasks``, ``offload.tasks.waiting``, ``offload.run`` ...
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from offload import _observing
from offload._api import Registry, default
from offload._measures import MEASURES, Measure, read, samples
from offload._task import Task

SCOPE = "offload"


def instrument(*registries: Registry, tracer_provider: Any = None, meter_provider: Any = None) -> Callable[[], None]:
    """Make spans of the calls, and metrics of the queues, of these registries: the default one if none is given.

    The providers are the global ones where None is given. Returns a function that ends it: calls from then on have no spans, and the metrics are
    empty. Does not block.
    """
    from opentelemetry import metrics, trace

    spans = Spans(registries or (default,), trace.get_tracer(SCOPE, tracer_provider=tracer_provider))
    meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
    for measure in MEASURES:
        create = meter.create_observable_counter if measure.grows else meter.create_observable_up_down_counter
        unit = measure.unit if measure.unit == "s" else f"{{{measure.unit}}}"
        create(f"offload.{measure.name.replace('_', '.')}", callbacks=[spans.observer_of(measure)], unit=unit, description=measure.about)
    _observing.add(spans)

    def uninstrument() -> None:
        _observing.remove(spans)
        spans.over = True

    return uninstrument


class Spans(_observing.Observer):
    """The spans of the tasks that have not ended."""

    def __init__(self, registries: tuple[Registry, ...], tracer: Any) -> None:
        from opentelemetry import context, trace

        self.over = False
        self._registries = registries
        self._tracer = tracer
        self._context = context
        self._trace = trace
        self._open: dict[Task[Any], Any] = {}

    def called(self, task: Task[Any]) -> None:
        """Start its span, and make it the current one of the task's context."""
        registry = self._registry_of(task)
        if registry is None or self._context.get_value("suppress_instrumentation"):
            return
        caller = self._trace.get_current_span().get_span_context()
        span = self._tracer.start_span(
            task.name,
            links=[self._trace.Link(caller)] if caller.is_valid else [],
            attributes={
                "offload.queue": task.queue,
                "offload.registry": registry._name,
                "offload.caller": task.caller,
                "code.function.name": task.name,
            },
        )
        if task._context is not None:
            task._context.run(self._make_current, span)
        if span.is_recording():
            self._open[task] = span
            task.add_done_callback(self._ended)

    def refused(self, task: Task[Any]) -> None:
        """End its span: there is no task."""
        self._end(task, "rejected", "not accepted")

    def observer_of(self, measure: Measure) -> Callable[[Any], Iterable[Any]]:
        """A callback that observes a measure."""
        from opentelemetry.metrics import Observation

        def observe(_: Any) -> Iterable[Any]:
            if self.over:
                return
            for sample in samples(measure, read(self._registries)):
                attributes = {"offload.queue": sample.queue, "offload.registry": sample.registry}
                yield Observation(sample.value, attributes | ({f"offload.{measure.label}": sample.kind} if measure.label else {}))

        return observe

    def _registry_of(self, task: Task[Any]) -> Registry | None:
        for registry in self._registries:
            queue = registry._queues.get(task.queue)
            if queue is not None and queue._core is task._owner:
                return registry
        return None

    def _make_current(self, span: Any) -> None:
        self._context.attach(self._trace.set_span_in_context(span))  # for good: nobody else runs in the task's context

    def _ended(self, task: Any) -> None:
        span = self._open[task]
        if task.cancelled():
            self._end(task, "cancelled", None)
            return
        span.add_event("offload.started", timestamp=time.time_ns() - int((time.monotonic() - task._since) * 1e9))
        error = task._exception
        if error is not None:
            span.record_exception(error)
        self._end(task, "succeeded" if error is None else "failed", None if error is None else type(error).__qualname__)

    def _end(self, task: Task[Any], outcome: str, wrong: str | None) -> None:
        span = self._open.pop(task, None)
        if span is not None:
            span.set_attribute("offload.outcome", outcome)
            if wrong is not None:
                span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, wrong))
            span.end()
