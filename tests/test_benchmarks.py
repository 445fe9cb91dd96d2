"""The benchmark runs from end to end in a tiny size. How fast anything is, no test says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "benchmarks" / "compare.py"
TIMEOUT = 120  # seconds, only to fail

# Peers that need nothing but the standard library and offload's own dependency: these never may be missing.
ALWAYS = {"offload", "floor (wrapt + SimpleQueue)", "queue.Queue task queue", "ThreadPoolExecutor"}


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    written = tmp_path_factory.mktemp("benchmark") / "result.json"
    ran = compare("--rounds", "2", "--calls", "40", "--json", str(written))
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, json.loads(written.read_text())


def test_every_row_has_a_sample_of_every_round(run):
    _, written = run
    rows = written["rows"]
    assert set(rows["run"]["samples"]) >= ALWAYS
    assert set(rows) >= {"call", "tail", "crowd", "start", "start_tail", "memory", "depth_call", "depth_run"}
    assert set(rows) >= {"queues", "idle_threads", "import", "exit", "training"}
    counts = {(row, who): len(samples) for row in rows for who, samples in rows[row]["samples"].items()}
    assert counts == dict.fromkeys(counts, 2)


def test_every_goal_gets_a_verdict_that_follows_from_its_figures(run):
    text, written = run
    assert len(written["goals"]) >= 14
    for goal in written["goals"]:
        assert goal["met"] == (goal["value"] <= goal["limit"])
        assert goal["goal"] in text


def test_what_a_peer_does_less_is_said_beside_it(run):
    text, written = run
    less = text.split("what does less than offload")[1].split("\n\n")[0]
    for name in set(written["rows"]["run"]["samples"]) - {"offload"}:
        assert name in less


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="the chart needs matplotlib")
def test_the_chart_is_drawn(tmp_path):
    chart = tmp_path / "chart.svg"
    ran = compare("--rounds", "1", "--calls", "20", "--chart", str(chart))
    assert ran.returncode == 0, ran.stderr
    assert "<svg" in chart.read_text()


def test_a_size_that_makes_no_sense_is_refused():
    ran = compare("--rounds", "0")
    assert ran.returncode == 2
    assert "less than 1" in ran.stderr
