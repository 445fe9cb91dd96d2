"""Leaving the program: nothing accepted is lost, nothing is printed without need, the status stays.

Each test is a program of its own; see scenario.py. `hold` is a task that lasts until the main thread has ended, so
whatever is offloaded behind it provably still waits when the program leaves.
"""

from __future__ import annotations

import contextlib
import sys
import sysconfig
import textwrap

import pytest
from scenario import STARTS_THREADS_AT_EXIT, Left, Like, installed, once, program, run, traceback

needs_threads_at_exit = pytest.mark.skipif(not STARTS_THREADS_AT_EXIT, reason="CPython 3.12.0 to 3.12.2 start no thread and no process at exit")
# Where no thread can start, each queue may say so once.
NO_THREAD = "" if STARTS_THREADS_AT_EXIT else Like(r"([^\n]*thread[^\n]*\n)*")

THREE = """
hold(); task(1); task(2)
"""


# --- Ways of leaving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["file", "-c", "-m", "stdin"])
def test_the_program_ends(how: str) -> None:
    left = run(THREE, how=how)
    assert left == Left(ran=once("hold", 1, 2))
    assert left.order == ["hold", "1", "2"]


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_sys_exit(how: str) -> None:
    assert run(THREE + "sys.exit(3)", how=how) == Left(3, ran=once("hold", 1, 2))


def test_sys_exit_with_a_message() -> None:
    assert run(THREE + "sys.exit('no such run')") == Left(1, stderr="no such run\n", ran=once("hold", 1, 2))


@pytest.mark.parametrize("how", ["file", "-c", "stdin"])
def test_an_uncaught_exception(how: str) -> None:
    left = run(THREE + "raise ValueError('boom')", how=how)
    assert left == Left(1, stderr=traceback("ValueError: boom"), ran=once("hold", 1, 2))


def test_an_uncaught_exception_group() -> None:
    left = run(THREE + "raise ExceptionGroup('several', [ValueError('boom')])")
    assert left == Left(1, stderr=Like(r"  \+ Exception Group .*boom.*"), ran=once("hold", 1, 2))


def test_an_excepthook_that_offloads_its_report() -> None:
    left = run("""
        hold()
        sys.excepthook = lambda kind, error, trace: task(f"report of {error}")
        raise ValueError("boom")
    """)
    assert left == Left(1, ran=once("hold", "report of boom"))


def test_sys_exit_in_a_thread_ends_that_thread_alone() -> None:
    left = run("""
        hold()
        def thread():
            task("thread")
            sys.exit(7)
        started = threading.Thread(target=thread)
        started.start()
        started.join()
        task("main")
    """)
    assert left == Left(ran=once("hold", "thread", "main"))


def test_asyncio_run_ends() -> None:
    left = run("""
        import asyncio
        async def main():
            hold()
            await asyncio.to_thread(task, "to_thread")
            task("loop")
        asyncio.run(main())
    """)
    assert left == Left(ran=once("hold", "to_thread", "loop"))


def test_an_import_alone_starts_and_prints_nothing() -> None:
    left = run("say(threading.active_count(), dict(queues()))")
    assert left == Left(stdout="1 {}\n")


def test_idle_workers_are_gone_before_atexit_handlers_and_teardown() -> None:
    left = run(
        """
        import atexit
        atexit.register(lambda: say([t.name for t in threading.enumerate()]))
        from offload import configure, flush, offload
        configure(workers=3)
        @offload
        def work(barrier):
            barrier.wait(20)
        barrier = threading.Barrier(4)
        for _ in range(3):
            work(barrier)
        barrier.wait(20)
        flush()
        """,
        tasks=False,
    )
    assert left == Left(stdout="['MainThread']\n")


# --- What is drained ---------------------------------------------------------------------------------------------


def test_every_queue_is_drained() -> None:
    left = run("""
        for number in range(20):
            @offload(queue=f"queue-{number}")
            def work(name):
                ran(name)
            hold.using(queue=f"queue-{number}")(f"hold {number}")
            for waiting in range(3):
                work(f"{number} {waiting}")
    """)
    names = [f"{number} {waiting}" for number in range(20) for waiting in ("0", "1", "2")]
    assert left == Left(ran=once(*names, *(f"hold {number}" for number in range(20))))


def test_every_registry_is_drained() -> None:
    left = run("""
        from offload import Registry
        def use():
            registry = Registry("library")
            registry.offload(leaving)()
            registry.offload(ran)("library")
        use()
        hold(); task("application")
    """)
    assert left == Left(ran=once("library", "hold", "application"))


def test_a_thousand_waiting_tasks_keep_their_order() -> None:
    left = run("hold()\nfor number in range(1000): task(number)")
    assert left == Left(ran=once("hold", *range(1000)))
    assert left.order == ["hold", *map(str, range(1000))]


def test_async_tasks_are_drained() -> None:
    left = run("""
        import asyncio
        @offload(queue="async")
        async def work(name):
            while not threading._SHUTTING_DOWN:
                await asyncio.sleep(0.001)
            ran(name)
        configure("async", workers=2)
        for number in range(5):
            work(number)
    """)
    assert left == Left(ran=once(*range(5)))


def test_an_async_task_first_offloaded_while_draining() -> None:
    left = run("""
        import asyncio
        @offload(queue="async")
        async def work(name):
            await asyncio.sleep(0)
            ran(name)
        @offload
        def parent():
            leaving()
            work("async")
        parent()
    """)
    assert left == Left(stderr=NO_THREAD, ran=once("async"))


def test_a_closed_queue_is_drained_all_the_same() -> None:
    left = run("""
        hold(); task(1)
        queue().shutdown(wait=False)
    """)
    assert left == Left(ran=once("hold", 1))


def test_a_handed_in_executor_gets_every_waiting_task() -> None:
    left = run("""
        from concurrent.futures import ThreadPoolExecutor
        configure(executor=ThreadPoolExecutor(2), workers=2)
        hold(); hold("hold 2")
        for number in range(10):
            task(number)
    """)
    assert left == Left(ran=once("hold", "hold 2", *range(10)))


PROCESSES = """
from offload import offload, configure

@offload(queue="processes")
def work(name):
    ran(name)

@offload(queue="processes")
def first():
    gate()
    ran("first")
"""


def test_tasks_in_processes_are_drained() -> None:
    """One process reads the gate's byte; everything else waits behind it."""
    code = PROCESSES + (
        "if __name__ == '__main__':\n"
        "    configure('processes', executor='processes')\n"
        "    first()\n"
        "    for number in range(3): work(number)\n"
        "    say('end')\n"
    )
    with program(code, tasks=False) as running:
        running.until("end")
        running.open_gate()
        assert running.left() == Left(stdout="end\n", ran=once("first", 0, 1, 2))


@needs_threads_at_exit
def test_a_process_pool_executor_gets_every_waiting_task() -> None:
    """Its module is imported after offload, so its own exit hook would run ahead of a hook registered at import."""
    code = PROCESSES + (
        "if __name__ == '__main__':\n"
        "    import multiprocessing\n"
        "    from concurrent.futures import ProcessPoolExecutor\n"
        "    spawn = multiprocessing.get_context('spawn')\n"
        "    configure('processes', executor=ProcessPoolExecutor(1, mp_context=spawn))\n"
        "    first()\n"
        "    for number in range(6): work(number)\n"
        "    say('end')\n"
    )
    with program(code, tasks=False) as running:
        running.until("end")
        running.open_gate()
        assert running.left() == Left(stdout="end\n", ran=once("first", *range(6)))


@needs_threads_at_exit
def test_a_process_pool_imported_after_the_first_use_works_inside_a_task() -> None:
    """The pool is made early and used by a task that starts once the program leaves."""
    code = (
        "from offload import offload\n"
        "@offload\n"
        "def warm(): pass\n"
        "@offload\n"
        "def use(pool):\n"
        "    leaving()\n"
        "    ran(f'task {pool.submit(abs, -5).result(20)}')\n"
        "if __name__ == '__main__':\n"
        "    warm()\n"
        "    import multiprocessing\n"
        "    from concurrent.futures import ProcessPoolExecutor\n"
        "    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn'))\n"
        "    use(pool)\n"
        "    warm()\n"
    )
    assert run(code, tasks=False) == Left(ran=once("task 5"))


def test_failures_while_draining_are_logged() -> None:
    left = run("""
        @offload
        def fail():
            raise ValueError("boom")
        hold(); fail(); task(1)
    """)
    assert left == Left(stderr=Like(r"[^\n]*fail.*Traceback.*ValueError: boom\n"), ran=once("hold", 1))


def test_on_error_runs_while_draining() -> None:
    left = run("""
        @offload
        def fail():
            raise ValueError("boom")
        configure(on_error=lambda failed, error: ran(f"on_error {error}"))
        hold(); fail(); task(1)
    """)
    assert left == Left(ran=once("hold", "on_error boom", 1))


# --- Tasks that need more than they were given -------------------------------------------------------------------


def test_tasks_that_offload_tasks_twenty_deep_on_queues_never_used_before() -> None:
    left = run("""
        def deeper(depth):
            if depth == 0:
                leaving()
            ran(depth)
            if depth < 20:
                offload(queue=f"depth-{depth + 1}")(deeper)(depth + 1)
        offload(deeper)(0)
    """)
    assert left == Left(stderr=NO_THREAD, ran=once(*range(21)))


def test_tasks_that_offload_tasks_on_their_own_queue() -> None:
    left = run("""
        @offload
        def tree(name):
            leaving()
            ran(name)
            if len(name) < 6:
                tree(name + "l"); tree(name + "r")
        tree("t")
    """)
    assert left.status == 0
    assert left.stderr == left.stdout == ""
    assert len(left.ran) == 63
    assert set(left.ran.values()) == {1}


@needs_threads_at_exit
@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "a new thread pool",
            """
            from concurrent.futures import ThreadPoolExecutor
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(ran, ["a", "b"]))
            """,
        ),
        (
            "asyncio.run with to_thread",
            """
            import asyncio
            async def main():
                await asyncio.to_thread(ran, "a")
                ran("b")
            asyncio.run(main())
            """,
        ),
        (
            "a subprocess",
            """
            import subprocess
            done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, check=True)
            ran("a" if done.stdout == b"1\\n" else "nothing")
            ran("b")
            """,
        ),
        (
            "an import",
            """
            import decimal, xml.dom.minidom
            ran("a")
            ran("b")
            """,
        ),
        (
            "threads",
            """
            threads = [threading.Thread(target=ran, args=name) for name in "ab"]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            """,
        ),
        (
            "an atexit handler",
            """
            import atexit
            atexit.register(ran, "a")
            ran("b")
            """,
        ),
    ],
)
def test_a_task_uses_while_draining(name: str, body: str) -> None:
    """The task starts before the main thread ends, and goes on once it has; a second one starts while draining."""
    body = textwrap.indent(textwrap.dedent(body), "    ")
    left = run(f"@offload\ndef use():\n    leaving()\n{body}\nuse()\ntask({name!r})")
    assert left == Left(ran=once("a", "b", name))


@needs_threads_at_exit
def test_a_thread_pool_of_the_application_works_inside_a_task_while_draining() -> None:
    left = run("""
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(2)
        @offload
        def use():
            leaving()
            pool.submit(ran, "pool").result(20)
        use()
    """)
    assert left == Left(ran=once("pool"))


def test_a_thread_started_by_a_task_is_like_any_other() -> None:
    """It is no daemon, so the program waits for it, though its task ended long ago."""
    left = run("""
        def thread():
            leaving()
            ran("thread")
        @offload
        def start():
            started = threading.Thread(target=thread)
            started.start()
            say(started.daemon)
        start()
        flush()
    """)
    assert left == Left(stdout="False\n", ran=once("thread"))


def test_a_timer_and_a_pool_inside_a_task_are_waited_for() -> None:
    left = run("""
        from concurrent.futures import ThreadPoolExecutor
        def later(name):
            leaving()
            ran(name)
        @offload
        def start():
            threading.Timer(0, later, ["timer"]).start()
            ThreadPoolExecutor(1).submit(later, "pool")
        start()
        flush()
    """)
    assert left == Left(ran=once("timer", "pool"))


def test_result_of_a_task_that_waits_behind_this_one() -> None:
    left = run("""
        @offload
        def answer():
            ran("answer")
            return 42
        @offload
        def ask():
            leaving()
            ran(answer().result(20))
        ask()
    """)
    assert left == Left(ran=once("answer", 42))


def test_flush_from_a_task_that_it_would_wait_for_raises_while_draining() -> None:
    left = run("""
        @offload
        def wait():
            leaving()
            try:
                flush()
            except RuntimeError:
                ran("RuntimeError")
        wait()
        task(1)
    """)
    assert left == Left(ran=once("RuntimeError", 1))


@pytest.mark.parametrize("error", ["SystemExit(5)", "KeyboardInterrupt()", "GeneratorExit()", "BaseException()"])
def test_what_a_task_raises_leaves_the_worker_alive_and_the_status_as_it_is(error: str) -> None:
    left = run(f"""
        names = set()
        @offload
        def fail():
            names.add(threading.get_ident())
            raise {error}
        @offload
        def after():
            names.add(threading.get_ident())
            ran("after")
        failed = fail()
        after().result(20)
        say(type(failed.exception(20)).__name__, len(names))
        hold(); fail(); task("last")
    """)
    name = error.partition("(")[0]
    once_logged = rf"[^\n]*fail[^\n]*\nTraceback [^T]*{name}[^\n]*\n"
    assert left == Left(stdout=f"{name} 1\n", stderr=Like(once_logged * 2), ran=once("after", "hold", "last"))


# --- Other exit handlers -----------------------------------------------------------------------------------------


def test_atexit_handlers_registered_before_and_after_the_import_may_offload() -> None:
    left = run(
        """
        import atexit
        atexit.register(lambda: task("before"))
        from offload import offload
        @offload
        def task(name):
            ran(name)
        atexit.register(lambda: task("after"))
        task("main")
        atexit.register(lambda: task("after use"))
        """,
        tasks=False,
    )
    assert left == Left(stderr=NO_THREAD, ran=once("before", "after", "main", "after use"))


def test_an_atexit_handler_is_the_first_to_use_offload() -> None:
    left = run(
        """
        import atexit
        @atexit.register
        def late():
            from offload import offload
            offload(ran)("late")
        """,
        tasks=False,
    )
    assert left == Left(stderr=NO_THREAD, ran=once("late"))


def test_imported_early_and_first_used_by_an_atexit_handler() -> None:
    left = run("""
        import atexit
        atexit.register(lambda: (task("first"), task("second")))
    """)
    assert left == Left(stderr=NO_THREAD, ran=once("first", "second"))


def test_imported_early_and_first_used_by_an_older_atexit_handler() -> None:
    left = run(
        """
        import atexit
        atexit.register(lambda: offload(ran)("first"))
        from offload import offload
        """,
        tasks=False,
    )
    assert left == Left(stderr=NO_THREAD, ran=once("first"))


@pytest.mark.parametrize("handler", ["older", "newer"])
def test_first_used_by_an_atexit_handler_after_a_ctrl_c_kept_the_threads_from_being_ended(handler: str) -> None:
    """The interpreter does not know then that it ends: it takes hooks that it will never run."""
    register = 'atexit.register(lambda: offload(ran)("first"))'
    left = run(
        f"""
        import atexit
        {register if handler == "older" else ""}
        from offload import offload
        {register if handler == "newer" else ""}
        def struck():
            raise KeyboardInterrupt
        threading._shutdown = struck
        """,
        tasks=False,
    )
    ignored = r"Exception ignored[^\n]*\nTraceback [\s\S]*struck[\s\S]*KeyboardInterrupt[^\n]*\n"
    assert left == Left(stderr=Like(ignored + r"([^\n]*no thread can be started[^\n]*\n)?"), ran=once("first"))


def test_a_ctrl_c_at_the_entry_of_the_last_drain_is_made_up_for() -> None:
    """What an older handler calls then finds that calls run in place."""
    left = run(
        """
        import atexit
        atexit.register(lambda: task("older"))
        from offload import _exit, flush, offload
        @offload
        def task(name):
            ran(f"{name} {threading.current_thread() is threading.main_thread()}")
        task("main")
        flush()
        check_process = _exit.check_process
        def struck():
            _exit.check_process = check_process
            raise KeyboardInterrupt
        @atexit.register
        def arm():
            _exit.check_process = struck
        """,
        tasks=False,
    )
    assert left == Left(stderr=Like(r"Exception ignored[\s\S]*KeyboardInterrupt[^\n]*\n"), ran=once("main False", "older True"))


def test_tasks_offloaded_by_atexit_handlers_offload_tasks_in_their_turn() -> None:
    left = run(
        """
        import atexit
        atexit.register(lambda: deeper("before", 0))
        from offload import offload
        def deeper(name, depth):
            ran(f"{name} {depth}")
            if depth < 20:
                offload(queue=f"{name}-{depth}")(deeper)(name, depth + 1)
        atexit.register(lambda: deeper("after", 0))
        offload(ran)("main")
        """,
        tasks=False,
    )
    names = [f"{name} {depth}" for name in ("before", "after") for depth in range(21)]
    assert left == Left(stderr=NO_THREAD, ran=once("main", *names))


def test_an_atexit_handler_that_waits_for_its_task() -> None:
    left = run(
        """
        import atexit
        atexit.register(lambda: say("before", task("before").result(20)))
        from offload import offload, flush
        @offload
        def task(name):
            ran(name)
            return threading.current_thread() is not None
        @atexit.register
        def after():
            say("after", task("after").result(20))
            task("flushed")
            flush(timeout=20)
            say("flushed")
        task("main")
        """,
        tasks=False,
    )
    assert left == Left(
        stdout="after True\nflushed\nbefore True\n",
        stderr=NO_THREAD,
        ran=once("main", "before", "after", "flushed"),
    )


def test_a_finalizer_and_a_logging_handler_that_offload_at_exit() -> None:
    left = run("""
        import logging, weakref
        class Resource: pass
        kept = Resource()
        weakref.finalize(kept, lambda: task("finalize"))
        class Ship(logging.Handler):
            def emit(self, record): task(record.getMessage())
            def close(self):
                task("close")
                super().close()
        logging.getLogger("app").addHandler(Ship())
        logging.getLogger("app").warning("shipped")
        hold()
    """)
    assert left == Left(stderr=NO_THREAD, ran=once("finalize", "close", "shipped", "hold"))


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="free-threaded builds clear __main__ before such objects go")
def test_del_during_the_teardown_runs_its_call_in_place() -> None:
    left = run("""
        class Resource:
            def __del__(self, task=task):
                task("del")
        kept = Resource()
        hold(); task(1)
    """)
    assert left == Left(stderr=NO_THREAD, ran=once("hold", 1, "del"))


def test_del_during_the_teardown_may_be_the_first_to_have_its_arguments_copied() -> None:
    """Nothing can be imported any more."""
    left = run(
        """
        import builtins
        from offload import offload
        @offload(snapshot=True)
        def task(names):
            ran(*names)
        class Late:
            def __del__(self, task=task):
                task(["del"])
        offload(ran)("main")
        builtins.late = Late()
        """,
        tasks=False,
    )
    assert left == Left(stderr=NO_THREAD, ran=once("main", "del"))


def test_a_call_of_a_thread_that_nobody_joins_just_before_calls_run_in_place() -> None:
    """1. The last drain has found no work. 2. Such a thread calls. 3. Calls run in place from here on. The call of step 2 is waited for."""
    left = run("""
        from offload import _drain
        _drain.LAST_JOIN = 0.0  # as if it took longer than an idle thread may
        go, called = threading.Event(), threading.Event()
        @offload
        def late():
            time.sleep(0.3)
            ran("late")
        def thread():
            go.wait()
            late()
            called.set()
            threading.Event().wait()
        threading.Thread(target=thread, daemon=True).start()
        in_place, struck = _drain._in_place, []
        def after_a_call(monitor):
            if not struck:
                struck.append(True)
                go.set()
                called.wait()
            in_place(monitor)
        _drain._in_place = after_a_call
        hold()
    """)
    assert left.ran == once("hold", "late")
    assert left.status == 0


def test_other_exit_handlers_run_after_one_that_raises() -> None:
    left = run("""
        import atexit
        atexit.register(lambda: ran("first"))
        @atexit.register
        def bad():
            task("bad")
            raise ValueError("boom")
        hold()
    """)
    assert left == Left(
        stderr=Like(r"(?:[^\n]*thread[^\n]*\n)?Exception ignored in atexit callback.*ValueError: boom\n"),
        ran=once("hold", "bad", "first"),
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_without_the_private_hook_of_threading_atexit_alone_drains(when: str) -> None:
    """`threading._register_atexit` may vanish from any version of Python."""
    left = run(
        """
        import concurrent.futures.thread
        del threading._register_atexit
        from offload import offload
        @offload
        def task(name): ran(name)
        @offload
        def hold():
            leaving()
            task("nested")
        hold(); task(1)
        """,
        tasks=False,
    )
    assert left == Left(ran=once(1, "nested"))


def test_without_the_private_hook_of_threading_an_executor_that_offload_makes_is_drained_too() -> None:
    left = run(
        """
        import concurrent.futures.thread
        del threading._register_atexit
        from offload import offload, configure, flush
        class Pool(concurrent.futures.Executor):  # none that closes ahead of atexit, as a ThreadPoolExecutor does
            def submit(self, fn):
                future = concurrent.futures.Future()
                future.set_result(fn())
                return future
        @offload
        def task(name): ran(name)
        @offload
        def hold():
            leaving()
            task("nested")
        configure(executor=Pool)
        hold(); task(1)
        """,
        tasks=False,
    )
    assert left == Left(ran=once(1, "nested"))


def test_a_method_that_the_interpreter_itself_calls_was_called_from_nowhere() -> None:
    """No Python code stands below an exit handler."""
    left = run("""
        import atexit
        class Mailer:
            @offload
            def send(self):
                ran("send")
                raise ValueError("no server")
        task(1)
        atexit.register(Mailer().send)
    """)
    assert left == Left(stderr=Like(r".*Mailer\.send.*<unknown>.*ValueError: no server\n"), ran=once(1, "send"))


# --- Threads that outlive the main one ---------------------------------------------------------------------------


def test_non_daemon_threads_that_outlive_main_are_drained() -> None:
    left = run("""
        def outlive(name):
            threading.main_thread().join()
            for number in range(5):
                task(f"{name} {number}")
        for name in "ab":
            threading.Thread(target=outlive, args=name).start()
        task("main")
    """)
    names = [f"{name} {number}" for name in "ab" for number in range(5)]
    assert left == Left(stderr=NO_THREAD, ran=once("main", *names))


def test_a_thread_that_outlives_main_uses_a_queue_never_used_before() -> None:
    left = run("""
        def outlive():
            threading.main_thread().join()
            offload(queue="new")(ran)("new")
        threading.Thread(target=outlive).start()
    """)
    assert left == Left(stderr=NO_THREAD, ran=once("new"))


def test_a_thread_that_outlives_main_waits_for_its_tasks() -> None:
    left = run("""
        def outlive():
            threading.main_thread().join()
            say(task("waited for").result(20))
            task("flushed")
            flush(timeout=20)
            say("flushed")
        threading.Thread(target=outlive).start()
    """)
    assert left == Left(stdout="None\nflushed\n", stderr=NO_THREAD, ran=once("waited for", "flushed"))


def test_threads_blocked_on_a_full_queue_at_exit() -> None:
    """Four callers hang on a queue of one while the program leaves: all their calls are accepted, and run."""
    left = run("""
        import logging
        logging.disable()
        configure(maxsize=1)
        started = threading.Barrier(5)
        def caller(name):
            started.wait(20)
            for number in range(5):
                task(f"{name} {number}")
        hold(); task("fills it")
        for name in "abcd":
            threading.Thread(target=caller, args=name).start()
        started.wait(20)
    """)
    names = [f"{name} {number}" for name in "abcd" for number in range(5)]
    assert left == Left(ran=once("hold", "fills it", *names))


def test_a_daemon_thread_that_never_stops_calling_does_not_break_the_exit() -> None:
    left = run("""
        configure_exit(timeout=0.3)
        running = threading.Event()
        def forever():
            while True:
                offload(time.sleep)(0.001)
                running.set()
        threading.Thread(target=forever, daemon=True).start()
        running.wait(20)
        mark()
    """)
    assert left == Left(stderr=Like(r"([^\n]*(full|left behind|behind at exit)[^\n]*\n)*"))
    assert left.seconds < 1.5


# --- Deadlines ---------------------------------------------------------------------------------------------------

STUCK = """
@offload(queue="plots")
def stuck():
    ran("stuck")
    threading.Event().wait()

@offload(queue="plots")
def plot(name):
    ran(name)
"""
GRACE = 0.5  # seconds after the deadline


def test_at_the_deadline_a_stuck_task_is_left_behind_and_named() -> None:
    left = run(STUCK + "configure_exit(timeout=0.3)\nstuck(); plot(1); plot(2)\nmark()")
    warning = Like(r"[^\n]*plots[^\n]*\n(?:[^\n]+\n)*")
    assert left == Left(stderr=warning, ran=once("stuck"))
    assert "3" in left.stderr or "2" in left.stderr
    assert "stuck" in left.stderr
    assert "plot" in left.stderr
    assert 0.3 <= left.seconds < 0.3 + GRACE


def test_the_status_stays_at_the_deadline() -> None:
    left = run(STUCK + "configure_exit(timeout=0.1)\nstuck()\nmark()\nsys.exit(3)")
    assert left == Left(3, stderr=Like(r"[^\n]*plots.*stuck.*\n"), ran=once("stuck"))
    assert left.seconds < 0.1 + GRACE


def test_what_was_abandoned_is_a_warning_of_offloads_loggers_with_a_count_for_each_queue() -> None:
    left = run("""
        import logging
        logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
        configure_exit(timeout=0.1)
        @offload
        def forever(): threading.Event().wait()
        @offload
        def waits(): ran("never")
        for name, waiting in ("plots", 7), ("mails", 11):
            forever.using(queue=name)()
            for _ in range(waiting):
                waits.using(queue=name)()
    """)
    assert left == Left(stderr=Like(r"(WARNING offload[^\n]*\n(?!WARNING)(?:[^\n]+\n)*?){1,2}"))
    for name, numbers in ("plots", "78"), ("mails", ("11", "12")):
        assert name in left.stderr
        assert any(number in left.stderr for number in numbers)
    assert "forever" in left.stderr
    assert left.stderr.count("waits") < 18  # the first few names


def test_one_deadline_for_all_queues_together() -> None:
    left = run("""
        configure_exit(timeout=0.3)
        for number in range(6):
            offload(queue=f"q{number}")(threading.Event().wait)()
        mark()
    """)
    assert left == Left(stderr=Like(".*q0.*q5.*"))
    assert 0.3 <= left.seconds < 0.3 + GRACE


@needs_threads_at_exit
def test_one_deadline_for_all_phases_together() -> None:
    """What atexit handlers and threads that outlive main offload to stuck queues gets no deadline of its own."""
    left = run("""
        import atexit
        def outlive():
            threading.main_thread().join()
            offload(queue="thread")(threading.Event().wait)()
        configure_exit(timeout=0.4)
        offload(queue="main")(threading.Event().wait)()
        atexit.register(lambda: offload(queue="atexit")(threading.Event().wait)())
        threading.Thread(target=outlive).start()
        mark()
    """)
    assert left == Left(stderr=Like(".*main.*"))
    assert "thread" in left.stderr
    assert "atexit" in left.stderr
    assert 0.4 <= left.seconds < 0.4 + GRACE


def test_what_the_first_phase_left_of_the_deadline_serves_the_later_ones() -> None:
    left = run("""
        import atexit
        configure_exit(timeout=20)
        atexit.register(lambda: task("atexit"))
        hold(); task(1)
    """)
    assert left == Left(stderr=NO_THREAD, ran=once("hold", 1, "atexit"))


@pytest.mark.parametrize("setting", ["code", "environment", "configure_from"])
def test_where_the_deadline_is_set(setting: str) -> None:
    given = {
        "code": "configure_exit(timeout=0.2)",
        "environment": "configure_exit(timeout=30)",
        "configure_from": "from offload import configure_from\nconfigure_from({'exit': {'timeout': 0.2}})",
    }[setting]
    env = {"OFFLOAD_EXIT__TIMEOUT": "0.2"} if setting == "environment" else {}
    left = run(STUCK + given + "\nstuck()\nmark()", env=env)
    assert left == Left(stderr=Like(".*stuck.*"), ran=once("stuck"))
    assert 0.2 <= left.seconds < 0.2 + GRACE


def test_a_deadline_of_nothing_waits_for_nothing() -> None:
    left = run(STUCK + "configure_exit(timeout=0)\nstuck(); plot(1)\nmark()")
    assert left.status == 0
    assert left.stdout == ""
    assert "plot" in left.stderr
    assert left.seconds < GRACE


def test_a_registry_with_a_shorter_deadline_leaves_the_others_alone() -> None:
    left = run("""
        from offload import Registry
        library = Registry("library", exit_timeout=0.2)
        library.offload(queue="metrics")(threading.Event().wait)()
        library.offload(queue="metrics")(ran)("never")
        @offload
        def outlasts():
            leaving()
            time.sleep(0.6)
            ran("outlasts")
        outlasts(); task("application")
        mark()
    """)
    assert left == Left(stderr=Like("[^\n]*metrics.*"), ran=once("outlasts", "application"))
    assert "default" not in left.stderr
    assert left.seconds < 0.6 + GRACE


def test_a_registry_cannot_lengthen_the_shared_deadline() -> None:
    left = run("""
        from offload import Registry
        configure_exit(timeout=0.2)
        Registry("library", exit_timeout=30).offload(threading.Event().wait)()
        mark()
    """)
    assert left == Left(stderr=Like(".+\n"))
    assert 0.2 <= left.seconds < 0.2 + GRACE


def test_abandoned_calls_count_as_cancelled() -> None:
    """The program's own handler runs after offload's, as it was registered first."""
    left = run(
        """
        import atexit
        @atexit.register
        def last():
            s = stats()["default"]
            say(s.waiting, s.cancelled, [t.cancelled() for t in waiting])
            say(s.submitted == s.succeeded + s.failed + s.cancelled + s.dropped + s.coalesced + s.waiting + s.running)
        from offload import offload, configure_exit, stats
        configure_exit(timeout=0.1)
        @offload
        def stuck(): threading.Event().wait()
        stuck()
        waiting = [stuck(), stuck()]
        """,
        tasks=False,
    )
    assert left.status == 0
    assert "stuck" in left.stderr
    first, second = left.stdout.splitlines()
    assert first in ("0 2 [True, True]", "0 3 [True, True]")
    assert second == "True"


def test_a_waiter_for_an_abandoned_call_is_released() -> None:
    left = run("""
        from concurrent.futures import CancelledError
        configure_exit(timeout=0.2)
        offload(threading.Event().wait)()
        waiting = task("never")
        def outlive():
            try:
                waiting.result(20)
            except CancelledError:
                ran("released")
        threading.Thread(target=outlive).start()
    """)
    assert left == Left(stderr=Like(".*task.*"), ran=once("released"))


def test_tasks_that_end_before_the_deadline_print_nothing() -> None:
    assert run("configure_exit(timeout=20)" + THREE) == Left(ran=once("hold", 1, 2))


def test_stuck_async_tasks_are_left_behind() -> None:
    left = run("""
        import asyncio
        configure_exit(timeout=0.2)
        running = threading.Event()
        @offload
        async def forever():
            running.set()
            await asyncio.Event().wait()
        forever()
        task("never")
        running.wait(20)
        mark()
    """)
    assert left == Left(stderr=Like(".*forever.*"))
    assert 0.2 <= left.seconds < 0.2 + GRACE


def test_stuck_processes_are_left_behind_and_die() -> None:
    """The test would wait for a process that lives on, as it holds the program's output."""
    code = (
        "from offload import offload, configure, configure_exit\n"
        "@offload\n"
        "def forever():\n"
        "    say('running')\n"
        "    threading.Event().wait()\n"
        "if __name__ == '__main__':\n"
        "    configure(executor='processes')\n"
        "    configure_exit(timeout=0.2)\n"
        "    forever()\n"
        "    gate()\n"
        "    mark()\n"
    )
    with program(code, tasks=False) as running:
        running.until("running")
        running.open_gate()
        left = running.left()
    assert left == Left(stdout="running\n", stderr=Like(".*forever.*"))
    assert left.seconds < 0.2 + 2 * GRACE


def test_a_process_that_starts_only_after_the_deadline_is_killed_and_its_task_stays_left_behind() -> None:
    """It was said to be left behind; that it was lost with its process would be a second end."""
    left = run(
        """
        import logging, multiprocessing.connection, multiprocessing.process
        from offload import offload, configure, configure_exit

        said, started = threading.Event(), []
        start = multiprocessing.process.BaseProcess.start

        def start_late(process):
            say("starting")
            said.wait(20)
            start(process)
            started.append(process)

        class Said(logging.StreamHandler):
            def emit(self, record):
                super().emit(record)
                said.set()

        def see_it_die():  # on a thread that is waited for, while the worker may be left behind
            said.wait(20)
            while not started:
                time.sleep(0.001)
            multiprocessing.connection.wait([started[0].sentinel])
            worker, = (thread for thread in threading.enumerate() if thread.name == "offload-cpu-0")
            in_offload(worker)

        @offload(queue="cpu")
        def work():
            ran("work")

        if __name__ == "__main__":
            multiprocessing.process.BaseProcess.start = start_late
            logging.getLogger("offload").addHandler(Said())
            configure("cpu", executor="processes", on_error=lambda task, error: say("failed", error))
            configure_exit(timeout=0.1)
            work()
            threading.Thread(target=see_it_die).start()
        """,
        tasks=False,
    )
    assert left == Left(stdout="starting\n", stderr=Like(r"left 1 offloaded call behind at exit \(the deadline of 0\.1 s passed\)[^\n]*work\)\n"))


def test_a_process_whose_own_exit_handler_hangs_is_killed_at_the_deadline() -> None:
    """Its queue is idle by then: there is nothing to be said."""
    left = run(
        """
        import atexit
        from offload import offload, configure, configure_exit

        @offload(queue="cpu")
        def hang_at_exit():
            atexit.register(threading.Event().wait)

        if __name__ == "__main__":
            configure("cpu", executor="processes")
            configure_exit(timeout=0.3)
            hang_at_exit().result(20)
            mark()
        """,
        tasks=False,
    )
    assert left == Left()
    assert 0.3 <= left.seconds < 0.3 + 2 * GRACE


def test_a_caller_that_is_blocked_when_nobody_drains_any_more_runs_its_call_in_place() -> None:
    """The queue is given up with its stuck task, and full again with what a daemon thread offloads behind it."""
    left = run(
        STUCK,
        """
        import atexit, logging

        done = threading.Event()

        class Blocked(logging.Handler):
            def emit(self, record):
                if "behind at exit" in record.getMessage():
                    told.append(record.getMessage())
                    if len(told) == 1:
                        in_offload(caller)

        def call():
            for number in range(100):
                plot(number)
                if number in seen:
                    done.set()

        seen, told = set(), []

        @offload(queue="plots")
        def plot(number):
            seen.add(number)

        # Older than offload's own handler, so it runs after it. Told: the stuck task and what waited behind it, then what waited there later on.
        atexit.register(lambda: say(done.wait(20), *told))
        logging.getLogger("offload").addHandler(Blocked())
        configure("plots", maxsize=1)
        configure_exit(timeout=0.1)
        stuck()
        caller = threading.Thread(target=call, daemon=True)
        caller.start()
        """,
    )
    said = Like(r"True left \d+ offloaded calls behind at exit [^\n]*stuck[^\n]*( left \d+ offloaded calls? behind at exit [^\n]*plot[^\n]*)+\n")
    assert left == Left(stdout=said, ran=once("stuck"))


def test_a_drain_that_fails_is_shown_and_stops_no_other_handler() -> None:
    """Here a filter of the application's on offload's logger fails."""
    left = run(
        STUCK,
        """
        import atexit, logging
        atexit.register(lambda: ran("older handler"))
        logging.getLogger("offload").addFilter(lambda record: 1 / 0)
        configure_exit(timeout=0.1)
        stuck()
        threading.Thread(target=lambda: (leaving(), ran("thread"))).start()
        """,
    )
    assert left == Left(stderr=traceback("ZeroDivisionError: division by zero"), ran=once("stuck", "older handler", "thread"))


# --- Progress ----------------------------------------------------------------------------------------------------

LONG = """
@offload
def long():
    gate()
    ran("long")
long(); task(1); task(2)
say("end")
"""


def test_progress_counts_down_on_a_terminal_after_a_second() -> None:
    with program("mark()" + LONG, terminal=True) as running:
        running.until(r"\d", stream="stderr")
        running.open_gate()
        left = running.left()
    assert left == Left(stdout="end\n", stderr=Like(".*[123].*"), ran=once("long", 1, 2))
    assert left.seconds > 1.0


def test_progress_true_forces_it() -> None:
    with program("configure_exit(progress=True)" + LONG) as running:
        running.until(r"\d", stream="stderr")
        running.open_gate()
        assert running.left() == Left(stdout="end\n", stderr=Like(".*[123].*"), ran=once("long", 1, 2))


LASTS = """
@offload
def lasts():
    leaving()
    time.sleep(1.5)  # time itself is tested: longer than the second of patience
    ran("lasts")
lasts(); task(1)
"""


def test_no_progress_where_it_would_not_be_seen_or_is_not_wanted() -> None:
    """Without a stderr as under pythonw, or in a daemon that closed its streams. The programs run side by side, as each has to last."""
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(program(given + LASTS, terminal=terminal))
            for name, given, terminal in (
                ("no terminal", "", False),
                ("progress=False", "configure_exit(progress=False)", True),
                ("stderr is None", "sys.stderr = None", False),
                ("stderr is closed", "sys.stderr.close()", False),
            )
        }
        left = {name: each.left() for name, each in running.items()}
    assert left == dict.fromkeys(running, Left(ran=once("lasts", 1)))


def test_no_progress_where_the_wait_is_short() -> None:
    with program(THREE, terminal=True) as running:
        assert running.left() == Left(ran=once("hold", 1, 2))


# --- No thread can start -----------------------------------------------------------------------------------------

NO_THREADS = """
def refuse(*args, **kwargs):
    raise RuntimeError("can't start new thread")
import _thread
for module in _thread, threading:
    for name in "start_new_thread", "_start_new_thread", "start_joinable_thread", "_start_joinable_thread":
        if hasattr(module, name):
            setattr(module, name, refuse)
"""
WARNED_ONCE = Like(r"[^\n]*thread[^\n]*\n")


def test_where_no_thread_can_start_the_caller_runs_its_calls_in_order() -> None:
    left = run(
        NO_THREADS,
        """
        for number in range(10):
            task(number)
            ran(f"after {number}")
        """,
    )
    names = [name for number in range(10) for name in (number, f"after {number}")]
    assert left == Left(stderr=WARNED_ONCE, ran=once(*names))
    assert left.order == [str(name) for name in names]


def test_where_no_thread_can_start_results_flush_and_failures_are_as_ever() -> None:
    left = run(
        NO_THREADS,
        """
@offload
def answer(): return 42
@offload
def fail(): raise ValueError("boom")
say(answer().result(0), type(fail().exception(0)).__name__)
flush(timeout=20)
s = stats()["default"]
say(s.submitted, s.succeeded, s.failed, s.waiting, s.running)
""",
    )
    assert left == Left(stdout="42 ValueError\n2 1 1 0 0\n", stderr=Like(r"[^\n]*thread[^\n]*\n.*fail.*ValueError: boom\n"))


def test_where_no_thread_can_start_async_tasks_run_too() -> None:
    left = run(
        NO_THREADS,
        """
import asyncio
@offload
async def work(name):
    await asyncio.sleep(0)
    ran(name)
work(1)
task(2)
""",
    )
    assert left == Left(stderr=WARNED_ONCE, ran=once(1, 2))
    assert left.order == ["1", "2"]


def test_where_no_second_thread_can_start_the_first_goes_on_alone() -> None:
    left = run("configure(workers=4)\nhold()\n" + NO_THREADS + "for number in range(10): task(number)")
    assert left.status == 0
    assert left.stderr == Like(r"([^\n]*thread[^\n]*\n)?")
    assert left.ran == once("hold", *range(10))


def test_where_no_thread_can_start_while_draining() -> None:
    """The limit is reached as a task offloads to queues never used before, and to its own."""
    left = run(
        """
@offload
def deeper(depth):
    leaving()
    ran(depth)
    if depth < 20:
        deeper.using(queue=f"depth-{depth // 2}")(depth + 1)
deeper(0)
"""
        + NO_THREADS
    )
    assert left.status == 0
    assert left.stderr == Like(r"([^\n]*thread[^\n]*\n)*")
    assert left.ran == once(*range(21))


def test_threads_that_can_start_again_are_used_again() -> None:
    left = run("""
        real = threading.Thread.start
        def refuse(self):
            raise RuntimeError("can't start new thread")
        threading.Thread.start = refuse
        @offload
        def where():
            return threading.current_thread() is threading.main_thread()
        say(where().result(20))
        threading.Thread.start = real
        say(where().result(20))
        hold(); task(1)
    """)
    assert left.stdout.splitlines()[0] == "True"
    assert left == Left(stdout="True\nFalse\n", stderr=Like(r"([^\n]*thread[^\n]*\n)?"), ran=once("hold", 1))


# --- Other runtimes ----------------------------------------------------------------------------------------------

GREEN = """
@offload
def work(name): ran(name)
configure("wide", workers=3)
for number in range(5):
    work(number)
    work.using(queue="wide")(f"wide {number}")
say(work("result").result(20))
flush(timeout=20)
@offload
def nested(name):
    ran(name)
    work.using(queue="late")(f"{name} late")
nested("nested")
"""
GREEN_RAN = once(*range(5), *(f"wide {number}" for number in range(5)), "result", "nested", "nested late")
PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()\n",
    "eventlet": "import eventlet; eventlet.monkey_patch()\n",
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("library", list(PATCHES))
def test_monkey_patched(library: str, when: str) -> None:
    if not installed(library):
        pytest.skip(f"{library} is not installed")
    offload = "from offload import offload, configure, flush\n"
    patch = PATCHES[library]
    first = patch + offload if when == "before" else offload + patch
    left = run(first, GREEN, tasks=False, options=["-W", "ignore"])
    assert left == Left(stdout="None\n", ran=GREEN_RAN)


SUBINTERPRETER = """
import {module} as interpreters
inner = '''
import os
def ran(name):
    log = os.open(os.environ["SCENARIO_RUNS"], os.O_WRONLY | os.O_APPEND)
    os.write(log, f"{{name}}\\\\n".encode())
    os.close(log)
from offload import offload, configure, flush
@offload
def work(name): ran(name)
for number in range(5):
    work(number)
flush(timeout=20)
@offload
def nested():
    work.using(queue="late")("late")
nested()
'''
interpreter = interpreters.create()
interpreters.run_string(interpreter, inner)
interpreters.destroy(interpreter)
say("destroyed")
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="3.12 is the first with isolated subinterpreters")
@pytest.mark.skipif(not STARTS_THREADS_AT_EXIT, reason="CPython 3.12.1 crashes at its end once a subinterpreter has imported asyncio")
def test_an_isolated_subinterpreter_that_is_destroyed() -> None:
    """It refuses daemon threads, so its workers are of the other kind, and end all the same."""
    module = "_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters"
    left = run(SUBINTERPRETER.format(module=module), tasks=False, options=["-W", "ignore"])
    assert left == Left(stdout="destroyed\n", ran=once(*range(5), "late"))


# --- The ways that lose memory queues ----------------------------------------------------------------------------


def test_os_exit_loses_what_waits_and_says_nothing() -> None:
    left = run("""
        @offload
        def first():
            ran("first")
            running.set()
            threading.Event().wait()
        running = threading.Event()
        first(); task("never")
        running.wait(20)
        os._exit(4)
    """)
    assert left == Left(4, ran=once("first"))


def test_flush_before_os_exit_loses_nothing() -> None:
    left = run("for number in range(5): task(number)\nflush(timeout=20)\nos._exit(4)")
    assert left == Left(4, ran=once(*range(5)))
