"""From samples to what people read: goals with their verdicts, tables, JSON and the chart."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers

Samples = Sequence[float]
Results = Mapping[str, Mapping[str, Samples]]


def figure(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


@dataclass(frozen=True)
class Row:
    """How a row is called and in which unit it is shown."""

    title: str
    unit: str
    per_unit: float = 1.0

    def show(self, samples: Samples) -> str:
        low, middle, high = (value / self.per_unit for value in quartiles(samples))
        return f"{figure(middle)} ({figure(low)}-{figure(high)})"


ROWS = {
    "run": Row("call + run", "µs", 1e3),
    "call": Row("call alone", "µs", 1e3),
    "tail": Row("call alone p99.9", "µs", 1e3),
    "crowd": Row("4 callers, 4 workers", "µs", 1e3),
    "start": Row("to start p50", "µs", 1e3),
    "start_tail": Row("to start p99", "µs", 1e3),
    "memory": Row("waiting call", "bytes"),
    "one_caller": Row("1 caller, 4 workers", "µs", 1e3),
    "two_callers": Row("2 callers, 4 workers", "µs", 1e3),
    "depth_call": Row("caller's part, queue filling up", "µs a call", 1e3),
    "depth_run": Row("run, queue draining", "µs a call", 1e3),
    "queues": Row("caller's part, queues in turn", "µs a call", 1e3),
    "idle_threads": Row("threads of unused and idle queues", "threads"),
    "import": Row("import", "ms", 1e6),
    "exit": Row("exit with nothing waiting", "ms", 1e6),
    "training": Row("training loop with plots going out", "s", 1e9),
}
PEER_ROWS = ("run", "call", "tail", "crowd", "start", "start_tail", "memory", "one_caller", "two_callers")


def quartiles(samples: Samples) -> tuple[float, float, float]:
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


@dataclass(frozen=True)
class Goal:
    """`row` of `of` is at most `times` that of `against`, or `plus` more; each pair is from one round."""

    row: str
    against: str
    times: float | None = None
    plus: float | None = None  # in the row's unit
    of: str = "offload"

    def values(self, results: Results) -> list[float]:
        """The ratio or difference in each round; empty when one side was not measured."""
        ours, theirs = (results.get(self.row, {}).get(who, ()) for who in (self.of, self.against))
        if self.times is not None:
            return [our / their for our, their in zip(ours, theirs, strict=False)]
        return [(our - their) / ROWS[self.row].per_unit for our, their in zip(ours, theirs, strict=False)]

    @property
    def limit(self) -> float:
        limit = self.times if self.times is not None else self.plus
        assert limit is not None
        return limit

    def describe(self) -> str:
        how = f"{self.times:.3g} ×" if self.times is not None else f"{self.plus:.3g} {ROWS[self.row].unit} +"
        who = "" if self.of == "offload" else f", {self.of}"
        return f"{ROWS[self.row].title}{who} <= {how} {self.against}"


def goals(results: Results) -> list[Goal]:
    executor, floor = peers.Executor.name, peers.Floor.name
    found = [
        Goal("run", executor, times=1 / 5),
        Goal("run", peers.QueueQueue.name, times=0.7),
        Goal("run", floor, times=2),
        Goal("call", executor, times=1 / 8),
        Goal("tail", executor, times=1),
        Goal("crowd", executor, times=1 / 4),
        Goal("start", executor, times=1),
        Goal("start_tail", executor, times=1),
        Goal("memory", executor, times=1 / 3),
    ]
    for row in ("depth_call", "depth_run", "queues"):
        first, *rest = [who for who in results.get(row, {}) if not who.startswith("floor")] or [""]
        found += [Goal(row, first, times=1.3, of=who) for who in rest]
    return [
        *found,
        *(Goal("idle_threads", "none", plus=0, of=who) for who in results.get("idle_threads", {}) if who != "none"),
        Goal("import", "wrapt, concurrent.futures.thread, logging", plus=5),
        Goal("exit", "without offload", plus=5),
        Goal("training", "the loop alone", times=1.05),
    ]


def two_callers(results: Results) -> list[tuple[str, list[float]]]:
    """On the free-threaded build: for each peer, a call with two callers against one with one."""
    ones, twos = results.get("one_caller", {}), results.get("two_callers", {})
    return [(who, [two / one for one, two in zip(ones[who], twos[who], strict=True)]) for who in ones]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    body = [list(map(str, line)) for line in lines]
    widths = [max(len(line[column]) for line in [list(head), *body]) for column in range(len(head))]
    ruled = [list(head), ["-" * width for width in widths], *body]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in ruled)


def verdicts(results: Results) -> list[dict[str, Any]]:
    """Each goal that could be measured: its limit, the median with its quartiles, and whether it is met."""
    measured = [(goal.describe(), goal.limit, goal.values(results)) for goal in goals(results)]
    measured += [("2 callers <= 1 × 1 caller (4 workers, no GIL)", 1.0, values) for who, values in two_callers(results) if who == peers.Offload.name]
    found: list[dict[str, Any]] = []
    for what, limit, values in measured:
        if values:
            low, middle, high = quartiles(values)
            found.append({"goal": what, "limit": limit, "value": middle, "q1": low, "q3": high, "met": middle <= limit})
    return found


def text(results: Results, about: Mapping[str, object]) -> str:
    """The whole report for a terminal."""
    shown = [row for row in PEER_ROWS if row in results]
    names = list(results["run"])
    head = ["", *(f"{ROWS[row].title}, {ROWS[row].unit}" for row in shown)]
    lines = [[name, *(ROWS[row].show(results[row][name]) if name in results[row] else "-" for row in shown)] for name in names]
    parts = ["\n".join(f"{key}: {value}" for key, value in about.items()), table(head, lines)]
    less = [[peer.name, peer.less] for peer in peers.PEERS if peer.less]
    parts.append(table(["what does less than offload", ""], less))
    others = [
        [ROWS[row].title, who, ROWS[row].show(samples), ROWS[row].unit]
        for row in ROWS
        if row not in PEER_ROWS
        for who, samples in results.get(row, {}).items()
    ]
    parts.append(table(["", "", "median (quartiles)", ""], others))
    judged = [
        [
            str(v["goal"]),
            f"{figure(v['value'])} ({figure(v['q1'])}-{figure(v['q3'])})",
            "met" if v["met"] else "NOT MET",
        ]
        for v in verdicts(results)
    ]
    if judged:
        parts.append(table(["goal", "measured (quartiles)", ""], judged))
    return "\n\n".join(parts)


def about_run(**more: object) -> dict[str, object]:
    """What a reader must know to compare this run with another."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    packages = [peer.package for peer in peers.PEERS if peer.package is not None]
    return {
        "python": platform.python_version() + ("" if gil else ", no GIL"),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "peers": ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages),
        **more,
    }


def write_json(path: Path, results: Results, about: Mapping[str, object]) -> None:
    rows = {
        row: {
            "title": ROWS[row].title,
            "unit": "ns" if ROWS[row].per_unit > 1 else ROWS[row].unit,
            "samples": results[row],
        }
        for row in results
    }
    path.write_text(json.dumps({"about": about, "rows": rows, "goals": verdicts(results)}, indent=1) + "\n")


def draw_chart(path: Path, results: Results, about: Mapping[str, object]) -> None:
    """Two bar charts side by side: what a call costs its caller, and what it costs in all."""
    import matplotlib  # here: heavy, optional, and not to be loaded while anything is measured

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = sorted(results["call"], key=lambda name: statistics.median(results["call"][name]), reverse=True)
    own, others = "#0b6e4f", "#52606d"
    with pyplot.rc_context({"font.size": 10}):
        size = (10.5, 0.36 * len(names) + 1.6)
        drawing, axes = pyplot.subplots(1, 2, figsize=size, sharex=True, sharey=True, layout="constrained")
        panels = (("call", "What a call costs its caller"), ("run", "The call and its run, one worker"))
        for axis, (row, title) in zip(axes, panels, strict=True):
            for place, name in enumerate(names):
                low, middle, high = (value / 1e3 for value in quartiles(results[row][name]))
                colour = own if name == peers.Offload.name else others
                weight = "bold" if name == peers.Offload.name else "normal"
                axis.hlines(place, low, high, color=colour, linewidth=3, alpha=0.4)
                axis.plot(middle, place, "o", color=colour)
                value = f"{middle:.1f}" if middle < 10 else f"{middle:.0f}"
                spot = {"textcoords": "offset points", "va": "center"}
                axis.annotate(value, (max(high, middle), place), (8, 0), color=colour, weight=weight, **spot)
            axis.set(xscale="log", xlabel="microseconds, log scale; less is better")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.margins(x=0.15, y=0.08)
            axis.set_title(title, loc="left", fontsize=11)
            axis.set_yticks(range(len(names)), names)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(axis="y", length=0)
            axis.grid(color="#e4e7eb")
            axis.set_axisbelow(True)
        about_it = f"Python {about['python']}, {about['system']}"
        note = f"{about_it}. Dots: medians of {about['rounds']} rounds; bars: quartiles."
        drawing.supxlabel(note, fontsize=8, color=others)
        undated = {"Date": None} if path.suffix == ".svg" else None
        drawing.savefig(path, dpi=150, facecolor="white", metadata=undated)
        pyplot.close(drawing)
