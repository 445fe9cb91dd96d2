"""In a notebook: cells that are run again, the output of tasks, tables of queues, and a kernel that is shut down."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import WAIT, Gate

from offload import Queue, Registry

needs_jupyter = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ipykernel", "nbclient")),
    reason="needs ipykernel and nbclient: pip install -e '.[dev]'",
)

# In a process of its own: the client's event loop and sockets are no business of the test suite's.
EXECUTE = """
import json, sys
import nbformat
from nbclient import NotebookClient
cells = [nbformat.v4.new_code_cell(source) for source in json.load(sys.stdin)]
NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=40, kernel_name="python3").execute(cwd=sys.argv[1])
print(json.dumps([cell.outputs for cell in cells]))
"""

LISTEN = """
import json, sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3", startup_timeout=40)
sent, heard = [client.execute(source) for source in json.load(sys.stdin)], []
while len(heard) < int(sys.argv[1]):
    message = client.get_iopub_msg(timeout=40)
    if message["msg_type"] in ("stream", "error"):
        heard.append((sent.index(message["parent_header"]["msg_id"]), str(message["content"].get("text") or message["content"])))
client.stop_channels()
manager.shutdown_kernel()
print(json.dumps(heard))
"""


def python(code: str, cells: list[str], argument: object) -> Any:
    done = subprocess.run([sys.executable, "-c", code, str(argument)], input=json.dumps(cells), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def text(outputs: list[Any], name: str = "stdout") -> str:
    return "".join(each["text"] for each in outputs if each.get("name") == name)


DEFINE = """
import sys
from offload import configure, flush, offload, queues
configure("plots", workers=2, maxsize=50)

@offload(queue="plots")
def plot(number):
    print("plot", number)
    print("careful", number, file=sys.stderr)
    return number
"""


@needs_jupyter
def test_cells_that_are_run_again(tmp_path: Path) -> None:
    first, again, changed, call, table, awaited, late = python(
        EXECUTE,
        [
            DEFINE + "plot(1)\nflush()",
            DEFINE + "plot(2)\nflush()",
            DEFINE.replace("workers=2", "workers=3").replace('"plot"', '"new plot"'),
            "task = plot(3)\nflush('plots')\nqueues()['plots'].settings.workers",
            "queues()",
            "await plot(4)",
            "@offload(queue='late')\ndef write():\n    import time; time.sleep(0.3)\n"
            "    open('late.txt', 'w').close()\nfor _ in range(3): write()\nprint('left')",
        ],
        tmp_path,
    )
    assert [text(each) for each in (first, again, changed, call)] == ["plot 1\n", "plot 2\n", "", "new plot 3\n"]
    assert text(call, "stderr") == "careful 3\n"
    assert call[-1]["data"]["text/plain"] == "3"
    assert table[-1]["data"]["text/plain"].startswith("queue  workers  maxsize")
    assert "<tr><th>plots</th>" in table[-1]["data"]["text/html"]
    assert text(awaited) == "new plot 4\n"
    assert awaited[-1]["data"]["text/plain"] == "4"
    assert text(late) == "left\n"
    assert (tmp_path / "late.txt").exists(), "a kernel that is shut down drains"


@needs_jupyter
def test_what_a_task_prints_later_goes_to_the_cell_that_called_it() -> None:
    cells = [
        "import threading; from offload import offload; gate = threading.Event()\n"
        "@offload\ndef slow():\n    gate.wait(30); print('slow'); raise ValueError('it failed')\nslow()",
        "print('second'); gate.set()",
    ]
    heard = python(LISTEN, cells, 3)
    assert [cell for cell, words in heard if words == "second\n"] == [1]
    assert [cell for cell, words in heard if words == "slow\n"] == [0]
    (told,) = [words for _, words in heard if "it failed" in words]  # logged on the worker, outside of the caller's context
    assert "ValueError" in told


# --- tables


def test_queues_print_as_a_table(registry: Registry, gate: Callable[..., Gate]) -> None:
    assert repr(registry.queues()) == "no queues yet"
    assert registry.queues()._repr_html_() == "<p>no queues yet</p>"
    registry.configure("unbounded", workers=4, maxsize=None)
    held = gate("plots")
    registry.queue("plots").submit(int)
    lines = [line.split("  ") for line in repr(registry.queues()).splitlines()]
    head, *rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert head[:5] == ["queue", "workers", "maxsize", "waiting", "running"]
    assert [row[:5] for row in rows] == [
        ["unbounded", "0 of 4", "None", "0", "0"],
        ["plots", "1 of 1", "10000", "1", "1"],
    ]
    held.open()


def test_the_html_table_is_well_formed_and_escaped(registry: Registry) -> None:
    from xml.etree import ElementTree

    registry.queue("<b>&")
    table = ElementTree.fromstring(registry.queues()._repr_html_())
    (row,) = table.findall("tbody/tr")
    assert [cell.text for cell in row][:3] == ["<b>&", "0 of 1", "10000"]
    assert len(row) == len(table.findall("thead/tr/th"))
    stats = ElementTree.fromstring(registry.stats()._repr_html_())
    (row,) = stats.findall("tbody/tr")
    assert [cell.text for cell in row][:2] == ["<b>&", "0"]
    assert len(row) == len(stats.findall("thead/tr/th"))


def test_the_view_is_a_mapping_that_nobody_can_write_to(registry: Registry) -> None:
    view = registry.queues()
    assert not view
    plots = registry.queue("plots")
    assert (len(view), list(view), list(view.values()), view.get("mail"), "plots" in view) == (1, ["plots"], [plots], None, True)
    assert view == {"plots": plots}
    assert isinstance(view["plots"], Queue)
    for change in ("view['x'] = plots", "del view['plots']", "view.x = plots"):
        with pytest.raises((TypeError, AttributeError)):
            exec(change)
    for each in view:
        registry.queue(f"{each} and another")  # made while somebody goes through them
    assert re.match(r"queue +workers", str(view))
    registry.flush(timeout=WAIT)
