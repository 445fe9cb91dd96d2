"""`executor="processes"`: each worker thread drives a process of its own."""

from __future__ import annotations

import contextvars
import os
import pickle
import signal
import sys
import threading
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import WAIT
from scenario import Left, Like, once, program, run

from offload import OffloadError, Queue, offload

SLOW = 4 * WAIT  # seconds: a process has to start, on a machine that may have a lot to do

needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this platform kills in another way")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")

number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)


@offload(queue="cpu")
def pid() -> int:
    return os.getpid()


@offload(queue="cpu")
def double(x: int) -> int:
    return 2 * x


@offload(queue="cpu")
def write(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


@offload(queue="cpu")
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@offload(queue="cpu")
def leave(status: int) -> None:
    os._exit(status)


@offload(queue="cpu")
def meet(own: str, other: str) -> int:
    """Returns when two of it have run at once."""
    Path(own).touch()
    deadline = time.monotonic() + SLOW
    while not Path(other).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return os.getpid()


@offload(queue="cpu")
def get_number() -> int:
    return number.get()


@offload(queue="cpu")
def offload_more(path: str) -> None:
    """What it offloads runs in the process, when the task has ended."""
    write(path, "more")


@offload(queue="cpu")
def fork_and_return(path: str) -> int:
    child = os.fork()
    if child == 0:
        write.call(path, "child")
        return -1
    assert os.waitpid(child, 0)[1] == 0
    return 1


@offload(queue="cpu")
def fork_and_die(fifo: str) -> None:
    """Its child lives on, with its end of the pipe, until the other end of the fifo is closed."""
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    with open(fifo, "rb") as file:
        file.read()
    os._exit(0)


class Elsewhere(Exception):
    """Can be made anew in the process that has made it, and in no other."""

    def __reduce__(self) -> tuple[Any, ...]:
        return at_home, (os.getpid(),)


def at_home(process: int) -> Elsewhere:
    if os.getpid() != process:
        raise LookupError(f"this is not process {process}")
    return Elsewhere()


@offload(queue="cpu")
def elsewhere() -> Elsewhere:
    return Elsewhere()


@offload(queue="cpu")
def fail_elsewhere() -> None:
    raise Elsewhere("over there")


class Moody:
    """Can't be pickled at the first attempt."""

    attempts = 0

    def __reduce__(self) -> tuple[Any, ...]:
        Moody.attempts += 1
        if Moody.attempts == 1:
            raise RuntimeError("not now")
        return Moody, ()

    @offload(queue="cpu")
    def tell(self, *args: object) -> None:
        """A method of an object."""


class Locked(Moody):
    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("it holds a lock")


@pytest.fixture
def cpu(default_registry: ModuleType) -> Queue:
    """The queue of the functions above."""
    queue: Queue = default_registry.configure("cpu", executor="processes", on_error=lambda task, error: None)
    return queue


def threads_named(name: str) -> list[int]:
    """The idents of the threads of this name."""
    return [thread.ident for thread in threading.enumerate() if thread.name == name and thread.ident is not None]


def is_gone(process: int) -> bool:
    """Wait until a process has ended."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


# --- Which process, and how long it lives


def test_tasks_run_in_one_process_for_each_worker(cpu: Queue, default_registry: ModuleType, tmp_path: Path) -> None:
    first = pid().result(SLOW)
    assert first != os.getpid()
    assert {pid().result(SLOW) for _ in range(5)} == {first}
    default_registry.configure("cpu", workers=2)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert len({task.result(SLOW) for task in [meet(a, b), meet(b, a)]}) == 2


def test_one_worker_keeps_the_order(cpu: Queue, tmp_path: Path) -> None:
    file = tmp_path / "order"
    for n in range(20):
        write(str(file), f"{n} ")
    cpu.flush(SLOW)
    assert file.read_text().split() == [str(n) for n in range(20)]


def test_no_process_starts_before_the_first_task(cpu: Queue) -> None:
    assert cpu.stats().workers == 0
    assert "multiprocessing" not in " ".join(t.name for t in threading.enumerate())


@needs_proc
def test_a_process_ends_when_its_worker_has_been_idle(cpu: Queue, default_registry: ModuleType) -> None:
    default_registry.configure("cpu", idle_timeout=0.01)
    first = pid().result(SLOW)
    assert is_gone(first)
    assert pid().result(SLOW) != first


@needs_proc
def test_processes_end_with_a_shutdown(cpu: Queue) -> None:
    first = pid().result(SLOW)
    cpu.shutdown()
    assert not Path(f"/proc/{first}").exists()


@needs_proc
def test_processes_end_when_the_queue_goes_back_to_threads(cpu: Queue, default_registry: ModuleType) -> None:
    first = pid().result(SLOW)
    cpu.flush(SLOW)
    default_registry.configure("cpu", executor=None)
    assert pid().result(WAIT) == os.getpid()
    assert is_gone(first)


@needs_kill
@needs_proc
def test_no_process_outlives_a_parent_that_is_killed() -> None:
    """Neither one with nothing to do nor one in the middle of a task."""
    code = """
    from offload import offload, configure

    @offload(queue="cpu")
    def stay():
        say("in", os.getpid())
        threading.Event().wait()

    @offload(queue="cpu")
    def idle():
        say("idle", os.getpid())

    if __name__ == "__main__":
        configure("cpu", executor="processes", workers=2)
        stay()
        idle()
        os.read(0, 1)
    """
    with program(code, tasks=False) as running:
        running.until(r"in \d+")
        running.until(r"idle \d+")
        os.kill(running.pid, signal.SIGKILL)
        left = running.left()  # it waits for every process that holds the program's output
    assert left.status == -signal.SIGKILL


# --- A task that kills its process


@needs_kill
def test_a_task_that_kills_its_process_fails_alone(cpu: Queue, default_registry: ModuleType) -> None:
    default_registry.configure("cpu", workers=2)
    innocents = [double(n) for n in range(10)]
    poison = die()
    innocents += [double(n) for n in range(10, 20)]
    assert [task.result(SLOW) for task in innocents] == list(range(0, 40, 2))
    with pytest.raises(BrokenExecutor, match=r"test_processes\.die was lost: its process was killed by SIGKILL"):
        poison.result(SLOW)
    cpu.flush(SLOW)
    assert (cpu.stats().succeeded, cpu.stats().failed) == (20, 1)


def test_a_task_that_leaves_its_process(cpu: Queue) -> None:
    with pytest.raises(BrokenExecutor, match="ended with exit code 3"):
        leave(3).result(SLOW)
    assert double(1).result(SLOW) == 2


@needs_kill
@needs_proc
def test_a_process_that_dies_with_nothing_to_do_costs_no_task(cpu: Queue) -> None:
    first = pid().result(SLOW)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)  # until all its threads have ended, and without reaping it
    assert pid().result(SLOW) != first
    cpu.flush(SLOW)
    assert cpu.stats().failed == 0


@needs_fork
def test_a_fork_inside_a_task_is_no_second_worker(cpu: Queue, tmp_path: Path) -> None:
    file = tmp_path / "fork"
    assert fork_and_return(str(file)).result(SLOW) == 1
    assert double(2).result(SLOW) == 4
    assert file.read_text() == "child"


# --- What travels


def test_system_exit_is_a_failure_like_any_other(cpu: Queue) -> None:
    assert isinstance(cpu.submit(sys.exit, 3).exception(SLOW), SystemExit)
    first = pid().result(SLOW)
    assert isinstance(cpu.submit(sys.exit, 3).exception(SLOW), SystemExit)
    assert pid().result(SLOW) == first


def test_large_arguments_and_results(cpu: Queue) -> None:
    data = os.urandom(3_000_000)
    assert cpu.submit(bytes, data).result(SLOW) == data


def test_contextvars_do_not_travel(cpu: Queue) -> None:
    number.set(5)
    try:
        assert get_number().result(SLOW) == 0
    finally:
        number.set(0)


def test_what_a_task_offloads_is_done_when_its_process_ends(cpu: Queue, tmp_path: Path) -> None:
    file = tmp_path / "more"
    offload_more(str(file)).result(SLOW)
    cpu.shutdown()
    assert file.read_text() == "more"


def test_no_process_can_be_started(cpu: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("too many processes")

    monkeypatch.setattr(multiprocessing.get_context("spawn").Process, "start", refuse)
    with pytest.raises(OffloadError, match=r"double was not run: no process can be started.*too many processes"):
        double(1).result(SLOW)
    monkeypatch.undo()
    assert double(1).result(SLOW) == 2


@needs_kill
@needs_proc
def test_a_process_that_dies_while_a_call_is_on_its_way(cpu: Queue) -> None:
    """A stopped process reads nothing, and a pipe holds less than this argument."""
    process, worker = pid().result(SLOW), threads_named("offload-cpu-0")[0]
    os.kill(process, signal.SIGSTOP)
    task = cpu.submit(len, bytes(3_000_000))
    while sys._current_frames()[worker].f_code.co_name != "_send":
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(BrokenExecutor, match=r"builtins\.len was lost: its process was killed by SIGKILL while it ran there"):
        task.result(SLOW)
    assert double(1).result(SLOW) == 2


@needs_kill
@needs_fork
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the pipe alone does not tell")
def test_a_process_that_dies_is_missed_though_its_own_child_holds_the_pipe(cpu: Queue, tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    task = fork_and_die(fifo)
    with open(fifo, "wb"), pytest.raises(BrokenExecutor, match="killed by SIGKILL"):
        task.result(SLOW)
    assert double(1).result(SLOW) == 2


@pytest.mark.parametrize("missing", ["os.pidfd_open", "signal.pthread_sigmask"])
def test_platforms_that_have_less(missing: str, cpu: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(missing, raising=False)
    assert double(1).result(SLOW) == 2
    with pytest.raises(BrokenExecutor, match="ended with exit code 3"):
        leave(3).result(SLOW)
    assert double(2).result(SLOW) == 4
    cpu.shutdown()


def test_what_can_not_be_unpickled_here_fails_its_own_task_in_words(cpu: Queue) -> None:
    with pytest.raises(
        pickle.UnpicklingError, match=r"elsewhere has run, but its result can't be unpickled here: LookupError: this is not process"
    ) as lost:
        elsewhere().result(SLOW)
    assert isinstance(lost.value.__cause__, LookupError)
    with pytest.raises(OffloadError, match=r"fail_elsewhere raised an exception that can't be unpickled here \(LookupError") as failed:
        fail_elsewhere().result(SLOW)
    assert "in fail_elsewhere" in str(failed.value.__cause__)
    assert "over there" in str(failed.value.__cause__)
    assert double(1).result(SLOW) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: Locked().tell(),
            r"tell can't go to another process: the object \(test_processes\.Locked\) whose method it is can't be pickled: it holds",
        ),
        (lambda: Moody().tell(), r"Moody\.tell can't go to another process: not now"),
        (lambda: double.using()(1, x=Locked()), r"double can't go to another process: its argument x \(test_processes\.Locked\) can't be pickled"),
    ],
)
def test_what_can_not_be_pickled_is_named(call: Any, words: str, cpu: Queue) -> None:
    Moody.attempts = 0
    with pytest.raises(pickle.PicklingError, match=words):
        call().result(SLOW)


# --- The program

WORK = """
from offload import offload, configure, flush

@offload(queue="cpu")
def work(name):
    ran(name)
"""


def test_a_script_without_a_guard_is_told_and_starts_no_chain_of_processes() -> None:
    left = run(WORK, "configure('cpu', executor='processes'); work(1); flush()", tasks=False)
    assert left == Left(stderr=Like(".*imports the program's script.*__main__.*"))


def test_a_script_without_a_guard_that_ends_at_once() -> None:
    left = run(WORK, "configure('cpu', executor='processes'); work(1)", tasks=False)
    assert left == Left(stderr=Like(".*imports the program's script.*__main__.*"))


@pytest.mark.parametrize("how", ["file", "-m"])
def test_a_script_that_ends_before_its_processes_have_started(how: str) -> None:
    """CPython forgets the script's path then, and a process that is spawned can't be told it."""
    left = run(
        WORK,
        "if __name__ == '__main__': configure('cpu', executor='processes'); work(1); work(2)",
        tasks=False,
        how=how,
    )
    assert left == Left(ran=once(1, 2))


def test_a_function_that_no_process_can_find_fails_in_words() -> None:
    left = run(
        WORK,
        """
        configure('cpu', executor='processes')
        error = work(1).exception(20)
        say(error)
        """,
        tasks=False,
        how="-c",
    )
    assert left == Left(stdout=Like(r".*can't find __main__\.work here, .* notebook, .*\n"), stderr=Like(".*"))


@needs_kill
def test_ctrl_c_does_not_reach_a_task_in_a_process(tmp_path: Path) -> None:
    """A terminal sends it to every process of the program: it lets what runs finish."""
    code = """
    from offload import offload, configure

    @offload(queue="cpu")
    def work():
        say("running")
        os.close(os.open(os.environ["FIFO"], os.O_RDONLY))
        ran("work")

    if __name__ == "__main__":
        configure("cpu", executor="processes")
        work()
        say("end")
    """
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    with program(code, tasks=False, env={"FIFO": fifo}) as running:
        running.until("running")
        os.killpg(os.getpgid(running.pid), signal.SIGINT)
        writer = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)  # lets the task go on, and waits for nobody if there is none
        left = running.left()
        os.close(writer)
    assert left.ran == once("work")
