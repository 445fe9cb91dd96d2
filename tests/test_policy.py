"""The verdict on a call, as a table: no queue, no thread."""

from __future__ import annotations

import itertools

import pytest

from offload._policy import Verdict, decide
from offload._settings import POLICIES

PLAIN = {"from_own_task": False, "inside_offload": False}
FROM_OWN_TASK = {"from_own_task": True, "inside_offload": False}
INSIDE_OFFLOAD = {"from_own_task": False, "inside_offload": True}
BOTH = {"from_own_task": True, "inside_offload": True}
CALLERS = {"plain": PLAIN, "own task": FROM_OWN_TASK, "inside offload": INSIDE_OFFLOAD, "both": BOTH}

WHEN_FULL = [
    # on_full, plain, from its own task, inside offload, both
    ("block", Verdict.BLOCK, Verdict.RUN_HERE, Verdict.ACCEPT, Verdict.ACCEPT),
    ("raise", Verdict.REFUSE, Verdict.REFUSE, Verdict.REFUSE, Verdict.REFUSE),
    ("drop_newest", Verdict.DROP_NEWEST, Verdict.DROP_NEWEST, Verdict.DROP_NEWEST, Verdict.DROP_NEWEST),
    ("drop_oldest", Verdict.DROP_OLDEST, Verdict.DROP_OLDEST, Verdict.DROP_OLDEST, Verdict.DROP_OLDEST),
    ("caller_runs", Verdict.RUN_HERE, Verdict.RUN_HERE, Verdict.RUN_HERE, Verdict.RUN_HERE),
]


@pytest.mark.parametrize(("on_full", "plain", "own", "inside", "both"), WHEN_FULL)
@pytest.mark.parametrize(("waiting", "maxsize"), [(1, 1), (10, 10), (11, 10), (1_000, 1)])
def test_full(on_full: str, plain: Verdict, own: Verdict, inside: Verdict, both: Verdict, waiting: int, maxsize: int) -> None:
    verdicts = [decide(on_full, waiting=waiting, maxsize=maxsize, **caller) for caller in CALLERS.values()]  # type: ignore[arg-type]

    assert verdicts == [plain, own, inside, both]


@pytest.mark.parametrize("on_full", POLICIES)
@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize(("waiting", "maxsize"), [(0, 1), (9, 10), (0, None), (10**9, None)])
def test_room(on_full: str, caller: str, waiting: int, maxsize: int | None) -> None:
    assert decide(on_full, waiting=waiting, maxsize=maxsize, **CALLERS[caller]) is Verdict.ACCEPT  # type: ignore[arg-type]


def test_the_table_has_every_policy() -> None:
    assert [row[0] for row in WHEN_FULL] == list(POLICIES)


def test_a_call_that_waiting_could_deadlock_never_blocks() -> None:
    for on_full, waiting, name in itertools.product(POLICIES, range(3), ("own task", "inside offload", "both")):
        assert decide(on_full, waiting=waiting, maxsize=1, **CALLERS[name]) is not Verdict.BLOCK  # type: ignore[arg-type]
