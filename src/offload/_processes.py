"""``executor="processes"``: each worker thread drives one process of its own.

A task that kills its process takes nobody with it: the other threads' processes know nothing of it, and the next task of
this thread gets a new one. (In a pool all tasks in flight fail with it.) Processes start with the first task of their
thread, by spawn: a fork of a program with threads may deadlock. They end with their thread, when it has been idle or the
program leaves.

A process ends itself when its parent has gone, in the middle of a task if need be. It does not hear Ctrl-C, which a
terminal sends to all processes at once: the parent decides what becomes of what runs.

Contextvars do not travel to a process. What a task offloads over there waits in the queues of that process, which it
drains when it ends; the parent's ``flush`` does not see them.
"""

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextvars import Context
from typing import TYPE_CHECKING, Any

from offload._core import Core
from offload._errors import OffloadError
from offload._payload import PLAIN, Outcome, Parcel, pack
from offload._reference import script_path
from offload._task import Task

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

READY = b"ready"


class Processes:
    """Runs the tasks of a queue in the processes of its worker threads."""

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}  # by the thread that drives it
        self._abandoned = False
        self._script = script_path()

    def __call__(self, core: Core, task: Task[Any], fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Context | None) -> bool:
        """Run a task in this thread's process. Blocks until it has ended. Raises what it raised."""
        parcel = pack(task.name, fn, args, kwargs, PLAIN, self._script)
        try:
            result, error = self._child(core, task).ask(parcel).open(task.name)
        except _Died as died:
            self._end_mine()
            self._stay_behind()
            raise BrokenExecutor(f"{task.name} was lost: its process {died} while it ran there") from None
        if error is not None:
            raise error
        task._result = result
        return True

    def _child(self, core: Core, task: Task[Any]) -> "Child":
        ident = threading.get_ident()
        child = self._children.get(ident)
        if child is not None and child.alive():
            return child
        self._end_mine()  # it died while it had nothing to do: no task's fault, and none's loss
        try:
            child = self._children[ident] = Child(f"{threading.current_thread().name}-process")
        except Exception as error:
            raise OffloadError(f"{task.name} was not run: no process can be started for queue {core.name!r} ({error})") from error
        if self._abandoned:
            child.kill()
        try:
            child.wait_until_ready()
        except _Died as died:
            self._end_mine()
            self._stay_behind()
            raise BrokenExecutor(
                f"{task.name} was not run: its process {died} before it took a call; its traceback is on stderr. "
                'A script starts its work below `if __name__ == "__main__":`, for each process imports it'
            ) from None
        return child

    def worker_ends(self, core: Core) -> None:
        """The calling worker thread ends, and its process with it. Blocks until it has."""
        self._end_mine()

    def _end_mine(self) -> None:
        ident = threading.get_ident()
        child = self._children.get(ident)
        if child is not None:
            child.end()
            del self._children[ident]

    def close(self, core: Core) -> None:
        """Let go of all processes: the queue is set to something else, and no task runs. Does not block."""
        for child in list(self._children.values()):
            child.let_go()

    def wait(self, timeout: float | None) -> bool:
        """Block until the processes of threads that end have ended. Returns False after `timeout` seconds."""
        return all(child.wait(timeout) for child in list(self._children.values()))

    def abandon(self) -> None:
        """Kill the processes: the exit does not wait for them any more."""
        self._abandoned = True
        for child in list(self._children.values()):
            child.kill()

    def _stay_behind(self) -> None:
        # The task was left behind and that has been said: it has no other end, like one on a thread that the exit freezes.
        if self._abandoned and getattr(threading.current_thread(), "left_behind", False):
            threading.Event().wait()


class _Died(Exception):
    """A process has ended; says how."""


class Child:
    """One process and the pipe to it. Its methods are for the thread that drives it; `kill` and `wait` for any."""

    def __init__(self, name: str) -> None:
        import multiprocessing  # its import costs more than offload's; who wants processes pays for it

        self._over = False
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), name=name)
        try:
            with _interrupts_held():  # a child starts with the mask of the thread that starts it
                self._process.start()
        except BaseException:
            self._pipe.close()
            raise
        finally:
            theirs.close()
        # multiprocessing would wait for it at exit, whatever the deadline, and reap it in any thread that starts another
        _known_to_multiprocessing().discard(self._process)
        self._exit = _exit_of(self._process)

    def wait_until_ready(self) -> None:
        """Block until it takes calls. Raises _Died."""
        self._receive()

    def alive(self) -> bool:
        """Whether it runs."""
        return not self.wait(0.0)

    def ask(self, parcel: Parcel) -> Outcome:
        """Have it run a call. Blocks. Raises _Died."""
        try:
            self._pipe.send_bytes(pickle.dumps(parcel))
        except OSError:
            raise self._died() from None
        del parcel
        return pickle.loads(self._receive())  # type: ignore[no-any-return]

    def _receive(self) -> bytes:
        from multiprocessing.connection import wait

        try:
            if self._pipe in wait([self._pipe, self._exit]):
                return self._pipe.recv_bytes()
        except (EOFError, OSError):
            pass
        raise self._died()

    def _died(self) -> _Died:
        self._process.kill()  # or it only let go of the pipe
        self._process.join()
        code = self._process.exitcode
        with contextlib.suppress(ValueError, TypeError):
            return _Died(f"was killed by {signal.Signals(-code).name}")  # type: ignore[operator]
        return _Died(f"ended with exit code {code}")

    def end(self) -> None:
        """Ask it to end, and block until it has: its exit handlers run, and what it has offloaded itself."""
        self.let_go()
        self.wait(None)
        self._process.join()
        self._over = True
        if self._exit != self._process.sentinel:
            os.close(self._exit)

    def let_go(self) -> None:
        """Ask it to end. Who leaves the program meanwhile waits for it, as for any process of multiprocessing's."""
        if self._process.exitcode is None:
            _known_to_multiprocessing().add(self._process)
        self._pipe.close()

    def wait(self, timeout: float | None) -> bool:
        """Block until it has ended, at most `timeout` seconds. Returns whether it has."""
        from multiprocessing.connection import wait

        return self._over or bool(wait([self._exit], timeout))

    def kill(self) -> None:
        """End it now."""
        self._process.kill()


def _known_to_multiprocessing() -> set[Any]:
    return getattr(sys.modules["multiprocessing.process"], "_children", set())


def _exit_of(process: Any) -> Any:
    """What becomes readable when the process ends, also if a process that it forked lives on with its open files."""
    try:
        return os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # not this platform, or not this kernel
        return process.sentinel


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# -- in the process ---------------------------------------------------------------------------------------------------


def _serve(pipe: "Connection") -> None:
    """The life of a process: one call after the other, until there are no more."""
    signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which the programs that a task starts would inherit
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, name="offload-parent", daemon=True).start()
    pipe.send_bytes(READY)
    while True:
        try:
            call = pickle.loads(pipe.recv_bytes())
            pipe.send_bytes(pickle.dumps(call()))
            del call
        except (EOFError, OSError):  # the other end was closed
            return


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
