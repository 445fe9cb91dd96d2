"""A queue's counts, read at one moment."""

import time

from offload._core import Core
from offload._stats import QueueStats


def read(core: Core) -> QueueStats:
    """The counts of one queue. Also from a handler that interrupted a section: it reads what there is. Never waits but for the lock."""
    with core.monitor.lock:
        stats = _now(core)
    core.monitor.tidy()
    return stats


def _now(core: Core) -> QueueStats:
    waiting, now = len(core.line), time.monotonic()
    ended = core.succeeded + core.failed + core.cancelled + core.dropped + core.coalesced
    return QueueStats(
        submitted=ended + waiting + core.running,
        succeeded=core.succeeded,
        failed=core.failed,
        cancelled=core.cancelled,
        dropped=core.dropped,
        coalesced=core.coalesced,
        waiting=waiting,
        running=core.running,
        rejected=core.rejected,
        workers=core.crew.size,
        busy=sum(worker is not None and worker.busy for worker in core.crew.workers.values()),
        blocked_seconds=core.blocked_seconds + sum(now - ticket.since for ticket in core.blocked),
        wait_seconds=core.wait_seconds,
        wait_seconds_max=core.wait_seconds_max,
        run_seconds=core.run_seconds,
        run_seconds_max=core.run_seconds_max,
    )
