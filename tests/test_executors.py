"""Tasks on any concurrent.futures.Executor: threads, process pools, loky, Dask; handed in, or made by offload."""

from __future__ import annotations

import contextvars
import importlib.util
import logging
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from pickle import PicklingError
from types import ModuleType
from typing import Any

import pytest
from conftest import WAIT, Gate, refuse_threads
from scenario import STARTS_THREADS_AT_EXIT, Left, Like, installed, once, run

from offload import ConfigurationError, OffloadError, Queue, Registry, offload
from offload._executors import Handed

SLOW = 4 * WAIT  # seconds: a process has to start, on a machine that may have a lot to do

needs_loky = pytest.mark.skipif(not installed("loky"), reason="needs loky: pip install -e '.[processes]'")
needs_dask = pytest.mark.skipif(not installed("distributed"), reason="needs Dask: pip install -e '.[dask]'")
needs_interpreters = pytest.mark.skipif(
    importlib.util.find_spec("concurrent.futures.interpreter") is None,
    reason="InterpreterPoolExecutor came with Python 3.14",
)
needs_forkserver = pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="this platform has no forkserver")

number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)


@offload(queue="cpu")
def double(x: int) -> int:
    """Twice as much."""
    return 2 * x


@offload(queue="cpu")
async def double_soon(x: int) -> int:
    return 2 * x


@offload(queue="cpu")
def keywords(**given: object) -> dict[str, object]:
    return given


@offload(queue="cpu")
def where() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


@offload(queue="cpu")
def boom(*args: object) -> None:
    raise ValueError(*args)


@offload(queue="cpu")
def die() -> None:
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


@offload(queue="cpu")
def lock() -> object:
    return threading.Lock()


NAMELESS = [lambda: 1]  # pickle looks for it by its name in this module


def start_method() -> str | None:
    return multiprocessing.get_start_method(allow_none=True)


class NeedsTwo(Exception):
    """Pickles, and can't be made again: pickle calls it with what it gave to Exception."""

    def __init__(self, one: object, two: object) -> None:
        super().__init__(f"{one} and {two}")


@offload(queue="cpu")
def boom_badly() -> None:
    raise NeedsTwo(1, 2)


class Landmine:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("no number",)


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @offload(queue="cpu")
    def scale(self, x: int) -> int:
        return self.factor * x

    @offload(queue="cpu")
    @classmethod
    def outer(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x

    @classmethod
    @offload(queue="cpu")
    def inner(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x

    @offload(queue="cpu")
    @staticmethod
    def static_outer(x: int) -> int:
        return 2 * x

    @staticmethod
    @offload(queue="cpu")
    def static_inner(x: int) -> int:
        return 3 * x


class Larger(Scale):
    pass


def spawning() -> Executor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def forkserving() -> Executor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver"))


def threading_() -> Executor:
    return ThreadPoolExecutor(2)


def interpreting() -> Executor:
    from concurrent.futures import InterpreterPoolExecutor  # type: ignore[attr-defined]

    return InterpreterPoolExecutor(2)  # type: ignore[no-any-return]


def lokys() -> Executor:
    import loky

    return loky.ProcessPoolExecutor(2)  # type: ignore[no-any-return]


CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a Dask cluster of two processes. It is up before the first test looks at its threads."""
    if not installed("distributed"):
        yield None
        return
    from distributed import Client

    directory = tmp_path_factory.mktemp("cluster")
    script = directory / "cluster.py"
    script.write_text(CLUSTER)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path},
        cwd=directory,
        text=True,
    )
    with server:
        assert server.stdout is not None
        with Client(server.stdout.readline().strip()) as client:
            assert client.submit(abs, -1).result(SLOW) == 1
            yield client
        server.communicate()


OTHERS = [
    pytest.param(spawning, id="spawn"),
    pytest.param(forkserving, id="forkserver", marks=needs_forkserver),
    pytest.param(lokys, id="loky", marks=needs_loky),
    pytest.param("dask", id="dask", marks=needs_dask),
]
ALL = [
    pytest.param(threading_, id="threads"),
    pytest.param(interpreting, id="interpreters", marks=needs_interpreters),
    *OTHERS,
]


@pytest.fixture
def executor(request: pytest.FixtureRequest, thread_guard: None) -> Iterator[Executor]:
    """An executor of the kind that the test names, shut down after it."""
    if request.param == "dask":
        yield request.getfixturevalue("cluster").get_executor()
        return
    own = request.param()
    yield own
    own.shutdown()


@pytest.fixture
def cpu(executor: Executor, default_registry: ModuleType) -> Queue:
    """The queue of the functions above, on that executor."""
    queue: Queue = default_registry.configure("cpu", executor=executor, workers=2, on_error=lambda task, error: None)
    return queue


on_all = pytest.mark.parametrize("executor", ALL, indirect=True)
on_others = pytest.mark.parametrize("executor", OTHERS, indirect=True)


# --- What can be sent


@on_all
def test_decorated_callables_of_every_kind(cpu: Queue) -> None:
    tasks = {
        "function": double(4),
        "coroutine": double_soon(4),
        "method": Scale(3).scale(4),
        "of the class": Scale.scale(Scale(3), 4),
        "class method": Larger.outer(4),
        "class method, decorated inside": Larger(1).inner(4),
        "static method": Scale.static_outer(4),
        "static method, decorated inside": Scale(1).static_inner(4),
        "a changed copy": double.using(coalesce=False)(4),
    }
    assert {name: task.result(SLOW) for name, task in tasks.items()} == {
        "function": 8,
        "coroutine": 8,
        "method": 12,
        "of the class": 12,
        "class method": ("Larger", 4),
        "class method, decorated inside": ("Larger", 4),
        "static method": 8,
        "static method, decorated inside": 12,
        "a changed copy": 8,
    }


@on_all
def test_other_callables(cpu: Queue) -> None:
    tasks = [cpu.submit(abs, -3), cpu.submit(pow, 2, 5, mod=7), cpu.submit(partial(double.call, 4))]
    assert [task.result(SLOW) for task in tasks] == [3, 4, 8]


@on_all
def test_keywords_that_an_executor_might_take_for_its_own(cpu: Queue) -> None:
    """Dask's submit has parameters of these names; so have other executors."""
    given = {"key": 1, "pure": 2, "retries": 3, "workers": 4, "fn": 5, "self": 6}
    assert keywords(**given).result(SLOW) == given


@on_others
def test_calls_run_in_another_process_once_each(cpu: Queue) -> None:
    """Dask runs calls that look the same only once, unless it is told that they are not."""
    assert where().result(SLOW)[0] != os.getpid()
    cpu.flush(SLOW)
    tasks = [cpu.submit(os.urandom, 8) for _ in range(10)]
    assert len({task.result(SLOW) for task in tasks}) == 10


@pytest.mark.parametrize("executor", OTHERS[:2], indirect=True)
def test_a_lambda_for_a_process_pool_is_an_error_that_says_what_to_do(cpu: Queue) -> None:
    with pytest.raises(PicklingError, match=r"test_executors.*<lambda>.*top of a module.*loky or Dask"):
        cpu.submit(lambda: 1).result(SLOW)
    assert double(1).result(SLOW) == 2


@pytest.mark.parametrize("executor", OTHERS[2:], indirect=True)
def test_a_lambda_and_a_closure_where_they_can_travel(cpu: Queue) -> None:
    factor = 3

    @offload(queue="cpu")
    def local(x: int) -> int:
        return factor * x

    assert [local(2).result(SLOW), cpu.submit(lambda: factor).result(SLOW)] == [6, 3]


@on_others
def test_what_can_not_be_pickled_fails_its_own_task_in_words(cpu: Queue) -> None:
    with pytest.raises(PicklingError, match=r"test_executors\.double .*argument 1 \(_thread\.lock\)"):
        double(threading.Lock()).result(SLOW)  # type: ignore[arg-type]
    with pytest.raises(PicklingError, match=r"test_executors\.lock has run, but its result \(_thread\.lock\)"):
        lock().result(SLOW)
    with pytest.raises(OffloadError, match=r"boom_badly raised .*NeedsTwo: 1 and 2"):
        boom_badly().result(SLOW)
    with pytest.raises(ValueError, match="no number") as failed:
        double(Landmine()).result(SLOW)  # type: ignore[arg-type]
    assert failed.value.__notes__[0].startswith("test_executors.double: ")
    assert double(1).result(SLOW) == 2
    stats = cpu.stats()
    cpu.flush(SLOW)
    assert (stats.failed, cpu.stats().submitted) == (4, 5)


@on_all
def test_failures_keep_their_type_and_their_traceback(cpu: Queue) -> None:
    error = boom("what", 3).exception(SLOW)
    assert type(error) is ValueError
    assert error.args == ("what", 3)
    trace = str(error.__cause__) if error.__cause__ else ""
    if trace:
        assert "in boom" in trace
        assert "raise ValueError(*args)" in trace
    else:
        assert error.__traceback__ is not None
        assert error.__traceback__.tb_frame.f_code.co_name == "boom"


@on_all
def test_system_exit_is_a_failure_like_any_other(cpu: Queue) -> None:
    assert isinstance(cpu.submit(sys.exit, 3).exception(SLOW), SystemExit)
    assert double(1).result(SLOW) == 2


# --- The queue's promises


@on_all
def test_one_worker_keeps_the_order(executor: Executor, default_registry: ModuleType) -> None:
    default_registry.configure("cpu", executor=executor)
    ended: list[int] = []
    tasks = [double(n) for n in range(20)]
    for n, task in enumerate(tasks):
        task.add_done_callback(lambda _, n=n: ended.append(n))  # type: ignore[misc]
    default_registry.flush("cpu", timeout=SLOW)
    assert ended == sorted(ended)
    assert [task.result() for task in tasks] == list(range(0, 40, 2))


def test_no_more_than_workers_are_handed_over_and_the_rest_can_be_cancelled(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        queue = registry.configure("cpu", executor=pool, workers=2)
        with Gate(queue), Gate(queue):
            waiting = [queue.submit(int, n) for n in range(3)]
            stats = queue.stats()
            assert (stats.running, stats.waiting, stats.workers) == (2, 3, 1)
            assert waiting[1].cancel()
        assert [waiting[n].result(WAIT) for n in (0, 2)] == [0, 2]
        queue.flush(WAIT)
        assert queue.stats().cancelled == 1


def test_the_number_of_workers_changes_while_tasks_run(registry: Registry) -> None:
    with ThreadPoolExecutor(8) as pool:
        queue = registry.configure("cpu", executor=pool)
        with Gate(queue):
            registry.configure("cpu", workers=3)
            with Gate(queue), Gate(queue):
                assert queue.stats().running == 3


def test_contextvars_travel_to_threads(registry: Registry) -> None:
    with ThreadPoolExecutor(1) as pool:
        queue = registry.configure("cpu", executor=pool)
        number.set(5)
        assert queue.submit(number.get).result(WAIT) == 5
        queue.flush(WAIT)
        registry.configure("cpu", context=False)
        assert queue.submit(number.get).result(WAIT) == 0
        number.set(0)
        queue.flush(WAIT)


def test_tasks_whose_callers_have_no_context_run_at_once(registry: Registry) -> None:
    """Each in a context of its own: one can't be entered twice."""
    together = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        queue = registry.configure("cpu", executor=pool, workers=2)
        tasks = contextvars.Context().run(lambda: [queue.submit(together.wait, WAIT) for _ in range(2)])
        assert {task.result(WAIT) for task in tasks} == {0, 1}
        queue.flush(WAIT)


def test_an_executor_is_made_once_though_several_workers_are_there(registry: Registry) -> None:
    """Those that are there too many end before they take anything."""
    queue = registry.configure("cpu", workers=4)
    together, made = threading.Barrier(4), []
    for task in [queue.submit(together.wait, WAIT) for _ in range(4)]:
        task.result(WAIT)

    def make() -> Executor:
        made.append(ThreadPoolExecutor(4))
        deadline = time.monotonic() + WAIT
        while len(made) == 1 and queue.stats().workers > 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        return made[-1]

    queue.flush(WAIT)
    registry.configure("cpu", executor=make)
    tasks = [queue.submit(int) for _ in range(12)]
    assert [task.result(WAIT) for task in tasks] == [0] * 12
    queue.shutdown()
    assert len(made) == 1


def test_errors_and_callbacks_come_on_a_thread_of_the_queue(registry: Registry) -> None:
    """Not on the executor's, which a slow handler would stop."""
    names: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        queue = registry.configure("cpu", executor=pool, on_error=lambda task, error: names.append(threading.current_thread().name))
        task = queue.submit(boom.call)
        task.exception(WAIT)
        queue.flush(WAIT)
        assert names == ["offload-cpu-results"]


def test_a_callback_that_calls_its_own_full_queue_does_not_block(registry: Registry) -> None:
    """It would wait for room that only the thread that it stands on can make."""
    with ThreadPoolExecutor(1) as pool:
        queue = registry.configure("cpu", executor=pool, maxsize=1)
        more: list[Any] = []
        with Gate(queue) as gate:
            gate.task.add_done_callback(lambda _: more.extend(queue.submit(int, n) for n in range(5)))
            queue.submit(int, 7)
        queue.flush(WAIT)
        assert [task.result(WAIT) for task in more] == list(range(5))


def test_a_flush_from_a_task_in_a_thread_pool_is_refused(registry: Registry) -> None:
    with ThreadPoolExecutor(1) as pool:
        queue = registry.configure("cpu", executor=pool)
        with pytest.raises(RuntimeError, match="flush"):
            queue.submit(registry.flush, timeout=WAIT).result(WAIT)
        queue.flush(WAIT)


def test_a_queue_runs_on_a_queue(registry: Registry) -> None:
    inner = registry.configure("inner", workers=2)
    outer = registry.configure("outer", executor=inner)
    assert outer.submit(lambda: threading.current_thread().name).result(WAIT).startswith("offload-inner-")
    registry.flush(timeout=WAIT)
    with pytest.raises(ConfigurationError, match="itself"):
        registry.configure("inner", executor=outer)


# --- Executors that are made by offload


class Counting(ThreadPoolExecutor):
    """Executors that know of each other."""

    made: list[Counting]

    def __init__(self, max_workers: int | None = None) -> None:
        super().__init__(max_workers)
        self.size = max_workers
        self.made.append(self)

    @property
    def closed(self) -> bool:
        return self._shutdown


@pytest.fixture
def counting() -> type[Counting]:
    return type("Fresh", (Counting,), {"made": []})


def test_a_class_is_called_at_the_first_use_with_the_number_of_workers(registry: Registry, counting: type[Counting]) -> None:
    queue = registry.configure("cpu", executor=counting, workers=3)
    assert counting.made == []
    assert queue.submit(int, 1).result(WAIT) == 1
    queue.flush(WAIT)
    assert [executor.size for executor in counting.made] == [3]
    registry.configure("cpu", workers=4)
    assert queue.submit(int, 2).result(WAIT) == 2
    queue.flush(WAIT)
    assert [(executor.size, executor.closed) for executor in counting.made] == [(3, True), (4, False)]


def test_a_made_executor_is_shut_down_with_its_queue(registry: Registry, counting: type[Counting]) -> None:
    queue = registry.configure("cpu", executor=lambda: counting(2))
    queue.submit(int, 1).result(WAIT)
    queue.shutdown()
    assert [executor.closed for executor in counting.made] == [True]


def test_a_made_executor_is_shut_down_when_the_queue_is_idle(registry: Registry, counting: type[Counting]) -> None:
    gone = threading.Event()
    counting.shutdown = lambda self, wait=True: (Counting.shutdown(self, wait), gone.set())  # type: ignore[assignment]
    queue = registry.configure("cpu", executor=counting, idle_timeout=0.01)
    assert queue.submit(int, 1).result(WAIT) == 1
    assert gone.wait(WAIT)
    assert queue.submit(int, 2).result(WAIT) == 2
    assert len(counting.made) == 2


def test_a_task_longer_than_the_idle_timeout_keeps_its_executor(registry: Registry, counting: type[Counting]) -> None:
    queue = registry.configure("cpu", executor=counting, idle_timeout=0.0)
    with Gate(queue) as gate:
        registry.configure("cpu", maxsize=5)  # wakes the worker, which has nothing to do, and no patience
        assert [executor.closed for executor in counting.made] == [False]
    assert gate.task.result(WAIT) is None


def test_a_made_executor_is_shut_down_when_another_takes_its_place(registry: Registry, counting: type[Counting]) -> None:
    queue = registry.configure("cpu", executor=counting)
    queue.submit(int, 1).result(WAIT)
    queue.flush(WAIT)
    registry.configure("cpu", executor=None)
    assert [executor.closed for executor in counting.made] == [True]
    assert queue.submit(int, 2).result(WAIT) == 2


def test_a_handed_in_executor_is_its_owners_to_close(registry: Registry, counting: type[Counting]) -> None:
    with counting(1) as own:
        queue = registry.configure("cpu", executor=own, idle_timeout=0.0)
        queue.submit(int, 1).result(WAIT)
        queue.shutdown()
        assert not own.closed


def test_a_process_pool_made_by_offload_does_not_fork_a_program_with_threads(
    default_registry: ModuleType,
) -> None:
    queue = default_registry.configure("cpu", executor=ProcessPoolExecutor)
    assert queue.submit(start_method).result(SLOW) in ("spawn", "forkserver")


def test_a_callable_that_makes_no_executor(registry: Registry) -> None:
    queue = registry.configure("cpu", executor=dict, on_error=lambda task, error: None)
    with pytest.raises(ConfigurationError, match=r"'cpu'.*executor.*returned \{\}"):
        queue.submit(int, 1).result(WAIT)


def test_a_callable_that_raises(registry: Registry) -> None:
    def fail() -> Executor:
        raise OSError("no cluster")

    queue = registry.configure("cpu", executor=fail, on_error=lambda task, error: None)
    with pytest.raises(OSError, match="no cluster") as failed:
        queue.submit(int, 1).result(WAIT)
    assert "queue 'cpu'" in failed.value.__notes__[0]


# --- Executors that break, close, or are none

BREAKING = [
    pytest.param(ProcessPoolExecutor, id="stdlib"),
    pytest.param(lokys, id="loky", marks=needs_loky),
]


@pytest.mark.parametrize("make", BREAKING)
def test_a_made_pool_that_breaks_is_made_anew_for_what_waits(make: Callable[[], Executor], default_registry: ModuleType) -> None:
    default_registry.configure("cpu", executor=make, on_error=lambda task, error: None)
    tasks = [double(1), die(), *(double(n) for n in range(10))]
    default_registry.flush("cpu", timeout=SLOW)
    died = tasks.pop(1)
    with pytest.raises(BrokenExecutor, match=r"test_executors\.die was lost: its executor broke"):
        died.result(WAIT)
    assert [task.result(WAIT) for task in tasks] == [2, *range(0, 20, 2)]


@pytest.mark.parametrize("make", [spawning, *BREAKING[1:]])
def test_a_handed_in_pool_that_breaks_stays_broken_and_every_task_says_so(make: Callable[[], Executor], default_registry: ModuleType) -> None:
    told: list[str] = []
    pool = make()
    try:
        default_registry.configure("cpu", executor=pool, on_error=lambda task, error: told.append(task.name))
        tasks = [die(), double(1), double(2)]
        default_registry.flush("cpu", timeout=SLOW)
        assert all(isinstance(task.exception(WAIT), BrokenExecutor) for task in tasks)
        assert "configure('cpu', executor=...)" in str(tasks[2].exception())
        assert len(told) == 3
        default_registry.configure("cpu", executor=None)
        with pytest.raises(ConfigurationError, match="broken"):
            default_registry.configure("cpu", executor=pool)
    finally:
        pool.shutdown()


@needs_dask
@pytest.mark.parametrize("executor", ["dask"], indirect=True)
def test_a_task_that_kills_its_dask_workers_fails_alone(cpu: Queue) -> None:
    tasks = [double(1), die(), double(2), double(3)]
    assert [tasks[n].result(SLOW) for n in (0, 2, 3)] == [2, 4, 6]
    with pytest.raises(OffloadError, match=r"test_executors\.die was lost .*KilledWorker"):
        tasks[1].result(SLOW)


def test_an_executor_that_its_owner_shuts_down_while_tasks_wait(registry: Registry) -> None:
    pool = ThreadPoolExecutor(1)
    queue = registry.configure("cpu", executor=pool, on_error=lambda task, error: None)
    with Gate(queue) as gate:
        waiting = [queue.submit(int, n) for n in range(3)]
        pool.shutdown(wait=False)
    assert gate.task.result(WAIT) is None
    for task in waiting:
        with pytest.raises(OffloadError, match=r"int was not run: ThreadPoolExecutor does not take it"):
            task.result(WAIT)
    queue.flush(WAIT)
    assert (queue.stats().failed, queue.stats().succeeded) == (3, 1)


def test_a_task_that_its_executor_cancels(registry: Registry) -> None:
    pool = ThreadPoolExecutor(1)
    hold = threading.Event()
    pool.submit(hold.wait, WAIT)
    queue = registry.configure("cpu", executor=pool, on_error=lambda task, error: None)
    task = queue.submit(int, 1)
    while not queue.stats().running:
        threading.Event().wait(0.001)
    while pool._work_queue.empty():
        threading.Event().wait(0.001)
    pool.shutdown(wait=False, cancel_futures=True)
    hold.set()
    with pytest.raises(OffloadError, match="cancelled"):
        task.result(WAIT)
    assert not task.cancelled()
    queue.flush(WAIT)
    assert queue.stats().failed == 1


@pytest.mark.parametrize("make", [threading_, spawning, pytest.param(lokys, marks=needs_loky)])
def test_an_executor_that_was_shut_down_is_refused(make: Callable[[], Executor], registry: Registry) -> None:
    pool = make()
    pool.shutdown()
    with pytest.raises(ConfigurationError, match=r"configure\('cpu'\): executor=.*shut down"):
        registry.configure("cpu", executor=pool)


class Bare:
    """The least that can be called an executor: no cancel_futures, no map, not even a base class."""

    def __init__(self) -> None:
        self.waits: list[bool] = []

    def submit(self, fn: Callable[[], object]) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn())
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool) -> None:
        self.waits.append(wait)


def test_the_least_of_an_executor_will_do(registry: Registry) -> None:
    bare = Bare()
    queue = registry.configure("cpu", executor=lambda: bare, workers=2)
    assert [queue.submit(int, n).result(WAIT) for n in range(3)] == [0, 1, 2]
    queue.shutdown()
    assert bare.waits == [True]


def test_a_submit_that_returns_no_future(registry: Registry) -> None:
    class Wrong(Bare):
        def submit(self, fn: Callable[[], object]) -> Any:
            return fn()

    queue = registry.configure("cpu", executor=Wrong(), on_error=lambda task, error: None)
    with pytest.raises(OffloadError, match="no Future"):
        queue.submit(int, 1).result(WAIT)


class Pickling(Bare):
    """Of a library that offload knows nothing of: it pickles what it is given, as it likes, and shows it by its `repr`."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []
        self.tokens: list[str] = []

    def submit(self, fn: Callable[[], object]) -> Future[Any]:
        there = pickle.loads(pickle.dumps(fn))
        self.shown.append(f"{there.__name__}: {there!r}")
        self.tokens.append(there.__dask_tokenize__())
        return super().submit(lambda: pickle.loads(pickle.dumps(there())))


def test_an_executor_that_pickles_by_itself(default_registry: ModuleType) -> None:
    pickling = Pickling()
    queue = default_registry.configure("cpu", executor=pickling, on_error=lambda task, error: None)
    tasks = [double(4), double(4), double_soon(5), Scale(3).scale(4), queue.submit(partial(double.call, 4))]
    assert [task.result(WAIT) for task in tasks] == [8, 8, 10, 12, 8]
    error = boom("what").exception(WAIT)
    assert type(error) is ValueError
    assert "in boom" in str(error.__cause__)
    queue.flush(WAIT)
    assert pickling.shown[0] == "double: <call of test_executors.double>"
    assert pickling.tokens[0] != pickling.tokens[1], "Dask would run the second call of the same only once"


def test_what_an_executor_that_pickles_by_itself_cannot_pickle_fails_in_words(default_registry: ModuleType) -> None:
    default_registry.configure("cpu", executor=Pickling(), on_error=lambda task, error: None)
    with pytest.raises(OffloadError, match=r"test_executors\.double was not run: Pickling does not take it \(TypeError: .*lock"):
        double(threading.Lock()).result(WAIT)  # type: ignore[arg-type]
    with pytest.raises(PicklingError, match=r"<lambda> can't go to another process.*top of a module"):
        default_registry.queue("cpu").submit(NAMELESS[0]).result(WAIT)
    assert double(1).result(WAIT) == 2


class Failing(Bare):
    """Its futures end with an error of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def submit(self, fn: Callable[[], object]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (PicklingError("not this"), PicklingError, r"builtins\.int can't go to another process.*: not this\."),
        (OSError("no route"), OffloadError, r"builtins\.int was lost by Failing: OSError: no route"),
    ],
)
def test_what_an_executor_itself_raises_is_told_apart_from_what_a_task_raises(
    error: Exception, kind: type[Exception], words: str, registry: Registry
) -> None:
    queue = registry.configure("cpu", executor=Failing(error), on_error=lambda task, error: None)
    with pytest.raises(kind, match=words) as failed:
        queue.submit(int, 1).result(WAIT)
    assert failed.value.__cause__ is error
    queue.flush(WAIT)
    assert queue.stats().failed == 1


def test_a_made_executor_that_broke_before_it_got_the_task_is_made_anew_for_it(registry: Registry) -> None:
    made: list[Bare] = []

    class Broken(Bare):
        def submit(self, fn: Callable[[], object]) -> Future[Any]:
            raise BrokenExecutor("while it was idle")

    def make() -> Any:
        made.append(Bare() if made else Broken())
        return made[-1]

    queue = registry.configure("cpu", executor=make)
    assert queue.submit(int, 3).result(WAIT) == 3
    queue.shutdown()
    assert [executor.waits for executor in made] == [[False], [True]]


def test_two_tasks_that_one_break_takes_with_it_cost_one_executor(registry: Registry) -> None:
    """Each of the two finds that its executor broke; the second must not take away the one that was made since."""

    class Slow(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.futures: list[Future[Any]] = []

        def submit(self, fn: Callable[[], object]) -> Future[Any]:
            if len(made) > 1:
                return super().submit(fn)
            self.futures.append(Future())
            if len(self.futures) == 2:
                both.set()
            return self.futures[-1]

    made: list[Slow] = []
    both = threading.Event()

    def make() -> Any:
        made.append(Slow())
        return made[-1]

    queue = registry.configure("cpu", executor=make, workers=2, on_error=lambda task, error: None)
    first, second = queue.submit(int, 1), queue.submit(int, 2)
    assert both.wait(WAIT)
    made[0].futures[0].set_exception(BrokenExecutor("both"))
    assert isinstance(first.exception(WAIT), BrokenExecutor)
    assert queue.submit(int, 3).result(WAIT) == 3
    made[0].futures[1].set_exception(BrokenExecutor("both"))
    assert isinstance(second.exception(WAIT), BrokenExecutor)
    assert queue.submit(int, 4).result(WAIT) == 4
    queue.shutdown()
    assert [executor.waits for executor in made] == [[False], [True]]


def test_a_made_executor_that_cannot_be_shut_down_is_said_to_be_and_stops_nothing(
    registry: Registry, errors: Callable[[], list[logging.LogRecord]]
) -> None:
    class Stuck(Bare):
        def shutdown(self, wait: bool) -> None:
            raise OSError("no answer")

    queue = registry.configure("cpu", executor=Stuck)
    assert queue.submit(int, 1).result(WAIT) == 1
    queue.shutdown()
    (told,) = errors()
    assert told.getMessage() == "queue 'cpu' could not shut down the executor that it made"
    assert told.exc_info is not None
    assert str(told.exc_info[1]) == "no answer"


def test_an_executor_that_was_never_needed_is_never_made(registry: Registry, counting: type[Counting]) -> None:
    registry.configure("cpu", executor=counting)
    queue = registry.configure("cpu", executor=None)
    assert queue.submit(int, 1).result(WAIT) == 1
    assert counting.made == []


def test_where_no_thread_starts_for_the_results_they_come_on_the_executors(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_threads(monkeypatch, "offload-cpu-results")
    names: list[str] = []
    with ThreadPoolExecutor(1, "pool") as pool:
        queue = registry.configure("cpu", executor=pool, on_error=lambda task, error: names.append(threading.current_thread().name))
        assert queue.submit(int, 1).result(WAIT) == 1
        assert type(queue.submit(boom.call).exception(WAIT)) is ValueError
        queue.flush(WAIT)
        queue.shutdown()
    assert names == ["pool_0"]


@pytest.mark.parametrize(("chosen", "told"), [("fork", "spawn"), (None, "spawn"), ("spawn", None), ("forkserver", None)])
def test_a_made_process_pool_spawns_unless_the_program_has_chosen_better(
    chosen: str | None, told: str | None, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[Any] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, max_workers: int | None = None, mp_context: Any = None) -> None:
            super().__init__(max_workers)
            contexts.append(mp_context)

    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: chosen)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["fork", "spawn"])  # the first is the platform's default
    queue = registry.configure("cpu", executor=Pool)
    assert queue.submit(int, 1).result(WAIT) == 1
    assert [context and context.get_start_method() for context in contexts] == [told]


def test_a_task_that_comes_while_the_worker_ends_keeps_the_executor(
    registry: Registry, counting: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 An idle worker's time is up. 2 A task comes, and a new worker runs it. 3 The old one lets go of what it had made: not now."""
    ending, go, over = threading.Event(), threading.Event(), threading.Event()
    ends = Handed.worker_ends

    def worker_ends(self: Handed, core: Any) -> None:
        ending.set()
        assert go.wait(WAIT)
        ends(self, core)
        over.set()

    monkeypatch.setattr(Handed, "worker_ends", worker_ends)
    queue = registry.configure("cpu", executor=counting, idle_timeout=0.01)
    assert queue.submit(int, 1).result(WAIT) == 1
    assert ending.wait(WAIT)
    with Gate(queue) as gate:
        go.set()
        assert over.wait(WAIT)
        assert [executor.closed for executor in counting.made] == [False]
    assert gate.task.result(WAIT) is None
    queue.shutdown()
    assert [executor.closed for executor in counting.made] == [True]


# --- Leaving the program

LATE = """
from offload import offload, configure

@offload(queue="cpu")
def work(name):
    ran(name)
"""


@needs_loky
@pytest.mark.parametrize("first", ["work('first').result(20)", "work('first')"], ids=["started", "not started"])
def test_loky_gets_every_waiting_task_at_exit(first: str) -> None:
    """Each of its pools registers an exit hook of its own, ahead of offload's; late in a program's life it fails to."""
    left = run(
        LATE,
        f"""
        if __name__ == "__main__":
            import loky
            configure("cpu", executor=lambda: loky.ProcessPoolExecutor(1))
            {first}
            for number in range(10): work(number)
        """,
        tasks=False,
        options=("-W", "ignore::ResourceWarning"),
    )
    assert left == Left(stderr=Like("(.*resource_tracker.*)?"), ran=once("first", *range(10)))


@needs_loky
def test_what_the_script_decorates_goes_to_loky_undecorated() -> None:
    """Its processes need not have the script: what one task calls of it comes along, and runs there and then."""
    left = run(
        """
        from offload import offload, configure, flush

        @offload(queue="cpu")
        def add(x, y): return x + y

        @offload(queue="cpu")
        def outer(x, function): return add(x, 1) + function(x, 2)

        import loky
        configure("cpu", executor=lambda: loky.ProcessPoolExecutor(1))
        say(outer(10, add).result(20))
        """,
        tasks=False,
        how="-c",
        options=("-W", "ignore::ResourceWarning"),
    )
    assert left == Left(stdout="23\n", stderr=Like("(.*resource_tracker.*)?"))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.skipif(not STARTS_THREADS_AT_EXIT, reason="CPython 3.12.0 to 3.12.2 start no process at exit")
def test_a_pool_that_forks_its_processes_only_while_the_program_drains() -> None:
    """A fork has the script already, though CPython has forgotten its path by then."""
    left = run(
        LATE,
        """
        import concurrent.futures, multiprocessing

        @offload(queue="first")
        def late():
            leaving()
            work(1).result(20)
            work(2)

        pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
        configure("cpu", executor=pool)
        late()
        """,
        tasks=False,
    )
    assert left == Left(ran=once(1, 2))


@needs_dask
def test_dask_gets_every_waiting_task_at_exit() -> None:
    left = run(
        LATE,
        """
        def make():
            from distributed import Client, LocalCluster
            cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
            return Client(cluster).get_executor()

        if __name__ == "__main__":
            configure("cpu", executor=make)
            for number in range(10): work(number)
        """,
        tasks=False,
        options=("-W", "ignore"),
    )
    assert left.ran == once(*range(10))
    assert left.status == 0


@pytest.mark.skipif(not STARTS_THREADS_AT_EXIT, reason="CPython 3.12.0 to 3.12.2 start no thread at exit")
def test_calls_of_exit_handlers_run_though_the_executor_has_closed() -> None:
    """Thread pools take nothing more once exit handlers run; the tasks run on the worker thread."""
    left = run("""
        import atexit
        from concurrent.futures import ThreadPoolExecutor
        configure(executor=ThreadPoolExecutor)
        @offload
        def fail():
            raise ValueError("boom")
        task(1)
        flush()
        atexit.register(task, 2)
        atexit.register(fail)
    """)
    assert left == Left(stderr=Like(r".*__main__\.fail.*ValueError: boom\n"), ran=once(1, 2))


# --- The example


def test_outgrow() -> None:
    example = Path(__file__).parent.parent / "examples" / "outgrow.py"
    ended = subprocess.run(
        [sys.executable, "-X", "dev", example, "--rounds", "320"],
        capture_output=True,
        encoding="utf-8",
        timeout=110,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    title, _, *ways, same, interval, advice = ended.stdout.splitlines()
    assert title.startswith("320 samples of 272 eruptions in 16 calls, by ")
    assert [way[3:14].strip() for way in ways] == ["this thread", "threads", "processes", "Dask"]
    assert same == "Every way gives the same numbers: True"
    assert re.fullmatch(r"A minute more of eruption: 10\.\d to 11\.\d minutes more to wait .*", interval)
    assert advice.startswith("Advice: ")


@pytest.mark.parametrize(("gil", "said"), [(True, "too busy to tell"), (False, "runs threads on all cores")])
def test_outgrow_does_not_take_noise_for_parallel_threads(monkeypatch: pytest.MonkeyPatch, gil: bool, said: str) -> None:
    example = Path(__file__).parent.parent / "examples" / "outgrow.py"
    spec = importlib.util.spec_from_file_location("outgrow", example)
    assert spec is not None and spec.loader is not None
    outgrow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(outgrow)
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: gil, raising=False)
    runs = {way: outgrow.Run(0.0, work, []) for way, work in (("this thread", 2.0), ("threads", 1.0), ("processes", 1.2))}
    assert said in outgrow.advice(runs, 2)


# -- an executor that raises from submit, and has the call all the same ------------------------------------------------------


class Grudging(ThreadPoolExecutor):
    """What a ThreadPoolExecutor does that can't start a thread: it queues the call, raises, and an older thread may run it."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__(1)
        self.at_once = at_once
        self.queued: list[Future[Any]] = []
        self.started = threading.Event()
        self.gate = threading.Event()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.queued.append(super().submit(self._run, fn))
        if self.at_once:
            assert self.started.wait(WAIT)
        raise RuntimeError("can't start new thread")

    def _run(self, fn: Callable[[], Any]) -> Any:
        if not self.at_once:
            assert self.gate.wait(WAIT)
        return fn()


def test_a_call_that_its_executor_refused_never_runs(registry: Registry) -> None:
    ran: list[int] = []
    with Grudging(at_once=False) as pool:
        task = registry.configure("cpu", executor=pool).submit(ran.append, 1)
        error = task.exception(WAIT)
        pool.gate.set()
        pool.queued[0].result(WAIT)
    assert isinstance(error, OffloadError)
    assert "was not run" in str(error)
    assert ran == []


@pytest.mark.parametrize("answer", [7, KeyError("gone")])
def test_a_call_that_its_executor_refused_and_runs_ends_with_its_outcome(answer: object, registry: Registry) -> None:
    with Grudging(at_once=True) as pool:
        queue = registry.configure("cpu", executor=pool)

        def work() -> object:
            pool.started.set()
            assert pool.gate.wait(WAIT)
            if isinstance(answer, Exception):
                raise answer
            return answer

        task = queue.submit(work)
        assert pool.started.wait(WAIT)
        pool.gate.set()
        outcome = task.exception(WAIT) or task.result()
        assert outcome is answer
        queue.flush(WAIT)
        assert queue.stats().running == 0


def test_the_executor_may_change_as_soon_as_a_result_is_there(registry: Registry) -> None:
    """The task's callbacks may still run then: this one is in their midst."""
    seen: list[object] = []
    with ThreadPoolExecutor(1, "pool") as pool:
        queue = registry.configure("cpu", executor=pool)
        task = queue.submit(int, 1)

        def change(_: Future[int]) -> None:
            try:
                seen.append(registry.configure("cpu", executor=None).settings.executor)
            except ConfigurationError as error:
                seen.append(error)

        task.add_done_callback(change)
        queue.flush(WAIT)
        assert seen == [None]
        assert queue.submit(threading.current_thread).result(WAIT).name == "offload-cpu-0"
