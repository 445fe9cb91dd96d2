"""Fit Old Faithful's eruptions by gradient descent, and send a plot of every step to a plotting service.

The service takes 60 ms for a picture. A loop that waits for each one spends most of its time waiting; the
same loop with an offloaded plot takes about as long as one that plots nothing. See the times on your machine,
in less than a minute:

    python examples/gradient_descent.py
"""

import argparse
import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from plot_service import PlotService

from offload import configure, flush, offload, queue

HERE = Path(__file__).parent
with (HERE / "data" / "old_faithful.csv").open(encoding="utf-8", newline="") as file:
    rows = csv.DictReader(line for line in file if not line.startswith("#"))
    # for each eruption, how long it lasted and how long it took until the next one began, in minutes
    points = [(float(row["eruptions"]), float(row["waiting"])) for row in rows]

service = PlotService(points, seconds=0.06)

configure("plots", workers=2)  # two requests to the service at a time; without this line, one


@offload(queue="plots", snapshot=True)  # snapshot: the loop goes on to change its lists in place
def send_plot(step: int, weights: list[float], losses: list[float]) -> None:
    """Have the service draw the fit of one step. Slow: it waits for the picture."""
    fit = [(x / 20, predict(weights, x / 20)) for x in range(30, 105)]
    service.plot({"step": step, "weights": weights, "fit": fit, "losses": losses})


def predict(weights: list[float], eruption: float) -> float:
    """The waiting time after an eruption: short or long, with a smooth step between the two."""
    low, rise, centre, steepness = weights
    return low + rise / (1 + math.exp(-steepness * (eruption - centre)))


def descend(plot: Callable[..., object], steps: int) -> list[list[float]]:
    """The training loop: at each step, two hundred updates and a plot. Returns the weights of each step."""
    weights = [70.0, 1.0, 3.0, 1.0]  # a nearly flat line at 70 minutes
    losses: list[float] = []
    history = []
    for step in range(1, steps + 1):
        for _ in range(200):
            loss, gradient = loss_and_gradient(weights)
            for i, slope in enumerate(gradient):
                weights[i] -= 0.0005 * slope
        losses.append(loss)
        history.append(weights.copy())
        plot(step, weights, losses)
    return history


def loss_and_gradient(weights: list[float]) -> tuple[float, list[float]]:
    """The mean squared error over all eruptions, and its derivative for each weight."""
    low, rise, centre, steepness = weights
    loss = by_low = by_rise = by_centre = by_steepness = 0.0
    for eruption, waiting in points:
        step = 1 / (1 + math.exp(-steepness * (eruption - centre)))
        error = low + rise * step - waiting
        bend = error * rise * step * (1 - step)
        loss += error * error
        by_low += error
        by_rise += error * step
        by_centre -= bend * steepness
        by_steepness += bend * (eruption - centre)
    scale = 2 / len(points)
    return loss / len(points), [scale * by_low, scale * by_rise, scale * by_centre, scale * by_steepness]


# ---- that was the job; what follows runs it in several ways and prints what a person wants to know ----


def no_plot(*_: object) -> None:
    """Plots nothing: for the loop to compare with."""


class Run(NamedTuple):
    """One run of the loop, in seconds: the shorter loop is the smaller run."""

    loop: float
    until_plotted: float
    received: int


def timed(plot: Callable[..., object], steps: int) -> Run:
    """Run the loop with this way to plot."""
    start = time.perf_counter()
    descend(plot, steps)
    loop = time.perf_counter() - start
    flush("plots")
    return Run(loop, time.perf_counter() - start, len(service.received()))


def three_ways(steps: int, picture: Path) -> None:
    """The same loop with plots that block, without any, and with offloaded ones."""
    print(f"1. A loop of {steps} steps, plotted three ways (the last two: the quicker of two runs)")
    print("               the loop took   all plots done after   steps sent   pictures received")

    def tell(way: str, sent: int, run: Run) -> None:
        seconds = f"{run.loop:13.2f} s {run.until_plotted:20.2f} s"
        print(f"   {way:9} {seconds} {sent:12} {run.received:19}", flush=True)

    blocking = timed(send_plot.call, steps)
    tell("blocking", steps, blocking)
    runs = [(timed(no_plot, steps), timed(send_plot, steps)) for _ in range(2)]
    nothing = min(run for run, _ in runs)
    offloaded = min(run for _, run in runs)
    tell("no plots", 0, nothing)
    tell("offloaded", steps, offloaded)
    picture.write_bytes(service.newest_picture())
    overhead = offloaded.loop / nothing.loop
    print(f"   speed-up of the loop: {blocking.loop / offloaded.loop:.1f} times")
    print(f"   the loop with offloaded plots takes {overhead:.2f} times the loop with no plots")


def changing_weights(steps: int) -> None:
    """The loop changes its weights in place: without a snapshot, a plot that waits shows a later step's."""
    print(f"2. Weights that change in place while {steps} plots wait")
    for way, plot in (("no snapshot", send_plot.using(snapshot=False)), ("snapshot=True", send_plot)):
        history = descend(plot, steps)
        flush("plots")
        received = service.received()
        right = sum(received.get(step) == weights for step, weights in enumerate(history, start=1))
        print(f"   {way:13}   {right:2} of {len(received)} pictures show their own step", flush=True)


def newest_only(steps: int) -> None:
    """A service slower than the loop, for who wants the newest step: the older waiting plot gives way."""
    print(f"3. A service slower than the loop, and the newest of {steps} plots wanted: coalesce=True")
    history = descend(send_plot.using(queue="newest", coalesce=True), steps)
    flush("newest")
    counts = queue("newest").stats()
    received = service.received()
    last = max(received)
    print(f"   {counts.submitted} sent = {counts.succeeded} shown + {counts.coalesced} replaced by newer")
    print(f"   the last picture shows step {last}, its own weights: {received[last] == history[last - 1]}")
    print(f"   the loop waited {counts.blocked_seconds:.2f} s for the service")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit Old Faithful's eruptions, and plot every step.")
    parser.add_argument("--steps", type=int, default=200, help="plotted steps of the loop (default: 200)")
    parser.add_argument("--picture", type=Path, default=HERE / "old_faithful.png", help="its path")
    arguments = parser.parse_args()
    with service:
        three_ways(arguments.steps, arguments.picture)
        changing_weights(max(1, arguments.steps // 5))
        newest_only(arguments.steps)
    print(f"The fit after step {arguments.steps}, with the data and the loss: {arguments.picture}")


if __name__ == "__main__":
    main()
