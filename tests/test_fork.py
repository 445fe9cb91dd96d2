"""Children: each starts with the same settings, empty queues and fresh locks, and drains its own at its end.

In most programs the parent's `hold` lasts until the parent leaves, so that its queue is busy, and something waits
behind it, at the moment of the fork. The child of a child that inherited a task would run it a second time.
"""

from __future__ import annotations

import os
import sys

import pytest
from scenario import STARTS_THREADS_AT_EXIT, Left, Like, once, run, traceback

if not hasattr(os, "fork"):
    pytest.skip("this platform has no fork", allow_module_level=True)

# Where no thread can start, each queue may say so once.
NO_THREAD = "" if STARTS_THREADS_AT_EXIT else Like(r"([^\n]*thread[^\n]*\n)*")

PARENT = """
hold(); task("parent")
"""

# --- os.fork -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leave", "status"), [("sys.exit(5)", 5), ("sys.exit()", 0), ("pass", 0)])
def test_a_child_drains_its_own_and_leaves_the_parents_alone(leave: str, status: int) -> None:
    left = run(
        PARENT,
        f"""
        child = os.fork()
        if child == 0:
            hold("child holds"); task("child")
            {leave}
        else:
            say(status_of(child))
        """,
    )
    assert left == Left(0, f"{status}\n", "", once("hold", "parent", "child holds", "child"))


def test_a_child_that_ends_in_an_uncaught_exception() -> None:
    left = run(
        PARENT,
        """
        child = os.fork()
        if child == 0:
            hold("child holds"); task("child")
            raise ValueError("boom")
        say(status_of(child))
        """,
    )
    boom = Like(r"Traceback .*ValueError: boom\n")
    assert left == Left(0, "1\n", boom, once("hold", "parent", "child holds", "child"))


def test_a_child_that_flushes_before_os_exit() -> None:
    left = run(
        PARENT,
        """
        child = os.fork()
        if child == 0:
            for number in range(5):
                task(number)
            flush(timeout=20)
            os._exit(6)
        say(status_of(child))
        """,
    )
    assert left == Left(0, "6\n", "", once("hold", "parent", *range(5)))


def test_a_child_that_never_offloads_runs_nothing() -> None:
    left = run(PARENT, "child = os.fork()\nif child == 0: sys.exit(5)\nsay(status_of(child))")
    assert left == Left(0, "5\n", "", once("hold", "parent"))


def test_children_of_children() -> None:
    left = run(
        PARENT,
        """
        for depth in range(4):
            child = os.fork()
            if child:
                say(depth, status_of(child))
                if depth: sys.exit(depth)
                break
            hold(f"holds {depth}"); task(f"task {depth}")
        """,
    )
    names = [f"{kind} {depth}" for kind in ("holds", "task") for depth in range(4)]
    assert left == Left(0, "3 0\n2 3\n1 2\n0 1\n", "", once("hold", "parent", *names))


def test_many_children_at_once() -> None:
    left = run(
        PARENT,
        """
        children = []
        for number in range(10):
            child = os.fork()
            if child == 0:
                hold(f"holds {number}"); task(f"task {number}")
                sys.exit(number)
            children.append(child)
        say([status_of(child) for child in children])
        """,
    )
    names = [f"{kind} {number}" for kind in ("holds", "task") for number in range(10)]
    assert left == Left(0, f"{list(range(10))}\n", "", once("hold", "parent", *names))


def test_a_child_starts_with_the_same_settings_and_empty_queues() -> None:
    left = run(
        """
        from offload import Registry, configure_exit
        configure("plots", workers=3, maxsize=7, on_full="drop_oldest", idle_timeout=5.0)
        library = Registry("library", workers=2)
        library.offload(leaving)()
        hold.using(queue="plots")()
        """,
        PARENT.replace("hold()", "hold('default')"),
        """
        before = {name: each.settings for name, each in queues().items()}
        child = os.fork()
        if child == 0:
            say(before == {name: each.settings for name, each in queues().items()})
            s = [*stats().values(), *library.stats().values()]
            say([(each.submitted, each.waiting, each.running, each.workers) for each in s])
            flush(timeout=20)
            task.using(queue="plots")("child")
            library.offload(ran)("library")
            sys.exit(0)
        say(status_of(child))
        """,
    )
    ran = once("hold", "default", "parent", "child", "library")
    assert left == Left(0, "True\n[(0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)]\n0\n", "", ran)


def test_a_queue_object_and_a_decorated_function_of_the_parent_work_in_the_child() -> None:
    left = run(
        """
        plots = configure("plots", workers=2)
        plots.submit(leaving)
        child = os.fork()
        if child == 0:
            say(plots.submit(abs, -3).result(20), list(plots.map(abs, [-1, -2])))
            say(queue("plots") is plots)
            sys.exit(0)
        say(status_of(child))
        """
    )
    assert left == Left(0, "3 [1, 2]\nTrue\n0\n")


def test_a_deadline_set_before_the_fork_holds_in_the_child() -> None:
    left = run(
        """
        configure_exit(timeout=0.3)
        task("parent")
        flush()
        child = os.fork()
        if child == 0:
            mark()
            @offload(queue="plots")
            def stuck(): threading.Event().wait()
            stuck()
            sys.exit(5)
        say(status_of(child))
        """
    )
    assert left == Left(0, "5\n", Like(r"[^\n]*plots.*stuck.*\n"), once("parent"))
    assert left.seconds < 1.3


def test_a_child_made_while_the_parent_drains() -> None:
    if not STARTS_THREADS_AT_EXIT:
        pytest.skip("CPython 3.12.0 to 3.12.2 fork no process at exit")
    left = run(
        """
        @offload
        def forks():
            leaving()
            child = os.fork()
            if child == 0:
                offload(queue="child")(ran)("child")
                flush("child", timeout=20)
                os._exit(5)
            ran(status_of(child))
        forks(); task("parent")
        """
    )
    assert left == Left(0, "", "", once("child", 5, "parent"))


def test_handlers_of_the_parent_run_in_a_child_that_os_fork_made() -> None:
    """They are inherited, and their offloaded calls drain in each process."""
    left = run(
        """
        import atexit
        atexit.register(lambda: task(f"before {who}"))
        from offload import offload
        @offload
        def task(name): ran(name)
        atexit.register(lambda: task(f"after {who}"))
        who = "parent"
        child = os.fork()
        if child == 0:
            who = "child"
            sys.exit(0)
        say(status_of(child))
        """,
        tasks=False,
    )
    names = [f"{when} {who}" for when in ("before", "after") for who in ("parent", "child")]
    assert left == Left(0, "0\n", NO_THREAD, once(*names))


def test_a_first_use_in_the_child_alone() -> None:
    left = run("child = os.fork()\nif child == 0: hold(); task('child')\nelse: say(status_of(child))")
    assert left == Left(0, "0\n", "", once("hold", "child"))


def test_an_import_in_the_child_alone() -> None:
    left = run(
        """
        child = os.fork()
        if child == 0:
            from offload import offload
            offload(leaving)()
            offload(ran)("child")
        else:
            say(status_of(child))
        """,
        tasks=False,
    )
    assert left == Left(0, "0\n", "", once("child"))


def test_forkpty() -> None:
    left = run(
        PARENT,
        """
        import pty
        child, terminal = pty.fork()
        if child == 0:
            task("child")
            sys.exit(5)
        say(status_of(child))
        os.close(terminal)
        """,
    )
    assert left == Left(0, "5\n", "", once("hold", "parent", "child"))


def test_async_tasks_in_parent_and_child() -> None:
    """The event loop of the parent's queue does not run in the child: it gets one of its own."""
    left = run(
        """
        import asyncio
        @offload(queue="async")
        async def work(name):
            await asyncio.sleep(0)
            ran(name)
        work("parent before").result(20)
        child = os.fork()
        if child == 0:
            work("child").result(20)
            work("child again")
            sys.exit(0)
        say(status_of(child))
        work("parent after")
        """
    )
    assert left == Left(0, "0\n", "", once("parent before", "child", "child again", "parent after"))


def test_a_child_offloads_to_processes_of_its_own() -> None:
    code = (
        "from offload import offload, configure\n"
        "@offload\n"
        "def work(name): ran(name)\n"
        "if __name__ == '__main__':\n"
        "    configure(executor='processes')\n"
        "    work('parent').result(20)\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        work('child').result(20)\n"
        "        work('child again')\n"
        "        sys.exit(5)\n"
        "    say(status_of(child))\n"
        "    work('parent again')\n"
    )
    left = run(code, tasks=False)
    assert left == Left(0, "5\n", "", once("parent", "child", "child again", "parent again"))


# --- A handed-in executor ----------------------------------------------------------------------------------------


def test_a_handed_in_executor_is_refused_in_the_child_until_it_is_configured_anew() -> None:
    left = run(
        """
        from concurrent.futures import ThreadPoolExecutor
        from offload import ConfigurationError
        configure(executor=ThreadPoolExecutor(1))
        task("parent").result(20)
        child = os.fork()
        if child == 0:
            try:
                task("never")
            except ConfigurationError as error:
                say("executor" in str(error))
            configure(executor=ThreadPoolExecutor(1))
            task("child with a pool").result(20)
            configure(executor=None)
            task("child without")
            sys.exit(0)
        say(status_of(child))
        task("parent again")
        """
    )
    ran = once("parent", "child with a pool", "child without", "parent again")
    assert left == Left(0, "True\n0\n", "", ran)


def test_a_callable_makes_a_fresh_executor_in_the_child() -> None:
    left = run(
        """
        from concurrent.futures import ThreadPoolExecutor
        def make():
            ran(f"make {who}")
            return ThreadPoolExecutor(1)
        who = "parent"
        configure(executor=make)
        task("parent").result(20)
        child = os.fork()
        if child == 0:
            who = "child"
            task("child").result(20)
            task("child again")
            sys.exit(0)
        say(status_of(child))
        """
    )
    assert left == Left(0, "0\n", "", once("make parent", "parent", "make child", "child", "child again"))


# --- A parent's Task in the child --------------------------------------------------------------------------------


def test_waiting_in_the_child_for_a_parents_unfinished_task_raises_at_once() -> None:
    left = run(
        """
        import asyncio
        from offload import OffloadError
        done = task("done")
        done.result(20)
        running = hold()
        waiting = task("parent")
        async def wait(parents):
            return await parents
        child = os.fork()
        if child == 0:
            for parents in running, waiting:
                for ask in (
                    lambda: parents.result(),
                    lambda: parents.result(timeout=20),
                    lambda: parents.exception(),
                    lambda: asyncio.run(wait(parents)),
                ):
                    try:
                        say("no error", ask())
                    except OffloadError as error:
                        say("fork" in str(error) or "process" in str(error))
            say(done.result(), done.exception(), asyncio.run(wait(done)))
            sys.exit(0)
        say(status_of(child))
        """
    )
    assert left == Left(0, "True\n" * 8 + "None None None\n0\n", "", once("done", "hold", "parent"))


def test_the_parents_result_arrives_in_the_parent_though_a_child_asked_and_cancelled() -> None:
    left = run(
        """
        from offload import OffloadError
        let = threading.Event()
        @offload
        def answer():
            let.wait(20)
            return 42
        asked, waiting, cancelled = answer(), answer(), answer()
        cancelled.cancel()
        child = os.fork()
        if child == 0:
            try:
                asked.result()
            except OffloadError:
                pass
            say(asked.cancel(), waiting.cancel(), cancelled.cancel())
            sys.exit(0)
        status_of(child)
        let.set()
        say(asked.result(20), asked.cancelled(), waiting.result(20), waiting.cancelled())
        """
    )
    assert left == Left(0, "False False True\n42 False 42 False\n")


# --- Forks at awkward moments ------------------------------------------------------------------------------------

BUSY = """
import logging, random
logging.disable()
@offload(queue="busy")
def work(): pass
def call():
    while not stop.is_set():
        work()
        offload(queue=f"q{random.randrange(3)}")(work.__wrapped__)()
for number in range(3):
    configure(f"q{number}", maxsize=50)
stop = threading.Event()
callers = [threading.Thread(target=call, daemon=True) for _ in range(2)]
"""


@pytest.mark.parametrize("settings", ["workers=2, maxsize=50", "workers=2, maxsize=1", "maxsize=2, on_full='drop_oldest'"])
def test_two_hundred_and_ten_forks_while_other_threads_are_in_the_middle_of_calls(settings: str) -> None:
    left = run(
        BUSY,
        f"""
        configure("busy", {settings})
        for caller in callers: caller.start()
        statuses = set()
        for number in range(210):
            child = os.fork()
            if child == 0:
                # Every lock that a call takes would hang here if another thread held it at the fork.
                work().result(20)
                flush(timeout=20)
                stats(), queues()
                os._exit(7)
            statuses.add(status_of(child))
        stop.set()
        for caller in callers: caller.join(20)
        say(statuses, any(caller.is_alive() for caller in callers))
        """,
    )
    assert left == Left(0, "{7} False\n")


def test_forks_while_other_threads_call_and_the_child_leaves_by_itself() -> None:
    left = run(
        BUSY,
        """
        for caller in callers: caller.start()
        statuses = set()
        for number in range(10):
            child = os.fork()
            if child == 0:
                stop.set()
                task(number)
                sys.exit(7)
            statuses.add(status_of(child))
        stop.set()
        for caller in callers: caller.join(20)
        say(statuses)
        """,
    )
    assert left == Left(0, "{7}\n", "", once(*range(10)))


def test_forks_while_other_threads_configure_and_look() -> None:
    left = run(
        BUSY,
        """
        def look():
            while not stop.is_set():
                configure("busy", workers=random.randrange(1, 4))
                stats()
                flush("busy", timeout=20)
        callers.append(threading.Thread(target=look, daemon=True))
        for caller in callers[1:]: caller.start()
        statuses = set()
        for number in range(100):
            child = os.fork()
            if child == 0:
                configure("busy", workers=2)
                work().result(20)
                flush(timeout=20)
                os._exit(7)
            statuses.add(status_of(child))
        stop.set()
        for caller in callers[1:]: caller.join(20)
        say(statuses)
        """,
    )
    assert left == Left(0, "{7}\n")


def test_a_fork_inside_a_task_never_enters_the_workers_loop() -> None:
    """The child comes back from the task, and ends there: what waits behind the task is the parent's alone."""
    left = run(
        """
        go_on = threading.Event()
        children = []
        @offload
        def forks():
            go_on.wait(20)
            child = os.fork()
            if child:
                children.append(child)
            ran("in the child" if child == 0 else "in the parent")
        forks(); task(1); task(2)
        go_on.set()
        flush(timeout=20)
        status_of(children[0])
        task(3)
        """
    )
    assert left == Left(ran=once("in the child", "in the parent", 1, 2, 3))


@pytest.mark.parametrize(
    ("ends", "status", "stderr"),
    [
        ("pass", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(5)", 5, ""),
        ("sys.exit('no more')", 1, "no more\n"),
        ("1 / 0", 1, traceback("ZeroDivisionError: division by zero")),
    ],
)
def test_a_child_made_inside_a_task_has_the_status_that_a_program_would_have(ends: str, status: int, stderr: str) -> None:
    left = run(
        f"""
        children = []
        @offload
        def forks():
            child = os.fork()
            if child == 0:
                offload(queue="other")(ran)("child")
                {ends}
            else:
                children.append(child)
        forks().result(20)
        say(status_of(children[0]))
        """
    )
    assert left == Left(0, f"{status}\n", stderr, once("child"))


@pytest.mark.parametrize("ends", ["flush(timeout=20); os._exit(5)", "flush(timeout=20); sys.exit(5)"])
def test_a_child_made_inside_a_task_offloads_and_flushes_by_itself(ends: str) -> None:
    left = run(
        f"""
        go_on = threading.Event()
        children = []
        @offload
        def forks():
            go_on.wait(20)
            child = os.fork()
            if child == 0:
                for number in range(5):
                    task(number)
                offload(queue="other")(ran)("other")
                {ends}
            children.append(child)
        forks(); task("parent")
        go_on.set()
        flush(timeout=20)
        status = status_of(children[0])
        """,
        "say(status)" if "os._exit" in ends else "",
    )
    assert left.stdout == ("5\n" if "os._exit" in ends else "")
    assert left.ran == once(*range(5), "other", "parent")
    assert left.status == 0


def test_a_multiprocessing_child_made_inside_a_task() -> None:
    left = run(
        """
        import multiprocessing
        @offload
        def forks():
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join(20)
            ran(f"status {process.exitcode}")
        def child():
            task("child")
            flush(timeout=20)
        forks(); task("parent")
        flush(timeout=20)
        """
    )
    assert left == Left(ran=once("status 0", "child", "parent"))


def test_a_fork_that_runs_no_at_fork_hooks() -> None:
    """As uwsgi's. The parent is idle then, as nothing mends Python's own locks in such a child."""
    if "free-threading" in sys.version:
        pytest.skip("the free-threaded interpreter does not survive a fork behind its back")
    left = run(
        """
        import ctypes
        hold_it = threading.Event()
        @offload(queue="busy")
        def wait(): hold_it.wait(20)
        running = wait()
        offload(queue="busy")(ran)("parent")
        task("parent before").result(20)
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            hold_it = threading.Event()
            for number in range(5):
                task(number)
            offload(queue="busy")(ran)("child")
            flush(timeout=20)
            say("flushed")
            os._exit(5)
        say(status_of(child))
        hold_it.set()
        """
    )
    assert left == Left(0, "flushed\n5\n", "", once("parent before", *range(5), "child", "parent"))


def test_a_fork_that_runs_no_at_fork_hooks_and_leaves_by_sys_exit() -> None:
    if "free-threading" in sys.version:
        pytest.skip("the free-threaded interpreter does not survive a fork behind its back")
    left = run(
        """
        import ctypes
        task("parent before").result(20)
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            hold("child holds"); task("child")
            sys.exit(5)
        say(status_of(child))
        task("parent after")
        """
    )
    assert left == Left(0, "5\n", "", once("parent before", "child holds", "child", "parent after"))


def test_a_fork_that_runs_no_at_fork_hooks_and_never_offloads() -> None:
    """It ends, though a thread that does not exist there held the lock."""
    if "free-threading" in sys.version:
        pytest.skip("the free-threaded interpreter does not survive a fork behind its back")
    left = run(
        """
        import ctypes
        from offload import _monitor
        held, forked = threading.Event(), threading.Event()
        def hold_lock():
            with _monitor.current.lock:
                held.set()
                forked.wait(20)
        threading.Thread(target=hold_lock, daemon=True).start()
        held.wait(20)
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            sys.exit(5)
        say(status_of(child))
        forked.set()
        """
    )
    assert left == Left(0, "5\n")


# --- multiprocessing ---------------------------------------------------------------------------------------------

MULTI = """
import multiprocessing.util
from offload import offload, flush, stats

def exit_function(finalize=multiprocessing.util._exit_function):
    finalizing.set()
    finalize()
multiprocessing.util._exit_function = exit_function

@offload
def task(name):
    ran(name)

@offload
def hold(name="hold"):
    ran(name)
    leaving()

def child(name):
    task(f"{name} 1")
    hold(f"{name} holds")
    task(f"{name} 2")

def pooled(number):
    task(number)
    return number

if __name__ == "__main__":
    hold(); task("parent")
"""
METHODS = ["fork", "spawn", "forkserver"]
CHILD_RAN = ("child 1", "child holds", "child 2")


@pytest.mark.parametrize("method", METHODS)
def test_a_multiprocessing_process(method: str) -> None:
    left = run(
        MULTI,
        f"""
        if __name__ == "__main__":
            process = multiprocessing.get_context("{method}").Process(target=child, args=["child"])
            process.start()
            process.join(20)
            say(process.exitcode)
        """,
        tasks=False,
    )
    assert left == Left(0, "0\n", "", once("hold", "parent", *CHILD_RAN))


@pytest.mark.parametrize("method", METHODS)
def test_a_multiprocessing_process_that_the_parent_joins_at_its_own_exit(method: str) -> None:
    left = run(
        MULTI,
        f"""
        if __name__ == "__main__":
            multiprocessing.get_context("{method}").Process(target=child, args=["child"]).start()
        """,
        tasks=False,
    )
    assert left == Left(0, "", "", once("hold", "parent", *CHILD_RAN))


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_that_is_closed_and_joined(method: str) -> None:
    left = run(
        MULTI,
        f"""
        if __name__ == "__main__":
            pool = multiprocessing.get_context("{method}").Pool(2)
            say(sorted(pool.map(pooled, range(10))))
            pool.close()
            pool.join()
        """,
        tasks=False,
    )
    assert left == Left(0, f"{list(range(10))}\n", "", once("hold", "parent", *range(10)))


@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_process_pool_executor(method: str) -> None:
    left = run(
        MULTI,
        f"""
        if __name__ == "__main__":
            from concurrent.futures import ProcessPoolExecutor
            with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("{method}")) as pool:
                say(sorted(pool.map(pooled, range(10))))
        """,
        tasks=False,
    )
    assert left == Left(0, f"{list(range(10))}\n", "", once("hold", "parent", *range(10)))


@pytest.mark.parametrize("method", METHODS)
def test_a_task_of_a_child_that_puts_on_a_multiprocessing_queue_while_it_drains(method: str) -> None:
    """Before 3.13 a drain behind multiprocessing's own finalizers would lose what the task puts."""
    left = run(
        MULTI,
        f"""
        @offload
        def put(channel):
            leaving()
            ran("put")
            channel.put("arrived")

        def put_later(channel):
            put(channel)

        if __name__ == "__main__":
            context = multiprocessing.get_context("{method}")
            channel = context.Queue()
            process = context.Process(target=put_later, args=[channel])
            process.start()
            say(channel.get(timeout=20))
            process.join(20)
            say(process.exitcode)
        """,
        tasks=False,
    )
    assert left == Left(0, "arrived\n0\n", "", once("hold", "parent", "put"))


def test_a_multiprocessing_child_that_fails() -> None:
    left = run(
        MULTI,
        """
        def fails():
            child("child")
            raise ValueError("boom")
        if __name__ == "__main__":
            process = multiprocessing.get_context("fork").Process(target=fails)
            process.start()
            process.join(20)
            say(process.exitcode)
        """,
        tasks=False,
    )
    boom = Like(r"Process .*Traceback .*ValueError: boom\n")
    assert left == Left(0, "1\n", boom, once("hold", "parent", *CHILD_RAN))


def test_a_multiprocessing_child_that_calls_sys_exit() -> None:
    left = run(
        MULTI,
        """
        def leaves():
            child("child")
            sys.exit(5)
        if __name__ == "__main__":
            process = multiprocessing.get_context("fork").Process(target=leaves)
            process.start()
            process.join(20)
            say(process.exitcode)
        """,
        tasks=False,
    )
    assert left == Left(0, "5\n", "", once("hold", "parent", *CHILD_RAN))


def test_exit_handlers_of_a_multiprocessing_child() -> None:
    """Its own run from 3.13 on; before, multiprocessing runs none. The parent's never run there."""
    left = run(
        MULTI,
        """
        import atexit
        def registers():
            atexit.register(lambda: task("child's handler"))
            child("child")
        if __name__ == "__main__":
            atexit.register(lambda: task("parent's handler"))
            process = multiprocessing.get_context("fork").Process(target=registers)
            process.start()
            process.join(20)
            say(process.exitcode)
        """,
        tasks=False,
    )
    handlers = ["parent's handler", *(["child's handler"] if sys.version_info >= (3, 13) else [])]
    assert left == Left(0, "0\n", NO_THREAD, once("hold", "parent", *CHILD_RAN, *handlers))


def test_a_socketserver_that_forks() -> None:
    """Its children end by os._exit, so the handler flushes; on loopback."""
    left = run(
        PARENT,
        """
        import socket, socketserver
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                task(f"request {self.request.recv(1).decode()}")
                flush(timeout=20)
        class Server(socketserver.ForkingMixIn, socketserver.TCPServer):
            block_on_close = True
        with Server(("127.0.0.1", 0), Handler) as server:
            for number in range(3):
                with socket.create_connection(server.server_address) as client:
                    client.sendall(str(number).encode())
                    server.handle_request()
                    client.recv(1)
        """,
    )
    assert left == Left(0, "", "", once("hold", "parent", *(f"request {number}" for number in range(3))))
