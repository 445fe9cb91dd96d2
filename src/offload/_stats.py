"""What a queue counts, as a user reads it."""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """One queue's counts at one moment. ``submitted`` is the sum of what became of the calls, at every moment.

    ``rejected`` calls (QueueFull, QueueClosed) were never accepted and are not in ``submitted``. ``workers`` is the number of
    worker threads alive, ``busy`` how many of them run a task now. All times are in seconds: ``blocked_seconds`` is what callers
    lost waiting for room, ``wait_seconds`` what tasks waited before they started, ``run_seconds`` what they ran.
    """

    submitted: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    dropped: int = 0
    coalesced: int = 0
    waiting: int = 0
    running: int = 0
    rejected: int = 0
    workers: int = 0
    busy: int = 0
    blocked_seconds: float = 0.0
    wait_seconds: float = 0.0
    wait_seconds_max: float = 0.0
    run_seconds: float = 0.0
    run_seconds_max: float = 0.0


QueueStats.__module__ = "offload"  # as users import it


class StatsTable(dict[str, QueueStats]):
    """The stats of several queues by name; ``str()`` of it is a table for people, and a notebook shows one of HTML."""

    def __str__(self) -> str:
        return aligned(self._rows())

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def _rows(self) -> list[list[str]]:
        names = [field.name for field in dataclasses.fields(QueueStats)]
        return [["queue", *names], *([name, *_cells(stats, names)] for name, stats in self.items())]


def _cells(stats: QueueStats, names: Iterable[str]) -> list[str]:
    values = (getattr(stats, name) for name in names)
    return [f"{value:.3f}" if isinstance(value, float) else str(value) for value in values]


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells as lines of columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def html_table(rows: list[list[str]]) -> str:
    """The same as a table of HTML, for notebooks."""
    from html import escape  # nobody else needs it

    head, *body = [[escape(cell) for cell in row] for row in rows]
    lines = [f"<tr><th>{row[0]}</th><td>{'</td><td>'.join(row[1:])}</td></tr>" for row in body]
    return f"<table><thead><tr><th>{'</th><th>'.join(head)}</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
