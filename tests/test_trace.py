"""`trace(path)` and OFFLOAD_TRACE: what the timeline says, that it costs nothing when off, and that a viewer can draw it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import WAIT, Gate

import offload
from offload import QueueFull, Registry, _monitor, _observing, trace
from offload._timeline import Call, chrome, lay_out, page

Event = dict[str, Any]


def written(path: Path) -> list[Event]:
    return json.loads(path.read_text(encoding="utf-8"))["traceEvents"]


def named(events: list[Event], kind: str) -> dict[tuple[int, int], str]:
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == kind}


def slices(events: list[Event], kind: str) -> list[Event]:
    """The calls or runs, each with the names of its thread and group."""
    threads, groups = named(events, "thread_name"), named(events, "process_name")
    return [e | {"thread": threads[e["pid"], e["tid"]], "group": groups[e["pid"], 0]} for e in events if e["ph"] == "X" and e["cat"] == kind]


def end(event: Event) -> float:
    return event["ts"] + event["dur"]


def ping(*_: object) -> str:
    return "pong"


def boom() -> None:
    raise ValueError("secret 4711")


def test_calls_waits_and_runs_by_queue_and_worker(registry: Registry, gate: Callable[..., Gate], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with trace(path):
        held = gate("plots")
        tasks = [registry.queue("plots").submit(ping, "secret 4711") for _ in range(3)]
        registry.queue("mails").submit(ping)
        held.open()
        registry.flush(timeout=WAIT)
    assert all(task.result(WAIT) == "pong" for task in tasks)

    events = written(path)
    runs = slices(events, "run")
    assert sorted((e["group"], e["thread"], e["name"].rpartition(".")[2]) for e in runs) == [
        ("queue mails", "offload-mails-0", "ping"),
        ("queue plots", "offload-plots-0", "_hold"),
        *[("queue plots", "offload-plots-0", "ping")] * 3,
    ]
    plots = sorted((e for e in runs if e["args"]["queue"] == "plots"), key=lambda e: e["ts"])
    for before, after in itertools.pairwise(plots):
        assert end(before) <= after["ts"] + 0.01, "one worker runs one task at a time"
    calls = slices(events, "call")
    assert {e["thread"] for e in calls} == {threading.current_thread().name}
    assert len(calls) == 5
    assert {e["args"]["outcome"] for e in calls + runs} == {"succeeded"}
    assert sum(e["args"]["caller"].startswith("test_trace.py:") for e in runs) == 4

    begun = {e["id"]: e for e in events if e["ph"] == "b"}
    over = {e["id"]: e for e in events if e["ph"] == "e"}
    assert begun.keys() == over.keys()
    assert all(begun[n]["ts"] <= over[n]["ts"] for n in begun)
    arrows = [{e["id"] for e in events if e["ph"] == kind} for kind in "sf"]
    assert arrows == [begun.keys(), begun.keys()]
    levels = [e["args"]["tasks"] for e in events if e["ph"] == "C" and e["pid"] == plots[0]["pid"]]
    assert max(levels) == 3
    assert levels[-1] == 0
    assert "4711" not in path.read_text(encoding="utf-8")


def test_every_outcome(registry: Registry, gate: Callable[..., Gate], tmp_path: Path) -> None:
    registry.configure("q", maxsize=1, on_full="raise", on_error=lambda *_: None)
    path = tmp_path / "trace.json"
    with trace(path):
        queue = registry.queue("q")
        held = gate("q")
        queue.submit(boom).cancel()
        queue.submit(boom)
        with pytest.raises(QueueFull):
            queue.submit(ping)
        held.open()
        queue.flush(WAIT)
    events = written(path)
    assert [e["args"]["outcome"] for e in sorted(slices(events, "call"), key=lambda e: e["ts"])] == [
        "succeeded",
        "cancelled",
        "failed: ValueError",
        "refused",
    ]
    assert sorted(e["args"]["outcome"] for e in slices(events, "run")) == ["failed: ValueError", "succeeded"]
    assert len([e for e in events if e["ph"] == "b"]) == 3, "a call that was refused never waited"
    assert "4711" not in path.read_text(encoding="utf-8")


def test_what_has_not_ended_is_drawn_as_far_as_it_came(registry: Registry, gate: Callable[..., Gate], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with trace(path):
        held = gate("q")
        waiting = registry.queue("q").submit(ping)
    assert not waiting.done()
    held.open()
    events = written(path)
    assert [e["args"]["outcome"] for e in slices(events, "run")] == ["running"]
    assert [e["args"]["outcome"] for e in events if e["ph"] == "b"] == ["running", "waiting"]


def test_a_call_whose_end_is_just_being_told_has_ended(registry: Registry, tmp_path: Path) -> None:
    """Its result is there for all to see, and the callback that records it has yet to run."""
    go_on = threading.Event()

    class Earlier(_observing.Observer):
        def called(self, task: Any) -> None:
            task.add_done_callback(lambda _: go_on.wait(WAIT))

    earlier, path = Earlier(), tmp_path / "trace.json"
    _observing.add(earlier)
    try:
        with trace(path):
            assert registry.queue("q").submit(ping).result(WAIT) == "pong"
    finally:
        _observing.remove(earlier)
        go_on.set()
    assert [(e["args"]["outcome"], e["thread"]) for e in slices(written(path), "run")] == [("succeeded", "offload-q (running)")]


def test_a_caller_that_has_not_gone_on_is_seen_in_its_call(registry: Registry, gate: Callable[..., Gate], tmp_path: Path) -> None:
    registry.configure("q", maxsize=1)
    path = tmp_path / "trace.json"
    with trace(path):
        held = gate("q")
        registry.queue("q").submit(ping)
        caller = threading.Thread(target=registry.queue("q").submit, args=(ping,), name="blocked one")
        caller.start()
        while not registry.queue("q")._core.blocked:
            caller.join(0.001)
    held.open()
    caller.join(WAIT)
    (call,) = [e for e in slices(written(path), "call") if e["thread"] == "blocked one"]
    assert call["args"]["outcome"] == "waiting"
    assert call["dur"] > 0


def test_a_blocked_caller_is_seen_to_wait(registry: Registry, gate: Callable[..., Gate], tmp_path: Path) -> None:
    registry.configure("q", maxsize=1)
    path = tmp_path / "trace.json"
    with trace(path):
        held = gate("q")
        registry.queue("q").submit(ping)
        caller = threading.Thread(target=registry.queue("q").submit, args=(ping,), name="blocked one")
        caller.start()
        while not registry.queue("q")._core.blocked:
            caller.join(0.001)
        held.open()
        caller.join(WAIT)
        registry.flush(timeout=WAIT)
    events = written(path)
    (hold,) = [e for e in slices(events, "run") if e["name"].endswith("_hold")]
    (call,) = [e for e in slices(events, "call") if e["thread"] == "blocked one"]
    assert call["ts"] < end(hold) <= end(call) + 1
    (arrow,) = [e for e in events if e["ph"] == "s" and (e["pid"], e["tid"]) == (call["pid"], call["tid"])]
    (wait,) = [e for e in events if e["ph"] == "b" and e["id"] == arrow["id"]]
    assert wait["ts"] > call["ts"], "waiting for room is its caller's wait, not its own"


def test_what_runs_in_place_stands_inside_its_call(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with trace(path), offload.testing.inline():
        registry.queue("q").submit(lambda: registry.queue("other").submit(ping))
    events = written(path)
    outer_run, inner_run = sorted(slices(events, "run"), key=lambda e: e["ts"])
    outer_call, inner_call = sorted(slices(events, "call"), key=lambda e: e["ts"])
    nested = [outer_call, outer_run, inner_call, inner_run]
    assert len({e["tid"] for e in nested}) == 1
    for outside, inside in itertools.pairwise(nested):
        assert outside["ts"] <= inside["ts"]
        assert end(inside) <= end(outside) + 0.01


def test_coroutines_that_run_at_once_stand_beside_each_other(registry: Registry, tmp_path: Path) -> None:
    async def meet(barrier: list[asyncio.Event]) -> None:
        barrier.append(asyncio.Event())
        if len(barrier) == 2:
            for each in barrier:
                each.set()
        await asyncio.wait_for(barrier[0].wait(), WAIT)

    registry.configure("web", workers=2)
    path, barrier = tmp_path / "trace.json", []
    with trace(path):
        for _ in range(2):
            registry.queue("web").submit(meet, barrier)
        registry.flush(timeout=WAIT)
    assert sorted(e["thread"] for e in slices(written(path), "run")) == [
        "offload-web-loop",
        "offload-web-loop (2)",
    ]


def test_registries_with_queues_of_one_name_stand_apart(make_registry: Callable[..., Registry], tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with trace(path):
        for registry in (make_registry("acme"), make_registry()):
            registry.queue("events").submit(ping).result(WAIT)
            registry.flush(timeout=WAIT)
    assert {e["group"] for e in slices(written(path), "run")} == {"queue acme-events", "queue events"}


def test_off_it_costs_nothing(registry: Registry, gate: Callable[..., Gate], tmp_path: Path) -> None:
    held = gate("q")
    queue = registry.queue("q")
    fast = queue._core.limit
    assert fast > 0
    with trace(tmp_path / "trace.json"):
        assert queue._core.limit == -1
        assert queue.submit(ping)._watched
    assert queue._core.limit == fast
    assert _monitor.current.observers == ()
    assert not queue.submit(ping)._watched
    held.open()


def test_traces_nest_and_a_failing_block_is_written_too(registry: Registry, tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer.json", tmp_path / "inner.json"
    with trace(str(outer)):
        with pytest.raises(KeyError), trace(inner):
            registry.queue("q").submit(ping)
            registry.flush(timeout=WAIT)
            raise KeyError
        registry.queue("q").submit(ping)
        registry.flush(timeout=WAIT)
    assert [len(slices(written(path), "run")) for path in (outer, inner)] == [2, 1]


def test_a_trace_keeps_no_task_alive(registry: Registry, tmp_path: Path) -> None:
    class Big:
        pass

    with trace(tmp_path / "trace.json"):
        import gc
        import weakref

        big = weakref.ref(registry.queue("q").submit(Big).result(WAIT))
        registry.flush(timeout=WAIT)
        registry.queue("q").submit(ping)  # a worker lets go of the last task when it takes the next
        registry.flush(timeout=WAIT)
        gc.collect()
        assert big() is None


def test_a_directory_that_is_not_there_is_refused_on_entering(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no directory '.*missing'"):
        with trace(tmp_path / "missing" / "trace.json"):
            pytest.fail("entered")
    assert _monitor.current.observers == ()


def test_nothing_is_left_beside_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "trace.json").mkdir()
    with pytest.raises(OSError, match="trace.json"):
        with trace(tmp_path / "trace.json"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


# --- the layout, without a thread


def call(start: float, stop: float, runner: str, *, name: str = "app.f", label: str = "offload-q") -> Call:
    made = Call(name, label, None, 0, (1, "MainThread"), start)
    made.returned, made.started, made.ended = start, start, stop
    made.runner, made.outcome = (2, runner), "succeeded"
    return made


def test_the_oldest_are_left_out_and_said_to_be() -> None:
    document = json.loads(chrome(lay_out("app.py", [call(0, 1, "offload-q-0")], 0.0, 2.0, 7)))
    assert document["otherData"] == {"program": "app.py", "calls": 1, "earlier calls left out": 7}


def test_threads_stand_in_their_natural_order() -> None:
    calls = [call(0, 1, f"offload-q-{number}") for number in (10, 9, 0)]
    timeline = lay_out("app.py", calls, 0.0, 2.0, 0)
    assert [track.name for track in timeline.groups[1].tracks] == ["offload-q-0", "offload-q-9", "offload-q-10"]


def test_a_queue_whose_name_begins_like_anothers_keeps_its_threads() -> None:
    calls = [call(0, 1, "offload-q-0"), call(0, 1, "offload-q-0-0", label="offload-q-0")]
    timeline = lay_out("app.py", calls, 0.0, 2.0, 0)
    assert {group.name: [track.name for track in group.tracks] for group in timeline.groups} == {
        "other threads": ["MainThread"],
        "q": ["offload-q-0"],
        "q-0": ["offload-q-0-0"],
    }


def data_of(html: bytes) -> Any:
    (data,) = re.findall(r"^const data = (.*);$", html.decode(), re.MULTILINE)
    return json.loads(data)


def test_the_page_stands_alone_and_no_name_breaks_out_of_it() -> None:
    html = page(lay_out("app.py", [call(0, 1, "offload-q-0", name="</script><b>")], 0.0, 2.0, 0))
    assert html.count(b"</script>") == 1
    assert not re.findall(rb"""(?:src|href)\s*=|url\(|https?:|import\(|fetch\(""", html)
    assert data_of(html)["names"] == ["</script><b>"]


def test_the_page_holds_the_same_timeline(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "trace.HTML"
    with trace(path):
        for _ in range(3):
            registry.queue("plots").submit(ping)
        registry.flush(timeout=WAIT)
    data = data_of(path.read_bytes())
    threads, plots = data["groups"]
    assert (threads["name"], plots["name"]) == ("other threads", "plots")
    assert [track["name"] for track in plots["tracks"]] == ["offload-plots-0"]
    assert [run for *_, run in plots["tracks"][0]["slices"]] == [1, 1, 1]
    assert len(plots["waits"]) == len(data["calls"]) == 3
    assert data["outcomes"] == ["succeeded"]


# --- a whole program


def run(code: str, tmp_path: Path, variable: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "app.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(script)],
        env=os.environ | {"OFFLOAD_TRACE": variable},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done


PROGRAM = """
import atexit, os, sys, time
from offload import offload, flush

@offload(queue="plots")
def plot(number): time.sleep(0.001)

def main():
    os.chdir("/")
    atexit.register(plot, 2)
    plot(0)
    plot(1)
"""


def test_the_variable_traces_a_program_to_its_very_end(tmp_path: Path) -> None:
    done = run(PROGRAM + "main(); sys.exit(3)", tmp_path, "trace.json", status=3)
    assert (done.stdout, done.stderr) == ("", "")
    runs = slices(written(tmp_path / "trace.json"), "run")
    assert [e["args"]["outcome"] for e in runs] == ["succeeded"] * 3


def test_the_variable_leaves_its_warning_where_nothing_can_be_written(tmp_path: Path) -> None:
    done = run(PROGRAM + "main()", tmp_path, "missing/trace.json")
    assert re.fullmatch(r"OFFLOAD_TRACE='.*trace\.json': no timeline could be written: .*\n", done.stderr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_writes_a_file_of_its_own(tmp_path: Path) -> None:
    code = """
plot(0)
flush()
child = os.fork()
if not child:
    plot(1); plot(2)
    sys.exit()
idle = os.fork()
if not idle:
    sys.exit()
assert os.waitpid(child, 0)[1] == 0 and os.waitpid(idle, 0)[1] == 0
print(child)
"""
    child = run(PROGRAM + code, tmp_path, "trace.json").stdout.strip()
    assert {path.name for path in tmp_path.glob("trace*")} == {"trace.json", f"trace.{child}.json"}
    assert len(slices(written(tmp_path / "trace.json"), "run")) == 1
    assert len(slices(written(tmp_path / f"trace.{child}.json"), "run")) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_that_offloads_nothing_writes_nothing(tmp_path: Path) -> None:
    code = """
from offload import trace
with trace("block.json"):
    plot(0)
    flush()
    child = os.fork()
if not child:
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
"""
    run(PROGRAM + code, tmp_path, "trace.json")
    assert {path.name for path in tmp_path.glob("*.json")} == {"trace.json", "block.json"}
    assert len(slices(written(tmp_path / "block.json"), "run")) == 1


def test_a_process_that_inherits_the_variable_writes_beside(tmp_path: Path) -> None:
    code = """
import subprocess
if "--child" in sys.argv:
    plot(0); plot(1)
else:
    subprocess.run([sys.executable, __file__, "--child"], check=True)
    plot(2)
"""
    run(PROGRAM + code, tmp_path, "trace.json")
    mine, *others = sorted(tmp_path.glob("trace*"), key=lambda path: len(path.name))
    assert [len(slices(written(path), "run")) for path in (mine, *others)] == [1, 2]
