"""What becomes of a call on a queue that is full: a pure function of plain values, tested as a table."""

import enum

from offload._settings import OnFull


class Verdict(enum.Enum):
    """What to do with a new call."""

    ACCEPT = enum.auto()
    BLOCK = enum.auto()
    RUN_HERE = enum.auto()
    REFUSE = enum.auto()
    DROP_NEWEST = enum.auto()
    DROP_OLDEST = enum.auto()


_WHEN_FULL = {
    "block": Verdict.BLOCK,
    "raise": Verdict.REFUSE,
    "drop_newest": Verdict.DROP_NEWEST,
    "drop_oldest": Verdict.DROP_OLDEST,
    "caller_runs": Verdict.RUN_HERE,
}


def decide(on_full: OnFull, *, waiting: int, maxsize: int | None, from_own_task: bool, inside_offload: bool) -> Verdict:
    """The verdict on one call.

    ``from_own_task``: the caller is a task of this very queue, so that waiting for room could be waiting for itself: it runs
    the call in place. ``inside_offload``: the caller interrupted offload on its own thread (a signal handler, a ``__del__``),
    so that waiting for room could be waiting for what it interrupted: it is accepted above ``maxsize``.
    """
    if maxsize is None or waiting < maxsize:
        return Verdict.ACCEPT
    verdict = _WHEN_FULL[on_full]
    if verdict is Verdict.BLOCK and inside_offload:
        return Verdict.ACCEPT
    if verdict is Verdict.BLOCK and from_own_task:
        return Verdict.RUN_HERE
    return verdict
