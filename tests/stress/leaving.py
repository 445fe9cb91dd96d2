"""Leave programs at random moments, by every way there is, and count what was lost, run twice, or hung.

    python tests/stress/leaving.py --rounds 10000 --seed 7

One round is one process. It makes random queues, calls offloaded functions from several threads (tasks that offload,
fail, sleep, start threads and fork among them), and leaves: by its end, sys.exit, an exception, Ctrl-C once or twice,
SIGTERM, SIGKILL, os._exit after a flush, at a deadline with stuck tasks. It may fork children on the way, which do
and leave likewise.

A ledger in shared memory outlives each process. It holds three bytes for each call: accepted (the call returned
its Task), started (how often a task began), cancelled (the Task says so at the very end: dropped by a full queue, or
abandoned by Ctrl-C or a deadline). So that afterwards

    lost         accepted, never started, and not cancelled (not asked of a process that SIGKILL ended)
    run twice    started more than once, in whatever process
    misreported  started although its Task is cancelled
    wrong end    another exit status than the way of leaving has, or anything on stderr where nothing belongs
    hung         the process, or a child of it, was there after 30 seconds

The rounds of one seed are the same rounds again, their timing is not. A round is repeated alone by `--only`.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import faulthandler
import itertools
import json
import logging
import mmap
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HANGS = 30.0  # seconds
OWN, BLOCK, CHILDREN = 2048, 256, 8  # calls of the process itself, of each child, and the most children
CALLS = OWN + BLOCK * CHILDREN
ACCEPTED, STARTED, CANCELLED = 0, CALLS, 2 * CALLS  # where each kind of byte begins


class Ledger:
    """Three bytes for each call, in memory that all processes of a round share."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 3 * CALLS)
        self._ids = iter(range(OWN))
        self._children = iter(range(CHILDREN))
        self._tasks: list[tuple[int, Any]] = []

    def clear(self) -> None:
        self._bytes[:] = bytes(3 * CALLS)

    def new_id(self) -> int | None:
        return next(self._ids, None)

    def new_child(self) -> int | None:
        return next(self._children, None)

    def become_child(self, number: int) -> None:
        start = OWN + number * BLOCK
        self._ids, self._children, self._tasks = iter(range(start, start + BLOCK)), iter(()), []

    def accepted(self, call: int, task: Any) -> None:
        self._tasks.append((call, task))
        self._bytes[ACCEPTED + call] = 1

    def started(self, call: int) -> None:
        self._bytes[STARTED + call] += 1

    def settle(self) -> None:
        """Note which Tasks are cancelled. Comes after offload's own exit hooks, as it is registered before them."""
        for call, task in list(self._tasks):
            if task.cancelled():
                self._bytes[CANCELLED + call] = 1

    def count(self, *, killed: bool) -> Counter[str]:
        data, found = self._bytes[:], Counter[str]()
        columns = data[ACCEPTED:STARTED], data[STARTED:CANCELLED], data[CANCELLED:]
        for call, (accepted, started, cancelled) in enumerate(zip(*columns, strict=True)):
            found["calls"] += accepted
            found["tasks run"] += bool(started)
            found["abandoned or dropped"] += cancelled
            found["run twice"] += started > 1
            found["misreported"] += bool(started and cancelled)
            excused = killed and call < OWN
            found["lost"] += bool(accepted and not started and not cancelled and not excused)
        return found


def settle() -> None:
    if ledger is not None:
        ledger.settle()


ledger: Ledger | None = None
atexit.register(settle)
threading._register_atexit(settle)  # type: ignore[attr-defined]  # multiprocessing's children run no inherited atexit

import offload

# --- What a process does -----------------------------------------------------------------------------------------

INTERRUPTED = {"ctrl-c", "ctrl-c twice", "sigterm"}
WAYS = {
    "end": 3,
    "sys.exit": 3,
    "exception": 2,
    "os._exit after flush": 2,
    "deadline": 1,
    "ctrl-c": 2,
    "ctrl-c twice": 1,
    "sigterm": 2,
    "sigkill": 3,
}
QUEUES = ["default", "plots", "mails", "late"]


@dataclass
class Plan:
    """The random choices of one round."""

    round: str
    way: str = ""
    status: int = 0
    fresh: bool = False
    moments: list[float] = field(default_factory=list)  # seconds between the signals

    def __post_init__(self) -> None:
        chance = self.chance("plan")
        self.way = chance.choices(list(WAYS), list(WAYS.values()))[0]
        self.status = chance.choice([1, 3, 77]) if self.way in ("sys.exit", "os._exit after flush") else 0
        self.fresh = chance.random() < 0.01
        self.moments = [chance.uniform(0, chance.choice([0.002, 0.01, 0.04])) for _ in range(2)]

    def chance(self, part: object) -> random.Random:
        return random.Random(f"{self.round}:{part}")

    @property
    def threads_may_outlive_main(self) -> bool:
        """An interrupted join of threads is CPython's: what they call after the last hook is nobody's."""
        return self.way not in INTERRUPTED

    @property
    def signals(self) -> list[int]:
        return {
            "ctrl-c": [signal.SIGINT],
            "ctrl-c twice": [signal.SIGINT, signal.SIGINT],
            "sigterm": [signal.SIGTERM],
            "sigkill": [signal.SIGKILL],
        }.get(self.way, [])


class Exits(SystemExit):
    """What a task raises; a call that runs in place raises it in its caller."""


class Interrupts(KeyboardInterrupt):
    """The same of the other kind."""


def off_main() -> bool:
    """Whether this task may stay for ever: it is on a worker thread."""
    return threading.current_thread().name.startswith("offload-")


class Load:
    """Calls of random kinds."""

    def __init__(self, plan: Plan, book: Ledger) -> None:
        self.plan, self.book = plan, book
        self.functions = [offload.offload(queue=name)(self.run) for name in QUEUES]
        self.coroutine = offload.offload(queue="async")(self.run_async)
        self.stuck = threading.Event()
        self.threads: list[threading.Thread] = []
        self.starts_threads = plan.threads_may_outlive_main

    def configure(self) -> None:
        chance = self.plan.chance("settings")
        for name in QUEUES:
            offload.configure(
                name,
                workers=chance.randint(1, 3),
                maxsize=10_000 if self.plan.way == "deadline" else chance.choice([1, 10, 10_000]),
                on_full=chance.choice(["block", "block", "raise", "drop_newest", "drop_oldest", "caller_runs"]),
                on_error=lambda _task, _error: None,
            )
        offload.configure("async", on_error=lambda _task, _error: None)
        if self.plan.way == "deadline":
            offload.configure_exit(timeout=0.05)
        # A Ctrl-C inside logging may leave logging's own lock held: it takes it once for each logger and level.
        for name, level in itertools.product([*QUEUES, "async"], [logging.WARNING, logging.ERROR]):
            logging.getLogger(f"offload.{name}").isEnabledFor(level)

    def call(self, chance: random.Random, depth: int = 0, first: int = 0) -> None:
        """One call, noted once it was accepted.

        A task calls its own queue and those behind it (from `first` on): tasks of two full queues that wait for
        room in each other would wait for ever, and rightly so.
        """
        call = self.book.new_id()
        if call is None:
            return
        seed = chance.getrandbits(32)
        with contextlib.suppress(offload.QueueFull, Exits, Interrupts):
            if chance.random() < 0.02:
                self.book.accepted(call, self.coroutine(call, seed, depth))
            else:
                index = chance.randrange(first, len(QUEUES))
                self.book.accepted(call, self.functions[index](call, seed, depth, index))

    def run(self, call: int, seed: int, depth: int, index: int) -> None:
        """One task."""
        self.book.started(call)
        chance = random.Random(seed)
        kind = chance.random()
        if kind < 0.25 and depth < 4:
            for _ in range(chance.randint(1, 3)):
                self.call(chance, depth + 1, index)
        elif kind < 0.4:
            time.sleep(chance.uniform(0, 0.002))
        elif kind < 0.45:
            raise chance.choice([ValueError, Exits, Interrupts])
        elif kind < 0.47 and self.starts_threads:
            thread = threading.Thread(target=self.call, args=(chance, depth + 1))
            thread.start()
            self.threads.append(thread)
        elif kind < 0.475 and self.plan.way != "deadline":
            self.fork_in_a_task(chance)
        elif kind < 0.5 and self.plan.way == "deadline" and off_main():
            self.stuck.wait()

    async def run_async(self, call: int, seed: int, depth: int) -> None:
        self.book.started(call)
        chance = random.Random(seed)
        if depth < 4:
            self.call(chance, depth + 1)

    def produce(self, part: object, *, most: int = 60) -> None:
        chance = self.plan.chance(part)
        for _ in range(chance.randint(0, most)):
            self.call(chance)
            if chance.random() < 0.05:
                time.sleep(chance.uniform(0, 0.003))

    def fork_in_a_task(self, chance: random.Random) -> None:
        """Such a child flushes by itself."""
        number = self.book.new_child()
        if number is None or threading.current_thread() is threading.main_thread():
            return
        if (child := os.fork()) == 0:
            self.book.become_child(number)
            self.starts_threads = False  # os._exit waits for none
            for _ in range(chance.randint(0, 10)):
                self.call(chance, depth=4)
            offload.flush()
            self.book.settle()
            os._exit(0)
        os.waitpid(child, 0)

    def fork(self) -> bool:
        """Make a child; True in it."""
        number = self.book.new_child()
        if number is None:
            return False
        # A Ctrl-C inside os.fork may stop the hooks of logging, which would then keep its lock.
        # A mask would not do: another thread may take the signal.
        late: list[int] = []
        handlers = {number: signal.signal(number, lambda got, _: late.append(got)) for number in (signal.SIGINT, signal.SIGTERM)}
        child = os.fork()
        for signal_number, handler in handlers.items():
            signal.signal(signal_number, handler)
        if child:
            for got in late:
                signal.raise_signal(got)
            return False
        if multiprocessing := sys.modules.get("multiprocessing.process"):
            multiprocessing._children.clear()  # type: ignore[attr-defined]  # os.fork leaves it the parent's
        self.book.become_child(number)
        self.produce(f"child {number}", most=30)
        return True

    def multiprocess(self) -> None:
        import multiprocessing

        number = self.book.new_child()
        if number is not None:
            multiprocessing.get_context("fork").Process(target=self.be_multiprocess, args=[number]).start()

    def be_multiprocess(self, number: int) -> None:
        self.book.become_child(number)
        self.produce(f"child {number}", most=30)


def subject(plan: Plan, book: Ledger, ready: int) -> None:
    """The program of one round; it leaves by returning or raising."""
    global ledger
    ledger = book
    logging.disable()
    signal.signal(signal.SIGUSR1, lambda *_: sys.stderr.write(f"process {os.getpid()}\n{offload.stats()}\n"))
    load = Load(plan, book)
    load.configure()
    if plan.way == "sigterm":
        offload.drain_on_signal()
    os.write(ready, b"!")
    os.close(ready)
    chance = plan.chance("main")
    if plan.threads_may_outlive_main:
        load.threads += [threading.Thread(target=load.produce, args=[n]) for n in range(chance.randint(0, 3))]
        for thread in list(load.threads):
            thread.start()
    if chance.random() < 0.3:
        atexit.register(load.produce, "atexit", most=5)
    for part in range(chance.randint(1, 3)):
        load.produce(f"main {part}")
        if chance.random() < 0.2 and load.fork():
            sys.exit(0)
        if chance.random() < 0.03 and plan.way not in ("deadline", *INTERRUPTED):
            load.multiprocess()
    leave(plan, load, book)


def leave(plan: Plan, load: Load, book: Ledger) -> None:
    if plan.way == "os._exit after flush":
        offload.flush()
        while load.threads:  # those that tasks have started make calls too
            load.threads.pop().join()
            offload.flush()
        book.settle()
        os._exit(plan.status)
    if plan.way == "exception":
        raise ValueError("boom")
    sys.exit(plan.status)


# --- Rounds ------------------------------------------------------------------------------------------------------


class Runner:
    """Makes rounds one after the other, in a process of its own that uses no queue itself."""

    def __init__(self, path: str, seed: str) -> None:
        self.path, self.seed, self.book = path, seed, Ledger(path)

    def round(self, number: int) -> Counter[str] | None:
        """What was found; None in the process of the round itself, which is to return at once."""
        plan = Plan(f"{self.seed}:{number}")
        self.book.clear()
        errors, into_errors = os.pipe()
        ready, into_ready = os.pipe()
        if plan.fresh:
            child = self.start_fresh(plan, into_errors, into_ready)
        elif (child := os.fork()) == 0:
            os.setpgid(0, 0)
            os.dup2(into_errors, 2)
            for pipe in errors, ready, into_errors:
                os.close(pipe)
            faulthandler.enable()
            subject(plan, Ledger(self.path), into_ready)
            return None
        os.close(into_errors)
        os.close(into_ready)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(child, child)
        found, said = self.watch(plan, child, errors, ready)
        if bad(found):
            sys.stderr.write(f"round {number} ({plan.way}): {dict(found)}\n{said[-20000:]}\n")
        return found

    def start_fresh(self, plan: Plan, errors: int, ready: int) -> int:
        """The same in a new interpreter."""
        options = ["-X", "dev", "-W", "ignore:This process:DeprecationWarning"]
        arguments = ["--subject", plan.round, self.path, str(ready)]
        command = [sys.executable, *options, __file__, *arguments]
        started = subprocess.Popen(command, stderr=errors, pass_fds=[ready], process_group=0)
        started.returncode = 0  # watched by its number
        return started.pid

    def watch(self, plan: Plan, child: int, errors: int, ready: int) -> tuple[Counter[str], str]:
        """Send the signals, wait for the end of the child and of its children, and look at what is left."""
        give_up = time.monotonic() + HANGS
        select.select([ready], [], [], HANGS)
        os.close(ready)
        for moment, signum in zip(plan.moments, plan.signals, strict=False):
            time.sleep(moment)
            os.kill(child, signum)
        said, hung = b"", False
        while True:
            if not select.select([errors], [], [], max(0.0, give_up - time.monotonic()))[0]:
                if hung:
                    break
                hung, give_up = True, time.monotonic() + 2
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGUSR1)  # shows the queues
                    time.sleep(0.5)
                    os.killpg(child, signal.SIGABRT)  # faulthandler shows the stacks
                continue
            data = os.read(errors, 65536)
            said += data
            if not data:
                break
        os.close(errors)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        text = said.decode(errors="replace")
        found = self.book.count(killed=hung or status == -signal.SIGKILL)
        found["hung"] = int(hung)
        found["wrong end"] = int(not hung and not ends_well(plan, status, text))
        found[plan.way] = found["rounds"] = 1
        return found, f"status {status}\n{text}"


def ends_well(plan: Plan, status: int, said: str) -> bool:
    if plan.way == "exception":
        return status == 1 and said.count("Traceback") == 1 and said.endswith("ValueError: boom\n")
    if plan.way in INTERRUPTED or plan.way == "sigkill":
        return "Fatal" not in said  # whether the signal came first is chance
    return status == plan.status and not said


def bad(found: Counter[str]) -> int:
    return sum(found[name] for name in ("lost", "run twice", "misreported", "wrong end", "hung"))


def rounds(options: argparse.Namespace) -> Iterator[int]:
    """The numbers of the rounds until the time or their number runs out."""
    if options.only is not None:
        yield options.only
        return
    until = time.monotonic() + options.seconds if options.seconds else float("inf")
    for number in itertools.count() if options.rounds is None else range(options.rounds):
        if time.monotonic() >= until:
            return
        yield number


def main() -> int:
    options = arguments()
    warnings.filterwarnings("ignore", "This process")
    if options.subject:
        plan, path, ready = options.subject
        faulthandler.enable()
        subject(Plan(plan), Ledger(path), int(ready))
        return 0
    print(f"seed {options.seed}, Python {sys.version.split()[0]}", flush=True)
    started = time.monotonic()
    directory = tempfile.mkdtemp()  # no context manager: the processes of the rounds leave through here too
    results, into_results = os.pipe()
    runners: list[int] = []
    for job in range(options.jobs):
        path = Path(directory, f"ledger-{job}")
        path.write_bytes(bytes(3 * CALLS))
        if (runner := os.fork()) == 0:
            return be_runner(Runner(str(path), options.seed), options, job, into_results)
        runners.append(runner)
    os.close(into_results)
    total = Counter[str]()
    with os.fdopen(results) as lines:
        for line in lines:
            total.update(json.loads(line))
            if total["rounds"] % 1000 == 0:
                print(f"{total['rounds']:,} rounds, {bad(total)} bad", flush=True)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(runner, 0)[1]) for runner in runners]
    shutil.rmtree(directory)
    seconds = time.monotonic() - started
    report(total, seconds)
    return int(bool(bad(total)) or any(statuses) or not total["rounds"])


def be_runner(runner: Runner, options: argparse.Namespace, job: int, results: int) -> int:
    for number in rounds(options):
        if number % options.jobs != job and options.only is None:
            continue
        if options.only is not None and job:
            break
        found = runner.round(number)
        if found is None:
            return 0
        os.write(results, (json.dumps(found) + "\n").encode())
    os._exit(0)


def report(total: Counter[str], seconds: float) -> None:
    ways = ", ".join(f"{way} {total[way]:,}" for way in WAYS)
    print(
        f"{total['rounds']:,} rounds in {seconds:.0f} s ({ways})\n"
        f"{total['calls']:,} calls accepted, {total['abandoned or dropped']:,} abandoned or dropped as told\n"
        f"{total['lost']} lost, {total['run twice']} run twice, {total['misreported']} misreported, "
        f"{total['wrong end']} wrong ends, {total['hung']} hung"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, help="how many (default: 1000, or as many as --seconds allow)")
    parser.add_argument("--seconds", type=float, help="for how long")
    parser.add_argument("--seed", default=str(random.randrange(10**6)), help="default: a random one, printed")
    parser.add_argument("--jobs", type=int, default=2, help="rounds at once")
    parser.add_argument("--only", type=int, help="the number of one round to repeat")
    parser.add_argument("--subject", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds is None and options.seconds is None:
        options.rounds = 1000
    return options


if __name__ == "__main__":
    sys.exit(main())
