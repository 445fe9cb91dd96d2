"""Signals: Ctrl-C once and twice, drain_on_signal, and calls made wherever Python may interrupt a call.

A signal is sent once the program has said that it stands where it should, so each race is made to happen.
`in_offload()` is a task's wait until the main thread stands still in a call of offload's, `draining()` the same
once the program leaves. That a Ctrl-C has arrived shows in the Tasks that it abandons.
"""

from __future__ import annotations

import signal
import textwrap

import pytest
from scenario import STARTS_THREADS_AT_EXIT, Left, Like, once, program, run, traceback

INTERRUPTED = traceback("KeyboardInterrupt")
GRACE = 0.5  # seconds

DRAIN = """
import atexit
atexit.register(lambda: ran("atexit"))
waiting = []
@offload
def first():
    draining()
    say("draining")
    while not all(each.cancelled() for each in waiting):
        time.sleep(0.001)
    ran("first")
"""

# --- Ctrl-C ------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_the_main_thread_ends_it_and_drains() -> None:
    code = """
        hold(); task(1)
        say("ready")
        wait()
    """
    with program(code) as running:
        running.until("ready")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(-signal.SIGINT, "ready\n", INTERRUPTED, once("hold", 1))


@pytest.mark.parametrize("status", [0, 3])
def test_ctrl_c_once_while_draining_abandons_what_waits_and_lets_what_runs_finish(status: int) -> None:
    code = f"""
        first()
        waiting += [task("never"), task("never")]
        sys.exit({status})
    """
    with program(DRAIN, code) as running:
        running.until("draining")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(status, "draining\n", Like(r"[^\n]+\n(?:[^\n]+\n)*"), once("first", "atexit"))
    assert "2" in left.stderr
    assert "task" in left.stderr
    assert "Traceback" not in left.stderr


def test_what_a_running_task_offloads_after_ctrl_c_is_abandoned_too() -> None:
    code = """
        @offload
        def late(): ran("late")
        @offload
        def runs():
            draining()
            say("draining")
            while not waiting[0].cancelled():
                time.sleep(0.001)
            task = late()
            say(task.cancelled(), task.done(), stats()["default"].cancelled)
        runs()
        waiting.append(task("never"))
    """
    with program(DRAIN, code) as running:
        running.until("draining")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(
        0,
        "draining\nTrue True 2\n",
        Like(r"left 2 offloaded calls behind at exit \(Ctrl-C\): 2 of queue 'default' \([^\n]*task, [^\n]*late\)\n"),
        once("atexit"),
    )


def test_ctrl_c_once_while_draining_gives_each_queue_its_count() -> None:
    code = """
        together = threading.Barrier(3)
        @offload
        def first(name):
            together.wait(20)
            draining()
            if together.wait(20) == 0:
                say("draining")
            while not all(each.cancelled() for each in waiting):
                time.sleep(0.001)
            ran(name)
        first("default")
        for name, number in ("plots", 7), ("mails", 11):
            first.using(queue=name)(name)
            waiting += [task.using(queue=name)("never") for _ in range(number)]
    """
    with program(DRAIN, code) as running:
        running.until("draining")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(0, "draining\n", Like(".*"), once("default", "plots", "mails", "atexit"))
    for expected in ("plots", "7", "mails", "11"):
        assert expected in left.stderr
    assert left.stderr.count("task") < 18  # the first few names


def test_ctrl_c_twice_while_draining_ends_the_wait_for_what_runs() -> None:
    code = """
        @offload
        def stuck():
            draining()
            say("draining")
            ran("stuck")
            while not waiting.cancelled():
                time.sleep(0.001)
            in_offload()
            say("again")
            threading.Event().wait()
        stuck()
        waiting = task("never")
        sys.exit(3)
    """
    with program("import atexit\natexit.register(lambda: ran('atexit'))", code) as running:
        running.until("draining")
        running.send(signal.SIGINT)
        running.until("again")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(3, "draining\nagain\n", Like(r"[^\n]+\n(?:[^\n]+\n)*"), once("stuck", "atexit"))
    assert "stuck" in left.stderr
    assert "task" in left.stderr
    assert "Traceback" not in left.stderr


def test_ctrl_c_while_the_drain_waits_for_what_runs_is_quiet_if_nothing_waits() -> None:
    code = """
        import atexit, signal
        atexit.register(lambda: ran("atexit"))
        arrived = threading.Event()
        def interrupt(*args):
            arrived.set()
            signal.default_int_handler(*args)
        signal.signal(signal.SIGINT, interrupt)
        @offload
        def only():
            draining()
            say("draining")
            arrived.wait(20)
            in_offload()
            ran("only")
        only()
    """
    with program(code) as running:
        running.until("draining")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(0, "draining\n", "", once("only", "atexit"))


def test_ctrl_c_while_draining_lets_non_daemon_threads_and_other_hooks_be() -> None:
    """KeyboardInterrupt must not leave offload's hook: it would skip the other hooks and the join of threads."""
    code = """
        def outlive():
            threading.main_thread().join()
            ran("thread")
        threading._register_atexit(ran, "hook")
        threading.Thread(target=outlive).start()
        first()
        waiting += [task("never")]
    """
    with program("threading._register_atexit(ran, 'older hook')", DRAIN, code) as running:
        running.until("draining")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(0, "draining\n", Like(".*task.*"), once("first", "atexit", "thread", "hook", "older hook"))


def test_ctrl_c_while_the_atexit_phase_drains() -> None:
    """A handler offloads a task that runs while a second one waits behind it."""
    if not STARTS_THREADS_AT_EXIT:
        pytest.skip("CPython 3.12.0 to 3.12.2 start no thread at exit, so that calls run in place")
    code = """
        import atexit
        atexit.register(lambda: ran("atexit"))
        waiting = []
        task("main")
        @offload
        def late():
            draining()
            say("draining")
            while not waiting[0].cancelled():
                time.sleep(0.001)
            ran("late")
        atexit.register(lambda: (late(), waiting.append(task("never"))))
    """
    with program(code) as running:
        running.until("draining")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(0, "draining\n", Like(".*task.*"), once("main", "late", "atexit"))


def test_ctrl_c_while_draining_does_not_reach_the_deadline() -> None:
    code = """
        configure_exit(timeout=30)
        mark()
        first()
        waiting += [task("never")]
    """
    with program(DRAIN, code) as running:
        running.until("draining")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(0, "draining\n", Like(".*task.*"), once("first", "atexit"))
    assert left.seconds < 20


def test_a_deadline_holds_after_ctrl_c() -> None:
    code = """
        configure_exit(timeout=1)
        @offload
        def stuck():
            draining()
            say("draining")
            threading.Event().wait()
        stuck(); task("never")
        mark()
    """
    with program(code) as running:
        running.until("draining")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(0, "draining\n", Like(".*stuck.*"))
    assert left.seconds < 1 + GRACE


def test_ctrl_c_in_flush_is_raised_there_and_the_drain_comes_later() -> None:
    code = """
        @offload
        def first():
            in_offload()
            say("waited for")
            leaving()
            ran("first")
        first(); task(1)
        try:
            flush()
        except KeyboardInterrupt:
            ran("caught")
    """
    with program(code) as running:
        running.until("waited for")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(0, "waited for\n", "", once("caught", "first", 1))


def test_ctrl_c_in_result_is_raised_there() -> None:
    code = """
        @offload
        def first():
            in_offload()
            say("waited for")
            leaving()
            ran("first")
        try:
            first().result()
        except KeyboardInterrupt:
            ran("caught")
    """
    with program(code) as running:
        running.until("waited for")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(0, "waited for\n", "", once("caught", "first"))


def test_ctrl_c_in_a_caller_that_a_full_queue_blocks() -> None:
    """The blocked call is either wholly accepted or wholly not: it counts, or it does not run."""
    code = """
        import logging
        logging.disable()
        configure(maxsize=1)
        @offload
        def first():
            in_offload()
            say("blocked")
            leaving()
            ran("first")
        first(); task(1)
        try:
            task("blocked")
        except KeyboardInterrupt:
            ran("caught")
        say(stats()["default"].submitted)
    """
    with program(code) as running:
        running.until("blocked")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(0, "blocked\n2\n", "", once("first", "caught", 1))


def test_interrupted_calls_are_wholly_accepted_or_wholly_not() -> None:
    """A handler that raises interrupts hundreds of calls at any place; every count still adds up.

    What falls into a weakref callback or the like goes to stderr, as anywhere in Python.
    """
    code = """
        import random, signal
        class Interrupt(KeyboardInterrupt): pass
        def interrupt(*_): raise Interrupt
        signal.signal(signal.SIGALRM, interrupt)
        done, accepted = set(), set()
        @offload(queue="many")
        def many(number):
            assert number not in done
            done.add(number)
        number = interrupted = 0
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.002))
                for _ in range(2000):
                    number += 1
                    many(number)
                    accepted.add(number)
            except Interrupt:
                interrupted += 1
        flush(timeout=20)
        s = stats()["many"]
        say(interrupted > 10, accepted <= done, s.submitted == s.succeeded == len(done), s.waiting, s.running)
    """
    left = run(code)
    assert left == Left(0, "True True True 0 0\n", left.stderr)


EACH_STEP = """
import asyncio, itertools, logging
from offload import FlushTimeout, stats
logging.disable()

def interrupted(step, call):
    # Let a KeyboardInterrupt come as the main thread enters the function of offload that is the step-th in the call.
    # (In logging, whose lock is taken by Python code, it could leave that lock held.)
    entered = []
    def trace(frame, event, argument):
        if "offload" not in frame.f_code.co_filename:
            return
        entered.append(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_code.co_name}")
        if len(entered) == step:
            sys.settrace(None)
            raise KeyboardInterrupt
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return entered[step - 1] if len(entered) >= step else None

wrong = []
for step in itertools.count(1):
    name = f"queue-{step}"
    runs = []
    work = prepare(name)
    where = interrupted(step, lambda: work(step))
    go.set()
    try:
        flush(name, timeout=3)
    except FlushTimeout:
        wrong.append(f"hangs after {where}")
    except RuntimeError as error:
        wrong.append(f"flush fails after {where}: {error}")
    s = queue(name).stats()
    if s.submitted != s.succeeded + s.failed + s.cancelled + s.waiting + s.running or s.waiting or s.running:
        wrong.append(f"counts after {where}: {s}")
    if len(runs) > 1:
        wrong.append(f"run twice after {where}")
    if where is None or len(wrong) > 5:
        break
say(step > 2, *wrong)  # a call on a queue at work enters two of them
os._exit(0)  # a queue that hangs would hang here too
"""


@pytest.mark.parametrize(
    ("kind", "prepare"),
    [
        ("a first call", "work = offload(queue=name)(lambda number: runs.append(number))"),
        (
            "a later call",
            "work = offload(queue=name)(lambda number: number and runs.append(number)); work(0).result(20)",
        ),
        (
            "a call that runs in place",
            """
            global go
            go = threading.Event()
            held = threading.Event()
            configure(name, maxsize=1, on_full="caller_runs")
            offload(queue=name)(lambda go: (held.set(), go.wait(20)))(go)
            held.wait(20)
            offload(queue=name)(lambda: None)()
            work = offload(queue=name)(lambda number: runs.append(number))
            """,
        ),
        (
            "a call of a coroutine function",
            """
            async def coroutine(number): runs.append(number)
            work = offload(queue=name)(coroutine)
            """,
        ),
    ],
)
def test_ctrl_c_at_each_step_of_a_call(kind: str, prepare: str) -> None:
    """Wholly accepted or wholly not, and the queue goes on: where functions are entered, CPython looks for signals."""
    body = textwrap.indent(textwrap.dedent(prepare), "    ")
    left = run(f"go = threading.Event()\ndef prepare(name):\n{body}\n    return work", EACH_STEP)
    assert left == Left(0, "True\n", left.stderr), kind  # an interrupted __del__ is said on stderr, by CPython


def test_ctrl_c_under_asyncio_run() -> None:
    code = """
        import asyncio
        async def main():
            hold(); task(1)
            say("ready")
            while True:
                await asyncio.sleep(0.05)
        asyncio.run(main())
    """
    with program(code) as running:
        running.until("ready")
        running.send(signal.SIGINT)
        left = running.left()
    assert left == Left(-signal.SIGINT, "ready\n", INTERRUPTED, once("hold", 1))


# --- Signals that end the program --------------------------------------------------------------------------------

WAITS = """
hold(); task(1)
say("ready")
wait()
"""


@pytest.mark.parametrize(
    ("asked", "signum", "status"),
    [
        ("drain_on_signal()", signal.SIGTERM, 143),
        ("drain_on_signal(signal.SIGTERM)", signal.SIGTERM, 143),
        ("drain_on_signal(signal.SIGHUP)", signal.SIGHUP, 129),
        ("drain_on_signal(signal.SIGTERM, signal.SIGHUP)", signal.SIGTERM, 143),
        ("drain_on_signal(signal.SIGTERM, signal.SIGHUP)", signal.SIGHUP, 129),
        ("drain_on_signal(15)", signal.SIGTERM, 143),
    ],
)
def test_drain_on_signal(asked: str, signum: int, status: int) -> None:
    with program("import signal\nfrom offload import drain_on_signal", asked, WAITS) as running:
        running.until("ready")
        running.send(signum)
        left = running.left()
    assert left == Left(status, "ready\n", "", once("hold", 1))


def test_the_signal_again_while_the_program_drains_changes_nothing() -> None:
    code = """
        from offload import drain_on_signal
        @offload
        def linger():
            draining()
            say("draining")
            gate()
            draining()
            ran("linger")
        drain_on_signal()
        linger(); task(1)
        say("ready")
        wait()
    """
    with program(code) as running:
        running.until("ready")
        running.send(signal.SIGTERM)
        running.until("draining")
        running.send(signal.SIGTERM)
        running.open_gate()
        left = running.left()
    assert left == Left(143, "ready\ndraining\n", "", once("linger", 1))


def test_drain_on_signal_lets_finally_clauses_and_atexit_handlers_run() -> None:
    code = """
        import atexit
        from offload import drain_on_signal
        atexit.register(lambda: task("atexit"))
        drain_on_signal()
        try:
            hold()
            say("ready")
            wait()
        finally:
            task("finally")
    """
    with program(code) as running:
        running.until("ready")
        running.send(signal.SIGTERM)
        left = running.left()
    stderr = "" if STARTS_THREADS_AT_EXIT else Like(".*")
    assert left == Left(143, "ready\n", stderr, once("hold", "finally", "atexit"))


def test_drain_on_signal_names_signals_it_does_not_take() -> None:
    with program("import signal\nfrom offload import drain_on_signal\ndrain_on_signal(signal.SIGHUP)", WAITS) as running:
        running.until("ready")
        running.send(signal.SIGTERM)
        left = running.left()
    assert left == Left(-signal.SIGTERM, "ready\n", "", left.ran)
    assert "1" not in left.ran


REFUSED = """
import signal
from offload import OffloadError, drain_on_signal
def attempt(*signals):
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)]
    try:
        drain_on_signal(*signals)
    except (OffloadError, RuntimeError, ValueError) as error:
        say(error)
    else:
        say("not refused")
    say(before == [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)])
"""


def test_drain_on_signal_refuses_off_the_main_thread() -> None:
    left = run(REFUSED, "thread = threading.Thread(target=attempt)\nthread.start()\nthread.join()")
    assert left == Left(0, Like(r"[^\n]*main thread[^\n]*\nTrue\n"))


def test_drain_on_signal_refuses_where_the_application_has_a_handler() -> None:
    """Nothing is installed if any of the signals is refused."""
    left = run(
        REFUSED,
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        attempt()
        attempt(signal.SIGHUP, signal.SIGTERM)
        """,
    )
    assert left == Left(0, Like(r"([^\n]*SIGTERM[^\n]*SystemExit\(143\)[^\n]*aflush\(\)[^\n]*\nTrue\n){2}"))


def test_drain_on_signal_twice_is_no_conflict_with_itself() -> None:
    code = "from offload import drain_on_signal\ndrain_on_signal()\ndrain_on_signal()"
    with program(code, WAITS) as running:
        running.until("ready")
        running.send(signal.SIGTERM)
        left = running.left()
    assert left == Left(143, "ready\n", "", once("hold", 1))


def test_offload_installs_no_signal_handler_of_its_own_accord() -> None:
    left = run(
        """
        import signal
        before = {signum: signal.getsignal(signum) for signum in signal.valid_signals()}
        from offload import configure_exit, flush, offload
        configure_exit(timeout=20)
        @offload
        def compare():
            ran(before == {signum: signal.getsignal(signum) for signum in signal.valid_signals()})
        compare()
        flush()
        compare()
        """,
        tasks=False,
    )
    assert left == Left(ran={"True": 2})


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_that_nobody_handles_loses_what_waits(signum: signal.Signals) -> None:
    with program(WAITS) as running:
        running.until("ready")
        running.send(signum)
        left = running.left()
    assert left == Left(-signum, "ready\n", "", left.ran)
    assert "1" not in left.ran


def test_the_applications_own_sigterm_handler_drains_and_keeps_its_status() -> None:
    code = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    with program(code, WAITS) as running:
        running.until("ready")
        running.send(signal.SIGTERM)
        left = running.left()
    assert left == Left(7, "ready\n", "", once("hold", 1))


# --- Calls from anywhere -----------------------------------------------------------------------------------------

STORM = """
import signal
in_handler = 0
def handler(*_):
    global in_handler
    in_handler += 1
    count("handler")
signal.signal(signal.SIGALRM, handler)

counts = {"handler": 0, "main": 0}
@offload(queue="storm")
def count(kind):
    counts[kind] += 1
"""


def test_calls_from_a_signal_handler_in_the_middle_of_calls() -> None:
    code = """
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)  # faster, and a busy machine would do nothing else
        calls, until = 0, time.monotonic() + 1.0
        while time.monotonic() < until:
            count("main")
            calls += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        flush(timeout=20)
        say(in_handler > 100, counts == {"handler": in_handler, "main": calls})
    """
    assert run(STORM, code) == Left(0, "True True\n", Like(r"([^\n]*storm[^\n]*\n)?"))


def test_calls_from_a_signal_handler_while_its_thread_is_blocked_on_a_full_queue() -> None:
    """They are accepted above maxsize. Only they free the queue: the worker waits for the tenth of them."""
    code = """
        import logging
        logging.disable()
        configure("storm", maxsize=1)
        enough = threading.Event()
        offload(queue="storm")(enough.wait)()
        def handler(*_):
            global in_handler
            if enough.is_set():  # an alarm that came before the timer was stopped
                return
            in_handler += 1
            count("handler")
            if in_handler == 10:
                signal.setitimer(signal.ITIMER_REAL, 0)
                enough.set()
        signal.signal(signal.SIGALRM, handler)
        count("main")
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.005)
        count("main")
        flush(timeout=20)
        say(in_handler, counts)
    """
    assert run(STORM, code) == Left(0, "10 {'handler': 10, 'main': 2}\n")


def test_a_signal_handler_may_flush_nothing_yet_look_at_everything() -> None:
    """`stats()` and `queues()` from a handler in the middle of calls: no deadlock."""
    code = """
        from offload import stats
        def handler(*_):
            global in_handler
            in_handler += 1
            stats(), dict(queues()), str(stats())
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        calls, until = 0, time.monotonic() + 0.7
        while time.monotonic() < until:
            count("main")
            calls += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        flush(timeout=20)
        say(in_handler > 20, counts["main"] == calls)
    """
    assert run(STORM, code) == Left(0, "True True\n", Like(r"([^\n]*storm[^\n]*\n)?"))


GARBAGE = """
import gc, weakref
counts = {"main": 0, "late": 0}
lock = threading.Lock()
@offload(queue="garbage")
def count(kind):
    with lock:
        counts[kind] += 1
"""


@pytest.mark.parametrize("maxsize", [10_000, 1])
def test_calls_from_del_while_garbage_is_collected_inside_calls(maxsize: int) -> None:
    """With a threshold of one object nearly every allocation inside a call collects, and so calls again."""
    code = f"""
        import logging
        logging.disable()
        configure("garbage", maxsize={maxsize}, workers=2)
        made = 0
        class Cycle:
            def __init__(self):
                global made
                made += 1
                self.me = self
            def __del__(self):
                count("late")
        gc.set_threshold(1)
        for _ in range(500):
            Cycle()
            count("main")
        gc.set_threshold(700)
        gc.collect()
        flush(timeout=20)
        say(made, counts)
    """
    assert run(GARBAGE, code) == Left(0, "500 {'main': 500, 'late': 500}\n")


def test_calls_from_del_of_a_tasks_own_argument_and_result() -> None:
    """The last reference goes in the worker, between two tasks."""
    code = """
        class Value:
            def __del__(self):
                count("late")
        @offload(queue="garbage")
        def work(value):
            return value
        for _ in range(100):
            work(Value())
        flush(timeout=20)
        count("main").result(20)
        gc.collect()
        flush(timeout=20)
        say(counts)
    """
    assert run(GARBAGE, code) == Left(0, "{'main': 1, 'late': 100}\n")


def test_calls_from_weakref_callbacks() -> None:
    code = """
        class Value:
            def __init__(self): self.me = self
        references = []
        gc.set_threshold(1)
        for _ in range(300):
            references.append(weakref.ref(Value(), lambda _: count("late")))
            count("main")
        gc.set_threshold(700)
        gc.collect()
        flush(timeout=20)
        say(counts)
    """
    assert run(GARBAGE, code) == Left(0, "{'main': 300, 'late': 300}\n")


def test_calls_from_a_trace_function() -> None:
    """Every line that the call itself executes in Python calls again, one level deep."""
    code = """
        calls = 0
        def trace(frame, event, argument):
            global calls
            if frame.f_globals.get("__name__", "").startswith("offload"):
                sys.settrace(None)
                calls += 1
                count("late")
                sys.settrace(trace)
            return trace
        sys.settrace(trace)
        for _ in range(50):
            count("main")
        sys.settrace(None)
        flush(timeout=20)
        say(calls >= 50, counts == {"main": 50, "late": calls})
    """
    assert run(GARBAGE, code) == Left(0, "True True\n")


def test_calls_from_a_logging_handler_on_offloads_own_logger() -> None:
    """A handler that ships records by offload, also those of offload itself, about the same queue."""
    code = """
        import logging
        class Ship(logging.Handler):
            def emit(self, record):
                task("shipped")
        logging.getLogger("offload").addHandler(Ship())
        @offload
        def fail():
            raise ValueError("boom")
        fail()
        flush(timeout=20)
        configure(maxsize=1, on_full="drop_newest")
        hold("held")
        while stats()["default"].running == 0: time.sleep(0.001)
        task(1); task("dropped")
    """
    left = run(code)
    assert left.status == 0
    assert left.stdout == left.stderr == ""
    assert left.ran["held"] == left.ran["1"] == 1
    assert left.ran["shipped"] >= 1
