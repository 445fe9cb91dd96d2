"""What is measured, and how: each function takes one sample, in nanoseconds, bytes or threads.

- Every sample starts after a full collection, and the collector stays on, as it does in real use.
- Before the clock starts all workers are up and idle; it stops when the last call has run, not when it was
  handed over.
- The caller's context is empty, as in a plain script; offload copies it for each call all the same.
- No more than 10,000 calls wait at once (but for the growth rows, where offload too is unbounded), so that
  offload's default bound is in force and never blocks, and unbounded peers gain nothing by being unbounded.
"""

from __future__ import annotations

import gc
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import peers
import training
from peers import Call, Peer

now = time.perf_counter_ns
TIMEOUT = 60.0  # seconds: only ever reached when a peer has lost a call
Results = dict[str, dict[str, list[float]]]  # row → who → one sample for each round


@dataclass(frozen=True)
class Size:
    """How much of everything one run does."""

    rounds: int = 12
    calls: int = 4_000
    latencies: int = 100
    depths: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    queues: tuple[int, ...] = (1, 10, 100, 1_000)
    growth_rounds: int = 3
    training_rounds: int = 7
    steps: int = 250


QUICK = Size(rounds=5, calls=2_000, depths=(1_000, 10_000, 100_000), training_rounds=3, steps=100)


def empty() -> None:
    """The work of a call: none, so that only the way there is measured."""


def free_threaded() -> bool:
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


def percentile(samples: Sequence[float], share: float) -> float:
    return sorted(samples)[min(int(len(samples) * share), len(samples) - 1)]


def settle(peer: Peer) -> None:
    """Return when everything handed over has run: each worker meets this thread behind its last call."""
    meeting = threading.Barrier(peer.workers + 1)
    call = peer.bind(lambda: meeting.wait(TIMEOUT))
    for _ in range(peer.workers):
        call()
    meeting.wait(TIMEOUT)


@contextmanager
def opened(kind: Callable[[], Peer]) -> Iterator[Peer]:
    peer = kind()
    settle(peer)
    try:
        yield peer
    finally:
        peer.close()


@contextmanager
def held(*held_peers: Peer) -> Iterator[None]:
    """Keep every worker busy, so that whatever is called meanwhile waits; run it all on leaving."""
    gate = threading.Event()
    for peer in held_peers:
        meeting = threading.Barrier(peer.workers + 1)

        def hold(meeting: threading.Barrier = meeting) -> None:
            meeting.wait(TIMEOUT)
            gate.wait(TIMEOUT)

        call = peer.bind(hold)
        for _ in range(peer.workers):
            call()
        meeting.wait(TIMEOUT)
    gc.collect()
    try:
        yield
    finally:
        gate.set()
        for peer in held_peers:
            settle(peer)


def repeat(call: Call, times: int) -> None:
    for _ in itertools.repeat(None, times):
        call()


def call_and_run(peer: Peer, calls: int, callers: int = 1) -> float:
    """Nanoseconds for a call and its run, `callers` threads calling at once."""
    call = peer.bind(empty)
    repeat(call, 10)
    settle(peer)
    go = threading.Barrier(callers)

    def share() -> None:
        go.wait(TIMEOUT)
        repeat(call, calls // callers)

    others = [threading.Thread(target=share) for _ in range(callers - 1)]
    for thread in others:
        thread.start()
    gc.collect()
    while go.n_waiting < callers - 1:
        time.sleep(0.001)
    start = now()
    share()
    for thread in others:
        thread.join()
    settle(peer)
    return (now() - start) / calls


def call_alone(peer: Peer, calls: int) -> tuple[float, float]:
    """Nanoseconds of the caller while the worker is held: the mean, and p99.9 of calls timed one by one."""
    calls = min(calls, peer.capacity or calls)
    call = peer.bind(empty)
    with held(peer):
        start = now()
        repeat(call, calls)
        mean = (now() - start) / calls
    single = []
    with held(peer):
        for _ in itertools.repeat(None, calls):
            start = now()
            call()
            single.append(now() - start)
    return mean, percentile(single, 0.999)


def call_to_start(peer: Peer, samples: int) -> tuple[float, float]:
    """Nanoseconds from the call to the first line of its run, on an idle worker: p50 and p99."""
    ran = threading.Event()
    started = 0
    waits = []

    def note() -> None:
        nonlocal started
        started = now()
        ran.set()

    call = peer.bind(note)
    for _ in range(samples):
        ran.clear()
        time.sleep(0.001)  # the worker goes back to its wait; this is where time itself is tested
        called = now()
        call()
        ran.wait(TIMEOUT)
        waits.append(started - called)
    return percentile(waits, 0.5), percentile(waits, 0.99)


def memory(peer: Peer, calls: int) -> float:
    """Bytes that Python allocates for a call that waits."""
    call = peer.bind(empty)
    with held(peer):
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        repeat(call, calls)
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    return used / calls


def peer_round(kind: type[Peer], size: Size, add: Callable[[str, str, float], None]) -> None:
    """Every row of one peer, once."""
    with opened(kind) as peer:
        add("run", kind.name, call_and_run(peer, size.calls))
        mean, tail = call_alone(peer, size.calls)
        add("call", kind.name, mean)
        if kind.capacity is None:
            add("tail", kind.name, tail)
            add("memory", kind.name, memory(peer, min(size.calls, 1_000)))
        middle, slow = call_to_start(peer, size.latencies)
        add("start", kind.name, middle)
        add("start_tail", kind.name, slow)
    if kind.one_worker:
        return
    with opened(lambda: kind(4)) as peer:
        add("crowd", kind.name, call_and_run(peer, size.calls, callers=4))
        if free_threaded():
            add("one_caller", kind.name, call_and_run(peer, size.calls, callers=1))
            add("two_callers", kind.name, call_and_run(peer, size.calls, callers=2))


def peers_rows(size: Size, results: Results) -> None:
    """All peers, round by round, each round beginning with another one."""

    def add(row: str, who: str, sample: float) -> None:
        results[row][who].append(sample)

    for number in range(size.rounds):
        first = number % len(peers.PEERS)
        for kind in peers.PEERS[first:] + peers.PEERS[:first]:
            peer_round(kind, size, add)


def fill_and_drain(peer: Peer, depth: int) -> tuple[float, float]:
    """Nanoseconds for a call while an empty queue fills up to `depth`, and for a run while it drains."""
    call = peer.bind(empty)
    with ExitStack() as release:
        release.enter_context(held(peer))
        start = now()
        repeat(call, depth)
        filled = now()
        release.close()
    return (filled - start) / depth, (now() - filled) / depth


def depth_rows(size: Size, results: Results) -> None:
    """The cost of a call as the backlog grows; the floor beside it shows the interpreter's own part."""
    kinds: list[tuple[str, Callable[[], Peer]]] = [("floor", peers.Floor)]
    if peers.Offload.available:
        kinds.append(("offload", lambda: peers.Offload(maxsize=None)))
    for _ in range(size.growth_rounds):
        for depth in size.depths:
            for name, kind in kinds:
                with opened(kind) as peer:
                    times = max(1, size.depths[0] * 10 // depth)
                    samples = [fill_and_drain(peer, depth) for _ in range(times)]
                results["depth_call"][f"{name}, {depth:,} waiting"].append(statistics.median(s[0] for s in samples))
                results["depth_run"][f"{name}, {depth:,} waiting"].append(statistics.median(s[1] for s in samples))


def call_in_turn(many: Sequence[Peer], calls: int) -> float:
    """Nanoseconds of the caller for a call when calls go to many queues in turn, their workers held."""
    turns = list(itertools.islice(itertools.cycle([peer.bind(empty) for peer in many]), calls))
    samples = []
    with held(*many):
        for _ in range(5):
            start = now()
            for call in turns:
                call()
            samples.append((now() - start) / calls)
    return statistics.median(samples)


def idle_threads(before: int) -> int:
    """Wait until the idle threads have ended. Returns how many have not."""
    deadline = time.monotonic() + TIMEOUT
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)  # idle_timeout is running: this is where time itself is tested
    return threading.active_count() - before


def queues_rows(size: Size, results: Results) -> None:
    """The caller's part as calls go to ever more queues in turn, and the threads that idle queues keep."""
    if not peers.Offload.available:
        return
    others = threading.active_count()
    for _ in range(size.growth_rounds):
        for count in size.queues:
            floors: list[Peer] = [peers.Floor() for _ in range(count)]
            results["queues"][f"floor, {count:,} queues"].append(call_in_turn(floors, size.calls))
            for peer in floors:
                peer.close()
            threads = others + idle_threads(others)
            many: list[Peer] = [peers.Offload(name=f"queue{n}", maxsize=None, idle_timeout=0.05) for n in range(count)]
            unused = threading.active_count() - threads
            results["queues"][f"offload, {count:,} queues"].append(call_in_turn(many, size.calls))
            results["idle_threads"][f"offload, {count:,} queues"].append(unused + idle_threads(threads))
            for peer in many:
                peer.close()


BASE = "import wrapt, concurrent.futures.thread, logging"
TIMED_IMPORT = "import time; start = time.perf_counter_ns(); {}; print(time.perf_counter_ns() - start)"
PLAIN_EXIT = f"{BASE}\ndef work(): pass\nwork()\nimport time; print(time.perf_counter_ns())"
OFFLOAD_EXIT = f"{BASE}\nimport offload\n@offload.offload\ndef work(): pass\nwork()\noffload.flush()\n"
OFFLOAD_EXIT += "import time; print(time.perf_counter_ns())"
WRITES_BYTECODE = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def child(program: str, cache: str) -> tuple[int, int]:
    """Run a program in an interpreter of its own. Returns the number it prints, and when it had ended."""
    command = [sys.executable, "-X", f"pycache_prefix={cache}", "-c", program]
    ran = subprocess.run(command, capture_output=True, check=True, timeout=TIMEOUT, env=WRITES_BYTECODE)
    return int(ran.stdout), now()


def process_rows(size: Size, results: Results) -> None:
    """What offload adds to a program's start and end, in pairs of processes; compiling is not part of it."""
    if not peers.Offload.available:
        return
    imports = {"offload": "import offload", BASE.removeprefix("import "): BASE}
    exits = {"offload": OFFLOAD_EXIT, "without offload": PLAIN_EXIT}
    with tempfile.TemporaryDirectory() as cache:
        for program in exits.values():
            child(program, cache)
        for _ in range(size.rounds):
            for who, statement in imports.items():
                results["import"][who].append(child(TIMED_IMPORT.format(statement), cache)[0])
            for who, program in exits.items():
                last_line, end = child(program, cache)  # perf_counter is one clock for the whole machine
                results["exit"][who].append(end - last_line)


def training_rows(size: Size, results: Results) -> None:
    """A CPU-bound loop alone, and with plots that go out over the network from the background."""
    kinds = [kind for kind in (peers.Executor, peers.Offload) if kind.available]
    with training.server() as port:
        for _ in range(size.training_rounds):
            gc.collect()
            results["training"]["the loop alone"].append(training.train(size.steps) * 1e9)
            gc.collect()
            in_place = training.train(size.steps, lambda: training.upload(port))
            results["training"]["uploads in the loop"].append(in_place * 1e9)
            for kind in kinds:
                with opened(kind) as peer:
                    send = peer.bind(lambda: training.upload(port))
                    gc.collect()
                    results["training"][kind.name].append(training.train(size.steps, send) * 1e9)
                    settle(peer)


PARTS = (peers_rows, depth_rows, queues_rows, process_rows, training_rows)


def everything(size: Size, say: Callable[[str], None]) -> Results:
    """Take all samples of one run; `say` is told what is going on."""
    results: Results = defaultdict(lambda: defaultdict(list))
    for part in PARTS:
        start = time.monotonic()
        part(size, results)
        say(f"{part.__name__}: {time.monotonic() - start:.0f} s")
    return results
