"""The benchmark runs from end to end in a tiny size. How fast anything is, no test says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "benchmarks" / "compare.py"
TIMEOUT = 120  # seconds, only to fail

# Peers that need nothing but the standard library and offload's own dependency: these never may be missing.
ALWAYS = {"offload", "floor (wrapt + SimpleQueue)", "queue.Queue task queue", "ThreadPoolExecutor"}


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def test_a_tiny_run_from_end_to_end(tmp_path):
    """One run for all that is looked at: it starts some dozens of processes."""
    chart, written = tmp_path / "chart.svg", tmp_path / "result.json"
    drawn = ["--chart", str(chart)] if importlib.util.find_spec("matplotlib") else []
    ran = compare("--rounds", "2", "--calls", "40", "--json", str(written), *drawn)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(written.read_text())
    every_row_has_a_sample_of_every_round(result["rows"])
    every_goal_gets_a_verdict_that_follows_from_its_figures(result["goals"], ran.stdout)
    what_a_peer_does_less_is_said_beside_it(result["rows"], ran.stdout)
    assert "<svg" in chart.read_text() if drawn else not chart.exists()


def every_row_has_a_sample_of_every_round(rows):
    assert set(rows["run"]["samples"]) >= ALWAYS
    assert set(rows) >= {"call", "tail", "crowd", "start", "start_tail", "memory", "depth_call", "depth_run"}
    assert set(rows) >= {"queues", "idle_threads", "import", "exit", "training"}
    counts = {(row, who): len(samples) for row in rows for who, samples in rows[row]["samples"].items()}
    assert counts == dict.fromkeys(counts, 2)


def every_goal_gets_a_verdict_that_follows_from_its_figures(goals, text):
    assert len(goals) >= 14
    for goal in goals:
        assert goal["met"] == (goal["value"] <= goal["limit"])
        assert goal["goal"] in text


def what_a_peer_does_less_is_said_beside_it(rows, text):
    less = text.split("what does less than offload")[1].split("\n\n")[0]
    for name in set(rows["run"]["samples"]) - {"offload"}:
        assert name in less


def test_a_size_that_makes_no_sense_is_refused():
    ran = compare("--rounds", "0")
    assert ran.returncode == 2
    assert "less than 1" in ran.stderr
