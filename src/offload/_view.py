"""The queues of a registry as people look at them: a read-only mapping that prints as a table, in a notebook as one of HTML."""

from collections.abc import Iterator, Mapping
from typing import Any

from offload._queue import Queue
from offload._stats import aligned, html_table

COLUMNS = ("waiting", "running", "succeeded", "failed", "cancelled", "dropped", "coalesced", "rejected")


class QueuesView(Mapping[str, Queue]):
    """The queues that exist, by name. It follows what becomes of them; looking into it makes none."""

    __slots__ = ("_registry",)

    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def __getitem__(self, name: str) -> Queue:
        return self._registry._queues[name]  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._registry._queues))  # another thread's first use may make one meanwhile

    def __len__(self) -> int:
        return len(self._registry._queues)

    def __repr__(self) -> str:
        return aligned(self._rows()) if self else "no queues yet"

    def _repr_html_(self) -> str:
        return html_table(self._rows()) if self else "<p>no queues yet</p>"

    def _rows(self) -> list[list[str]]:
        rows = [["queue", "workers", "maxsize", *COLUMNS]]
        for name, queue in self.items():
            stats, settings = queue.stats(), queue.settings
            rows.append([name, f"{stats.workers} of {settings.workers}", str(settings.maxsize), *(str(getattr(stats, column)) for column in COLUMNS)])
        return rows
