"""Programs that leave, each in a process of its own, judged by all that shows from outside.

`run` starts a program under `-X dev` and answers with a `Left`: exit status, stdout, stderr and how often every task
ran, compared together in one `==`. Its defaults are the promise of a quiet exit: status 0, nothing printed.

The rules for the programs' texts:
- nothing sleeps to order things. `gate()` in the program waits for `Program.open_gate()` in the test, the
  test waits for a line of the program (`say` and `Program.until`), and a task that must outlast the program's main
  thread waits in `leaving()`, which looks at the interpreter's own state;
- every wait of the test has the one timeout below, used only to fail. A program that runs into it is aborted, and the
  failure shows the stacks of its threads;
- a run is counted in a file, so that a task counts in whichever process and phase it runs, with stdout closed or not.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TIMEOUT = 30.0  # seconds; reached only by a program that hangs

# Python 3.12.0 to 3.12.2 start no thread and fork no process once the main thread has ended.
STARTS_THREADS_AT_EXIT = not (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 2)

PRELUDE = """
import os, sys, threading, time

def ran(name):
    log = os.open(os.environ["SCENARIO_RUNS"], os.O_WRONLY | os.O_APPEND)
    os.write(log, f"{name}\\n".encode())
    os.close(log)

def mark():
    ran(f"@{time.monotonic()}")

def say(*values):
    os.write(1, (" ".join(map(str, values)) + "\\n").encode())

def gate():
    os.read(0, 1)

def wait():
    while True:  # not one long wait: a signal that comes just before it would be seen after it
        time.sleep(0.05)

def leaving():
    while not threading._SHUTTING_DOWN and not finalizing.is_set():
        time.sleep(0.001)

finalizing = threading.Event()  # set by children of multiprocessing, which finalize ahead of threading's shutdown

def draining():
    leaving()
    in_offload()

def in_offload(thread=threading.main_thread()):  # until the thread stands still there
    before = None
    while True:
        frame = innermost = sys._current_frames()[thread.ident]
        while frame is not None and not frame.f_globals.get("__name__", "").startswith("offload"):
            frame = frame.f_back
        now = frame and (id(innermost), innermost.f_lasti)
        if now and now == before:
            return
        before = now
        time.sleep(0.02)

def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

TASKS = """
from offload import offload, configure, configure_exit, flush, queue, queues, stats

@offload
def task(name):
    ran(name)

@offload
def hold(name="hold"):
    ran(name)
    leaving()
"""


class Like(str):
    """A pattern in the place of a text: equal to every text that it matches whole."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.fullmatch(self, other, re.DOTALL) is not None

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@dataclass(frozen=True)
class Left:
    """What a program left behind."""

    status: int = 0
    stdout: str = ""
    stderr: str = ""
    ran: Mapping[str, int] = field(default_factory=dict)
    order: Sequence[str] = field(default=(), compare=False)
    seconds: float = field(default=0.0, compare=False)  # from the program's `mark()` to its end


def once(*names: object) -> dict[str, int]:
    """Each of these tasks ran exactly once."""
    return {str(name): 1 for name in names}


def traceback(error: str) -> Like:
    """The traceback of an uncaught `error` (a pattern)."""
    return Like(rf"Traceback \(most recent call last\):\n.*{error}\n")


class Hung(AssertionError):
    """The program ran into the timeout."""


class Program:
    """A running program. Leave it through `left()`."""

    def __init__(
        self,
        *code: str,
        how: str = "file",
        tasks: bool = True,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        terminal: bool = False,
        timeout: float = TIMEOUT,
        directory: str,
    ) -> None:
        text = "\n".join([PRELUDE, TASKS if tasks else "", *map(textwrap.dedent, code)])
        file = Path(directory, "program.py")
        file.write_text(text)
        self._runs = Path(directory, "runs")
        self._runs.touch()
        arguments = {"file": [str(file)], "-c": ["-c", text], "-m": ["-m", "program"], "stdin": ["-"]}[how]
        # Where the program has other threads than its main one, 3.12 and later warn of every fork.
        quiet = ["-W", "ignore:This process:DeprecationWarning"]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("OFFLOAD_")}
        if how == "-m":
            inherited["PYTHONPATH"] = directory
        self._pty, err = os.openpty() if terminal else (None, subprocess.PIPE)
        self._process = subprocess.Popen(
            [sys.executable, "-X", "dev", *quiet, *options, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            env={**inherited, "SCENARIO_RUNS": str(self._runs), **(env or {})},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._pty is None:
            assert self._process.stderr is not None
            stderr = self._process.stderr.fileno()
        else:
            os.close(err)
            stderr = self._pty
        self._seen = {"stdout": b"", "stderr": b""}
        self._streams = selectors.DefaultSelector()
        self._streams.register(self._process.stdout.fileno(), selectors.EVENT_READ, "stdout")
        self._streams.register(stderr, selectors.EVENT_READ, "stderr")
        self._give_up = time.monotonic() + timeout
        if how == "stdin":
            self._process.stdin.write(text.encode())
            self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def until(self, pattern: str, stream: str = "stdout") -> None:
        """Wait until the program has printed what `pattern` finds."""
        while not re.search(pattern, self._seen[stream].decode(errors="replace")):
            if not self._read():
                raise AssertionError(f"ended without {pattern!r}: {self._seen}")

    def open_gate(self) -> None:
        """Let one `gate()` of the program go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def send(self, signum: int) -> None:
        self._process.send_signal(signum)

    def left(self) -> Left:
        """Wait for the program's end, and that of every process that holds its output."""
        while self._read():
            pass
        try:
            status = self._process.wait(max(0.0, self._give_up - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._hangs()
        ended = time.monotonic()
        runs = self._runs.read_text().splitlines()
        marks = [float(line[1:]) for line in runs if line.startswith("@")]
        order = [line for line in runs if not line.startswith("@")]
        return Left(
            status,
            self._seen["stdout"].decode(errors="backslashreplace"),
            self._seen["stderr"].decode(errors="backslashreplace"),
            Counter(order),
            order=order,
            seconds=ended - marks[-1] if marks else 0.0,
        )

    def close(self) -> None:
        """Let go of everything; a program that still runs is killed, its children too."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._streams.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        if self._pty is not None:
            os.close(self._pty)

    def _read(self) -> bool:
        """Take what is there; False at the end of both streams."""
        if not self._streams.get_map():
            return False
        ready = self._streams.select(max(0.0, self._give_up - time.monotonic()))
        if not ready:
            self._hangs()
        for key, _ in ready:
            try:
                data = os.read(key.fd, 65536)
            except OSError:  # the end of a pseudo-terminal
                data = b""
            self._seen[key.data] += data
            if not data:
                self._streams.unregister(key.fd)
        return True

    def _hangs(self) -> None:
        """Abort the program, so that `-X dev` shows its stacks, and fail."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGABRT)
        self._give_up = time.monotonic() + 5
        while self._streams.get_map() and time.monotonic() < self._give_up and self._streams.select(1):
            self._read()
        shown = self._seen
        runs = self._runs.read_text()
        raise Hung(
            f"ran {dict(Counter(runs.split()))}\n"
            f"stdout: {shown['stdout'].decode(errors='replace')}\n"
            f"stderr: {shown['stderr'].decode(errors='replace')}"
        )


@contextlib.contextmanager
def program(*code: str, **how: Any) -> Iterator[Program]:
    """A running program, to talk with; see `Program`. Each part of its text may be indented in its own way."""
    with tempfile.TemporaryDirectory() as directory:
        running = Program(*code, directory=directory, **how)
        try:
            yield running
        finally:
            running.close()


def run(*code: str, **how: Any) -> Left:
    """Run a program to its end."""
    with program(*code, **how) as running:
        return running.left()


@functools.cache
def installed(name: str) -> bool:
    """Whether the programs can import the module (asked in another process, as some modules patch much)."""
    found = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    return subprocess.run([sys.executable, "-c", found], check=False).returncode == 0
