"""From a thread to processes to a cluster: the same decorated function, and one line of configuration changes.

How sure is it that a longer eruption of Old Faithful means a longer wait for the next? The bootstrap answers that by
brute force: draw the 272 eruptions anew, with repetition, fit a line, and do so thousands of times. That keeps a core
busy, and Python's threads share one core. See the times on your machine, in less than a minute:

    python examples/outgrow.py

Dask is tried if it is installed (pip install "offload[dask]").
"""

import argparse
import csv
import importlib.util
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from offload import configure, flush, offload

with (Path(__file__).parent / "data" / "old_faithful.csv").open(encoding="utf-8", newline="") as file:
    rows = csv.DictReader(line for line in file if not line.startswith("#"))
    # for each eruption, how long it lasted and how long it took until the next one began, in minutes
    eruptions = [(float(row["eruptions"]), float(row["waiting"])) for row in rows]

TASKS = 16


@offload(queue="cpu")
def slopes(seed: int, rounds: int) -> list[float]:
    """How many minutes longer one waits for each minute that the eruption lasted, by so many samples."""
    draw = random.Random(seed)
    return [slope(draw.choices(eruptions, k=len(eruptions))) for _ in range(rounds)]


def slope(sample: list[tuple[float, float]]) -> float:
    """The slope of the least-squares line."""
    mean_x = sum(x for x, _ in sample) / len(sample)
    mean_y = sum(y for _, y in sample) / len(sample)
    return sum((x - mean_x) * (y - mean_y) for x, y in sample) / sum((x - mean_x) ** 2 for x, _ in sample)


def on_threads(workers: int) -> None:
    """The everyday way."""
    configure("cpu", workers=workers, executor=None)


def on_processes(workers: int) -> None:
    """A process behind each worker."""
    configure("cpu", workers=workers, executor="processes")


def on_dask(workers: int) -> None:
    """A cluster: this one is on this machine; Client("tcp://scheduler:8786") is another's."""
    configure("cpu", workers=workers, executor=lambda: local_cluster(workers))


def local_cluster(workers: int) -> Any:
    """The executor of a Dask cluster, made at the first call. Python takes the cluster down when it leaves."""
    from distributed import Client, LocalCluster  # it may not be installed

    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs="ERROR")
    return Client(cluster).get_executor()


# ---- that was the job; what follows runs it in each way and prints what a person wants to know ----


class Run(NamedTuple):
    """One way to run it: seconds until all workers were up, seconds for the quicker of two runs, and what came out."""

    start: float
    work: float
    result: list[float]


def timed(use: Callable[[int], None], workers: int, rounds: int) -> Run:
    """Configure the queue, wait until its workers are up, and do the work."""
    began = time.perf_counter()
    use(workers)
    for task in [slopes(0, 1) for _ in range(workers)]:
        task.result()
    started = time.perf_counter()
    works = []
    for _ in range(2):
        before = time.perf_counter()
        tasks = [slopes(seed, rounds // TASKS) for seed in range(TASKS)]
        flush("cpu")
        works.append(time.perf_counter() - before)
    return Run(started - began, min(works), [value for task in tasks for value in task.result()])


def in_this_thread(rounds: int) -> Run:
    """The work without any help, to compare with."""
    works = []
    for _ in range(2):
        before = time.perf_counter()
        result = [value for seed in range(TASKS) for value in slopes.call(seed, rounds // TASKS)]
        works.append(time.perf_counter() - before)
    return Run(0.0, min(works), result)


def advice(runs: dict[str, Run], cores: int) -> str:
    """One line for who has to choose."""
    best = min(runs, key=lambda way: runs[way].work)
    gain = runs["this thread"].work / runs[best].work
    if gain < 1.2:
        return f"Advice: {cores} cores gave nothing here (others may use them); stay with threads"
    if best == "threads":
        if getattr(sys, "_is_gil_enabled", lambda: True)():  # threads take turns on one core: the others were busy with something else meanwhile
            return "Advice: the machine was too busy to tell; run it again"
        return "Advice: this Python runs threads on all cores; stay with them"
    return (
        f'Advice: executor="processes" for work that computes; threads for work that waits. {cores} cores allow {cores} '
        f"times at best, {gain:.1f} came true; for more, point Dask at more machines"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="One CPU-bound function on threads, processes and Dask.")
    parser.add_argument("--rounds", type=int, default=20_000, help="samples to draw in all (default: 20000)")
    rounds = parser.parse_args().rounds
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(2, cores)

    print(f"{rounds} samples of 272 eruptions in {TASKS} calls, by {workers} workers on {cores} cores (the quicker of two runs)")
    print("                  start     work   times as fast")
    runs: dict[str, Run] = {}

    def tell(way: str, run: Run) -> None:
        runs[way] = run
        speed = runs["this thread"].work / run.work
        print(f"   {way:11} {run.start:7.2f} s {run.work:6.2f} s {speed:15.2f}", flush=True)

    tell("this thread", in_this_thread(rounds))
    tell("threads", timed(on_threads, workers, rounds))
    tell("processes", timed(on_processes, workers, rounds))
    if importlib.util.find_spec("distributed") is None:
        print('   Dask        is not installed: pip install "offload[dask]"')
    else:
        tell("Dask", timed(on_dask, workers, rounds))
        configure("cpu", executor=None)  # lets go of the cluster

    same = all(run.result == runs["this thread"].result for run in runs.values())
    ordered = sorted(runs["processes"].result)
    low, high = (ordered[int(len(ordered) * part)] for part in (0.025, 0.975))
    print(f"Every way gives the same numbers: {same}")
    print(f"A minute more of eruption: {low:.1f} to {high:.1f} minutes more to wait (95 in 100 samples)")
    print(advice(runs, cores))


if __name__ == "__main__":
    main()
