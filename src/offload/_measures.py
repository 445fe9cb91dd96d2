"""What monitoring systems are told of a queue: the measures, in the terms of none of them."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from offload._stats import QueueStats

OUTCOMES = ("succeeded", "failed", "cancelled", "dropped", "coalesced", "rejected")


class Measure(NamedTuple):
    """One measure of each queue: of one of the fields of `QueueStats`, or of several, told apart by a label."""

    name: str
    about: str
    unit: str
    """``"s"``, or what is counted."""
    grows: bool
    """Whether it only grows: a counter; else a gauge."""
    fields: tuple[str, ...]
    label: str = ""


MEASURES = (
    Measure("tasks", "Calls that came to their end, by what became of them", "task", True, OUTCOMES, "outcome"),
    Measure("tasks_waiting", "Tasks that wait", "task", False, ("waiting",)),
    Measure("tasks_running", "Tasks that run", "task", False, ("running",)),
    Measure("workers", "Worker threads alive", "thread", False, ("workers",)),
    Measure("workers_busy", "Worker threads that run a task", "thread", False, ("busy",)),
    Measure("wait", "Time that tasks waited before they started", "s", True, ("wait_seconds",)),
    Measure("run", "Time that tasks ran", "s", True, ("run_seconds",)),
    Measure("blocked", "Time that callers lost waiting for room", "s", True, ("blocked_seconds",)),
)


class Counted(Protocol):
    """What has stats of queues: a Registry."""

    @property
    def _name(self) -> str: ...

    def stats(self) -> Mapping[str, QueueStats]: ...


class Sample(NamedTuple):
    """One value of a measure."""

    registry: str
    queue: str
    kind: str
    """What its measure's label says, if it has one."""
    value: float


def samples(measure: Measure, stats: Mapping[str, Mapping[str, QueueStats]]) -> Iterator[Sample]:
    """The values of a measure in the stats of registries."""
    for registry, queues in stats.items():
        for queue, counts in queues.items():
            for field in measure.fields:
                yield Sample(registry, queue, field if measure.label else "", getattr(counts, field))


def read(registries: tuple[Counted, ...]) -> dict[str, Mapping[str, QueueStats]]:
    """The stats of registries, by name."""
    return {registry._name: registry.stats() for registry in registries}
