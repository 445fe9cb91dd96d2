"""A storm on one queue, whose totals must come out: python tests/stress/totals.py [--seconds 5] [--seed 1]

Several threads call, cancel and wait at random, tasks call and wait in turn, one thread changes the settings
under them, one shuts the queue down and opens it anew, and one looks at the counts: they must always balance.
What the queues counted in the end must be what the callers saw. Prints its seed; status 1 is a wrong total.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import faulthandler
import logging
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from offload import Queue, QueueClosed, QueueFull, QueueStats, Registry, Task

POLICIES = ("block", "raise", "drop_newest", "drop_oldest", "caller_runs")
ENDS = ("succeeded", "failed", "cancelled", "dropped", "coalesced")
DRAIN = 60.0  # seconds, used only to fail


class BoomError(Exception):
    """What a failing task raises."""


class Tally:
    """Counts that any thread may add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()

    def add(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def read(self) -> collections.Counter[str]:
        with self._lock:
            return self._counts.copy()


class Storm:
    """The queue, those who use it, and what they saw."""

    def __init__(self, seed: int, seconds: float, threads: int) -> None:
        self.seed, self.threads = seed, threads
        self.end = time.monotonic() + seconds
        self.tally = Tally()
        self.wrong: list[str] = []
        self.closed: list[Queue] = []
        self.registry = Registry(on_error=self.failed, workers=2, maxsize=50)
        offload = self.registry.offload
        self.functions: list[Callable[[random.Random, int], Task[int]]] = [
            offload(queue="storm")(self.work),
            offload(queue="storm", coalesce=True)(self.work),
            offload(queue="storm", coalesce=lambda _dice, depth: depth, snapshot=lambda value: value)(self.work),
            offload(queue="storm")(self.async_work),
        ]

    # What runs.

    def failed(self, _task: Task[Any], _error: BaseException) -> None:
        self.tally.add("told")

    def work(self, dice: random.Random, depth: int) -> int:
        self.tally.add("ran")
        dice = random.Random(dice.random())
        if depth and dice.random() < 0.3:
            self.one_call(dice, depth - 1, wait=dice.random() < 0.5)
        return self.ending(dice)

    async def async_work(self, dice: random.Random, depth: int) -> int:
        self.tally.add("ran")
        dice = random.Random(dice.random())
        if depth and dice.random() < 0.3:
            task = self.one_call(dice, depth - 1, wait=False)
            if task is not None and dice.random() < 0.5:
                with contextlib.suppress(BoomError, concurrent.futures.CancelledError):
                    await task
        return self.ending(dice)

    def ending(self, dice: random.Random) -> int:
        if dice.random() < 0.1:
            self.tally.add("failed")
            raise BoomError
        return 1

    # Those who use it.

    def one_call(self, dice: random.Random, depth: int, *, wait: bool) -> Task[int] | None:
        try:
            task = dice.choice(self.functions)(random.Random(dice.random()), depth)
        except (QueueFull, QueueClosed):
            self.tally.add("rejected")
            return None
        self.tally.add("accepted")
        task.add_done_callback(self.done)
        if wait:
            with contextlib.suppress(BoomError, concurrent.futures.CancelledError):
                task.result(DRAIN)
        return task

    def done(self, task: concurrent.futures.Future[int]) -> None:
        self.tally.add("taken back" if task.cancelled() else "failed task" if task.exception() else "succeeded")

    def caller(self, dice: random.Random) -> None:
        recent: collections.deque[Task[int]] = collections.deque(maxlen=20)
        while time.monotonic() < self.end:
            task = self.one_call(dice, 3, wait=dice.random() < 0.01)
            if task is not None:
                recent.append(task)
            if recent and dice.random() < 0.1:
                dice.choice(recent).cancel()

    def settings(self, dice: random.Random) -> None:
        while time.monotonic() < self.end:
            setting = dice.choice(["workers", "maxsize", "on_full", "idle_timeout"])
            values: dict[str, list[Any]] = {
                "workers": [1, 2, 5],
                "maxsize": [1, 10, 100],
                "on_full": list(POLICIES),
                "idle_timeout": [0.0, 0.001, 1.0],
            }
            self.registry.configure("storm", **{setting: dice.choice(values[setting])})
            time.sleep(0.001)  # the storm would otherwise be one of settings

    def closer(self, dice: random.Random) -> None:
        while time.monotonic() + 0.2 < self.end:
            time.sleep(0.2)
            old = self.registry.queue("storm")
            old.shutdown(wait=dice.random() < 0.5, cancel_futures=dice.random() < 0.5)
            self.closed.append(old)
            self.registry.configure("storm", workers=2)

    def looker(self, _dice: random.Random) -> None:
        while time.monotonic() < self.end:
            for queue in [self.registry.queue("storm"), *self.closed[-2:]]:
                self.balance(queue.stats())
            time.sleep(0.0005)

    def balance(self, stats: QueueStats) -> None:
        ended = sum(getattr(stats, end) for end in ENDS)
        if stats.submitted != ended + stats.waiting + stats.running or min(stats.waiting, stats.running) < 0:
            self.wrong.append(f"out of balance: {stats}")

    # The whole.

    def guarded(self, role: Callable[[random.Random], None], dice: random.Random) -> None:
        try:
            role(dice)
        except BaseException as error:
            self.wrong.append(f"{role.__name__} died of {error!r}")

    def run(self) -> list[str]:
        roles = [*[self.caller] * self.threads, self.settings, self.closer, self.looker]
        threads = [
            # Daemons, so that one that hangs does not keep the program: the watchdog tells where it hangs.
            threading.Thread(target=self.guarded, args=(role, random.Random(self.seed * 1_000 + n)), daemon=True)
            for n, role in enumerate(roles)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        queues = [*self.closed, self.registry.queue("storm")]
        for queue in queues:
            queue.flush(timeout=DRAIN)
        self.registry.shutdown()
        return self.wrong + self.differences([queue.stats() for queue in queues])

    def differences(self, stats: list[QueueStats]) -> list[str]:
        def total(*names: str) -> int:
            return sum(getattr(one, name) for one in stats for name in names)

        for one in stats:
            self.balance(one)
        seen = self.tally.read()
        pairs = {
            "accepted": (seen["accepted"], total("submitted")),
            "rejected": (seen["rejected"], total("rejected")),
            "succeeded": (seen["succeeded"], total("succeeded")),
            "failed": (seen["failed"], total("failed")),
            "failed tasks": (seen["failed task"], total("failed")),
            "told to on_error": (seen["told"], total("failed")),
            "ran": (seen["ran"], total("succeeded", "failed")),
            "cancelled, dropped, coalesced": (seen["taken back"], total("cancelled", "dropped", "coalesced")),
            "waiting or running": (0, total("waiting", "running")),
        }
        for name, (callers, queues) in pairs.items():
            print(f"{name:32}{callers:10}{queues:10}")
        return [f"{name}: {pair[0]} seen, {pair[1]} counted" for name, pair in pairs.items() if pair[0] != pair[1]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--threads", type=int, default=6)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}, {options.seconds} seconds, {options.threads} callers, Python {sys.version.split()[0]}")
    logging.disable(logging.WARNING)  # that the queue is full is what this is about
    faulthandler.dump_traceback_later(options.seconds + DRAIN, exit=True)
    wrong = Storm(seed, options.seconds, options.threads).run()
    for line in wrong[:20]:
        print("WRONG:", line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
