"""Print the README's table: what becomes of tasks when a program leaves, for offload and for what it replaces.

    python tests/leaving_table.py

Every cell is a program that ran just now. One task runs as the program leaves, and three more wait behind it.
"""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from scenario import Hung, Program, program

PATIENCE = 10.0  # seconds after which a program hangs

TOOLS = {
    "offload": """
from offload import configure_exit, drain_on_signal, offload
def submit(function, *args):
    offload(function)(*args)
""",
    "ThreadPoolExecutor": """
import signal
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
submit = pool.submit
def configure_exit(timeout): pass
def drain_on_signal(): signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
""",
    "daemon thread": """
import queue, signal
calls = queue.Queue()
def work():
    while True:
        function, args = calls.get()
        function(*args)
threading.Thread(target=work, daemon=True).start()
def submit(function, *args):
    calls.put((function, args))
def configure_exit(timeout): pass
def drain_on_signal(): signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
""",
}

TASKS = """
say("up")

def running():
    leaving()
    time.sleep(0.1)  # as a real task does
    ran("running")

def late():
    time.sleep(0.1)
    ran("late")

def busy():
    submit(running)
    for _ in range(3):
        submit(ran, "waiting")
"""
READY = "busy()\nsay('ready')\nthreading.Event().wait()"


@dataclass
class Way:
    """A way of leaving: the program, what should run once, and the signal sent once the program says `ready`."""

    name: str
    code: str
    expected: dict[str, int] = field(default_factory=lambda: {"running": 1, "waiting": 3})
    signum: int | None = None


WAYS = [
    Way("the program's end", "busy()"),
    Way("`sys.exit(3)`", "busy()\nsys.exit(3)"),
    Way("an uncaught exception", "busy()\nraise ValueError('boom')"),
    Way("Ctrl-C in the main thread", READY, signum=signal.SIGINT),
    Way(
        "Ctrl-C while it waits for tasks",
        """
        def running():
            leaving()
            time.sleep(0.1)  # until the main thread stands in the wait
            say("ready")
            gate()
            ran("running")
        busy()
        """,
        signum=signal.SIGINT,
    ),
    Way(
        "a task adds a task meanwhile",
        """
        def parent():
            leaving()
            submit(late)
        submit(parent)
        """,
        {"late": 1},
    ),
    Way(
        "a task uses a thread pool meanwhile",
        """
        from concurrent.futures import ThreadPoolExecutor
        def parent():
            leaving()
            ThreadPoolExecutor(1).submit(late).result()
        submit(parent)
        """,
        {"late": 1},
    ),
    Way("an atexit handler adds a task", "import atexit\natexit.register(lambda: submit(late))", {"late": 1}),
    Way(
        "a thread that outlives main adds a task",
        """
        def outlive():
            threading.main_thread().join()
            submit(late)
        submit(ran, "early")
        threading.Thread(target=outlive).start()
        """,
        {"late": 1},
    ),
    Way(
        "a task is stuck; 1 s allowed",
        "configure_exit(timeout=1)\nsubmit(threading.Event().wait)\nsubmit(ran, 'waiting')",
        {"waiting": 1},
    ),
    Way(
        "a child of `os.fork` ends",
        """
        busy()
        child = os.fork()
        if child == 0:
            for _ in range(3):
                submit(ran, "child")
            sys.exit()
        status_of(child)
        """,
        {"running": 1, "waiting": 3, "child": 3},
    ),
    Way(
        "a `multiprocessing` child (fork) ends",
        """
        import multiprocessing
        def run_child():
            for _ in range(3):
                submit(ran, "child")
        busy()
        process = multiprocessing.get_context("fork").Process(target=run_child)
        process.start()
        process.join()
        """,
        {"running": 1, "waiting": 3, "child": 3},
    ),
    Way("SIGTERM, turned into `SystemExit`", "drain_on_signal()\n" + READY, signum=signal.SIGTERM),
    Way("SIGTERM, unhandled", READY, signum=signal.SIGTERM),
    Way("`os._exit`", "busy()\nos._exit(0)"),
    Way("SIGKILL", READY, signum=signal.SIGKILL),
]


def interrupt(running: Program, signum: int) -> None:
    try:
        running.until("ready")
    except Hung:
        raise
    except AssertionError:  # it has left already
        return
    running.send(signum)
    time.sleep(0.3)  # a program that lets go of its running task has done so by now
    running.open_gate()


def cell(way: Way, tool: str) -> str:
    """What became of the tasks."""
    options = ["-W", "ignore::DeprecationWarning"]
    with program(TOOLS[tool], TASKS, way.code, tasks=False, timeout=PATIENCE, options=options) as running:
        try:
            if way.signum is not None:
                interrupt(running, way.signum)
            left = running.left()
        except Hung:
            return "**hangs**"
        except BrokenPipeError:
            left = running.left()
    assert left.stdout.startswith("up\n"), left.stderr  # a tool that can't even be imported loses nothing
    return verdict(way.expected, left.ran, left.stderr)


def verdict(expected: dict[str, int], ran: object, stderr: str) -> str:
    assert isinstance(ran, dict)
    if any(ran.get(name, 0) > times for name, times in expected.items()):
        return "**run twice**"
    kept = {name: ran.get(name, 0) == times for name, times in expected.items()}
    if all(kept.values()):
        return "all run"
    fate = "left behind, named in a WARNING" if "behind at exit" in stderr else "lost"
    if not any(ran.get(name, 0) for name in expected):
        return fate
    names = {"running": "the running task", "waiting": "the waiting tasks", "child": "the child's tasks"}
    return " and ".join(names.get(name, name) for name, whole in kept.items() if not whole) + " " + fate


def main() -> None:
    print("| leaving by | " + " | ".join(TOOLS) + " |")
    print("|---" * (1 + len(TOOLS)) + "|")
    with ThreadPoolExecutor(4) as pool:
        rows = [(way.name, [pool.submit(cell, way, tool) for tool in TOOLS]) for way in WAYS]
        for name, cells in rows:
            print(f"| {name} | " + " | ".join(each.result() for each in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
