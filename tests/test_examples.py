"""Every example runs as a script, ends by itself with its status and stderr, and shows what it claims."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PATIENCE = 110.0  # seconds after which an example counts as hung

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib: pip install -e '.[examples]'")


def run(script: Path, *arguments: str, status: int = 0, stderr: str = "", options: tuple[str, ...] = ("-X", "dev")) -> list[str]:
    """The lines that a script prints, after a check of its status and of stderr (a regular expression)."""
    # coverage would measure the script too, and slow it down: the examples are here for what they show
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ended = subprocess.run(
        [sys.executable, *options, str(script), *arguments],
        capture_output=True,
        encoding="utf-8",
        env=environment | {"PYTHONIOENCODING": "utf-8"},
        timeout=PATIENCE,
        check=False,
    )
    # matplotlib says so once on a machine where it has never run
    said = re.sub(r"Matplotlib is building the font cache.*\n", "", ended.stderr)
    assert re.fullmatch(stderr, said), said
    assert ended.returncode == status
    return ended.stdout.splitlines()


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", line)]


def test_every_example_has_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    helpers = {"plot_service.py", "plot_server.py"}  # gradient_descent.py runs both
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - helpers
    assert {script for script in scripts if f'"{script}"' not in tests} == set()


@pytest.mark.parametrize("example", ["web_mail.py", "telemetry_sdk.py"])
def test_small_examples_are_small(example: str) -> None:
    assert len((EXAMPLES / example).read_text(encoding="utf-8").splitlines()) <= 40


def test_old_faithful_is_whole_and_named() -> None:
    text = (EXAMPLES / "data" / "old_faithful.csv").read_text(encoding="utf-8")
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert 'package "datasets"' in "".join(comments)
    rows = list(csv.DictReader(text.splitlines()[len(comments) :]))
    # the sums, as R prints them for its `faithful`
    assert len(rows) == 272
    assert sum(float(row["eruptions"]) for row in rows) == pytest.approx(948.677)
    assert sum(int(row["waiting"]) for row in rows) == 19284


@needs_matplotlib
def test_gradient_descent(tmp_path: Path) -> None:
    picture = tmp_path / "fit.png"
    lines = run(EXAMPLES / "gradient_descent.py", "--steps", "20", "--picture", str(picture))
    check_picture(picture)

    title, _, *ways, speed_up, overhead = lines[:7]
    assert title == "1. A loop of 20 steps, plotted three ways (the last two: the quicker of two runs)"
    rows = {line[3:12].strip(): numbers(line) for line in ways}
    assert {way: row[-2:] for way, row in rows.items()} == {
        "blocking": [20, 20],
        "no plots": [0, 0],
        "offloaded": [20, 20],
    }
    loops = {way: row[0] for way, row in rows.items()}
    assert loops["blocking"] > max(20 * 0.06, loops["offloaded"])
    assert numbers(speed_up) == [pytest.approx(loops["blocking"] / loops["offloaded"], rel=0.1)]
    assert numbers(overhead) == [pytest.approx(loops["offloaded"] / loops["no plots"], rel=0.1)]

    title, without, snapshot = lines[7:10]
    assert title == "2. Weights that change in place while 4 plots wait"
    assert without.startswith("   no snapshot ")
    right, sent = numbers(without)
    assert sent == 4
    assert right < 4
    assert snapshot.startswith("   snapshot=True ")
    assert numbers(snapshot) == [4, 4]

    title, counts, newest, waited = lines[10:14]
    assert title == "3. A service slower than the loop, and the newest of 20 plots wanted: coalesce=True"
    submitted, shown, replaced = numbers(counts)
    assert submitted == 20 == shown + replaced
    assert replaced > 0
    assert newest == "   the last picture shows step 20, its own weights: True"
    assert waited == "   the loop waited 0.00 s for the service"

    assert lines[14:] == [f"The fit after step 20, with the data and the loss: {picture}"]


LOOPS = """
from gradient_descent import no_plot, send_plot, service, timed

with service:
    nothing, offloaded = [], []
    for _ in range(8):
        nothing.append(timed(no_plot, 15).loop)
        offloaded.append(timed(send_plot, 15).loop)
        if len(nothing) > 1 and min(offloaded) <= 1.15 * min(nothing):
            break
print(min(offloaded) / min(nothing), max(nothing) / min(nothing))
"""


@needs_matplotlib
def test_the_loop_of_gradient_descent_hardly_notices_its_plots(tmp_path: Path) -> None:
    """Other load slows a loop down by chance, so that the quickest of several are compared."""
    script = tmp_path / "loops.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(EXAMPLES)!r})\n{LOOPS}", encoding="utf-8")
    overhead, spread = (float(number) for number in run(script, options=())[0].split())  # development mode would slow the loops down
    if 1.15 < overhead < spread:
        pytest.skip(f"the machine is too busy to tell: loops without plots took 1 to {spread:.1f} times as long")
    assert overhead <= 1.15


def check_picture(path: Path) -> None:
    """The data and the fitted curve stand in the left part, the loss in the right one."""
    from PIL import Image

    with Image.open(path) as file:
        assert file.format == "PNG"
        image = file.convert("RGB")
    width, height = image.size
    assert (width, height) == (900, 400)
    left = colours(image.crop((80, 50, 510, 345)))
    right = colours(image.crop((590, 50, 880, 345)))
    assert reds(left) > 300
    assert blues(left) > 1_000
    assert reds(right) > 100
    assert blues(right) == 0


Colours = dict[tuple[int, int, int], int]


def colours(image: Any) -> Colours:
    """How many pixels there are of each colour of a PIL image."""
    return {colour: count for count, colour in image.getcolors(maxcolors=image.width * image.height)}


def reds(found: Colours) -> int:
    return sum(count for (red, green, blue), count in found.items() if red > 180 and green < 110 and blue < 130)


def blues(found: Colours) -> int:
    return sum(count for (red, _, blue), count in found.items() if blue > red + 30)


def test_web_mail() -> None:
    lines = run(EXAMPLES / "web_mail.py")
    names = ["ada", "grace", "barbara"]
    *answers, closed = lines[:4]
    assert [line.split(" s")[0].split(" was answered after ")[0] for line in answers] == names
    assert closed == "the server is closed; the mails that wait are sent before Python leaves"
    assert lines[4:] == [f"mail to {name}@example.org: Welcome!" for name in names]


def test_telemetry_sdk() -> None:
    assert run(EXAMPLES / "telemetry_sdk.py") == [
        *(f"report {number} is written" for number in range(3)),
        "the application's queues: reports",
        "the SDK's queues: events",
        "delivered: report 0 ordered, report 1 ordered, report 2 ordered",
    ]


def test_leaving_gracefully() -> None:
    main_is_over, report = run(EXAMPLES / "leaving_gracefully.py", status=3)
    assert re.fullmatch(r"main is over, \d+ uploads are not", main_is_over)
    assert report == "report: 10 uploads when it was sent"


def test_leaving_gracefully_when_an_upload_hangs() -> None:
    warning = r"WARNING offload: left \d+ offloaded calls? behind at exit .*'uploads'.*hang.*\n"
    lines = run(EXAMPLES / "leaving_gracefully.py", "--stuck", status=3, stderr=warning)
    assert lines[0].startswith("main is over")
