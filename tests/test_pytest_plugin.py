"""The pytest plugin, as suites of its users see it: each test runs one in a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import threading
import tomllib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Gate

from offload import Registry, _observing
from offload._watch import Watch

pytest_plugins = ["pytester"]

PATIENCE = 60.0
PLUGIN = "offload.pytest_plugin"

Run = Callable[..., pytest.RunResult]
"""`run(source, *arguments, **ini options)`: the result of a suite of one file."""


def installed() -> bool:
    """Whether the installation of this checkout is new enough to know the entry point."""
    return any(point.value == PLUGIN for point in importlib.metadata.entry_points(group="pytest11"))


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    pytester.makepyfile(
        app="""
        import threading
        from offload import offload

        def send_mail(to, *, urgent=False):
            if "@" not in to:
                raise ValueError(f"no address: {to}")
            return f"sent to {to}"

        send_mail = offload(queue="mail")(send_mail)

        @offload
        def where():
            return threading.current_thread().name

        @offload(queue="leaving")
        def leave():
            raise SystemExit(3)

        class Shop:
            @offload
            def order(self, item, count=1):
                send_mail("ann@example.org")
                return item * count
        """
    )

    def suite(source: str, *arguments: str, **ini: str) -> pytest.RunResult:
        lines = ["[pytest]", "addopts = --strict-markers --strict-config", "filterwarnings = error"]
        lines += [f"{name} = {value}" for name, value in ini.items()]
        pytester.makeini("\n".join(lines))
        header = "import threading, pytest, offload, app\nfrom app import Shop, leave, send_mail, where\n"
        pytester.makepyfile(test_app=header + source)
        others = [name for name in ("asyncio", "xdist", "anyio", "hypothesispytest") if f"-p{name}" not in arguments]
        options = [f"-pno:{name}" for name in others] + [argument for argument in arguments if argument[:2] != "-p"]
        if not installed():
            options.insert(0, f"-p{PLUGIN}")
        return pytester.runpytest_subprocess("-ra", *options, timeout=PATIENCE)

    return suite


def test_the_plugin_is_an_entry_point() -> None:
    path = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"offload": PLUGIN}


# --- it does nothing to suites that do not ask


def test_a_suite_that_does_not_ask_is_left_alone(run: Run) -> None:
    result = run(
        """
from offload import _monitor

def test_failure():
    assert isinstance(send_mail("ann").exception(10), ValueError)
    send_mail("ann")

def test_nobody_watches():
    assert _monitor.current.observers == ()
    assert where().result(10) == "offload-default-0"

@pytest.mark.offload("off")
def test_off():
    assert _monitor.current.observers == ()
    send_mail("ann")
"""
    )
    result.assert_outcomes(passed=3)
    assert result.ret == 0


def test_options_and_marker_are_described(run: Run) -> None:
    result = run("def test(): pass", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.offload(mode='threads', *, timeout=None): *"])
    result = run("def test(): pass", "--fixtures")
    result.stdout.fnmatch_lines(["offloaded*", "*fresh default registry*"])


# --- the modes


MODES = """
@pytest.mark.offload("inline")
def test_inline():
    assert where().result(0) == "MainThread"

@pytest.mark.offload("threads")
def test_threads():
    assert where().result(10) == "offload-default-0"

@pytest.mark.offload
def test_bare_marker():
    assert where().result(10) == "offload-default-0"

@pytest.mark.offload("inline")
class TestClass:
    def test_inline_method(self):
        assert where().result(0) == "MainThread"

    @pytest.mark.offload(mode="threads")
    def test_threads_method(self):
        assert where().result(10) == "offload-default-0"

@pytest.fixture
def in_fixture():
    name = where().result(10)
    yield name
    assert where().result(10) == name

@pytest.mark.offload("inline")
def test_inline_fixture(in_fixture):
    assert in_fixture == "MainThread"

def test_option(in_fixture, request):
    expected = "MainThread" if request.config.getini("offload_mode") == "inline" else "offload-default-0"
    assert where().result(10) == in_fixture == expected
"""


@pytest.mark.parametrize("mode", ["off", "threads", "inline"])
def test_marker_and_option_choose_the_mode(run: Run, mode: str) -> None:
    run(MODES, offload_mode=mode).assert_outcomes(passed=7)


WRONG_MARKERS = {
    "'thread'": "'thread' is not allowed: one of 'threads', 'inline', 'off'",
    "'threads', 3": "takes from 0 to 1 positional arguments but 2 were given",
    "modus='threads'": "unexpected keyword argument 'modus'",
    "timeout='soon'": "timeout 'soon' is not a number of seconds",
    "timeout=-1": "timeout -1 is not a number of seconds",
}


def test_a_marker_that_makes_no_sense_is_named(run: Run) -> None:
    source = [f"@pytest.mark.offload({marker})\ndef test_{n}(): pass" for n, marker in enumerate(WRONG_MARKERS)]
    result = run("\n".join(source))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    for number, said in enumerate(WRONG_MARKERS.values()):
        result.stderr.fnmatch_lines([f"*the marker offload of test_app.py::test_{number}: *{said}*"])


@pytest.mark.parametrize(("option", "value"), [("offload_mode", "fast"), ("offload_timeout", "soon")])
def test_an_option_that_makes_no_sense_is_named(run: Run, option: str, value: str) -> None:
    result = run("def test(): pass", **{option: value})
    result.stderr.fnmatch_lines([f"*the ini option {option}: *'{value}'*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


# --- failures


def test_a_failure_that_nobody_looked_at_fails_its_test_with_its_traceback(run: Run) -> None:
    result = run(
        """
def test_before():
    send_mail("ann@example.org")

def test_ann():
    send_mail("ann")

def test_after():
    send_mail("ann@example.org")
""",
        offload_mode="threads",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*___ test_ann ___*",
            '*raise ValueError(f"no address: {to}")*',
            "*ValueError: no address: ann",
            "*in app.send_mail, offloaded at test_app.py:8 to queue 'mail'; nobody looked at its outcome*",
            "app.py:6: ValueError",
            "FAILED test_app.py::test_ann - ValueError: no address: ann*",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


LOOKED_AT = """
import asyncio, concurrent.futures

def test_exception():
    assert send_mail("ann").exception(10)

def test_result():
    with pytest.raises(ValueError):
        send_mail("ann").result(10)

def test_await():
    async def main():
        with pytest.raises(ValueError):
            await send_mail("ann")
    asyncio.run(main())

def test_wrapped():
    async def main():
        with pytest.raises(ValueError):
            await asyncio.wrap_future(send_mail("ann"))
    asyncio.run(main())

def test_flush():
    send_mail("ann")
    with pytest.raises(ExceptionGroup):
        offload.flush(raise_errors=True)

def test_callback():
    seen = []
    send_mail("ann").add_done_callback(lambda task: seen.append(task.exception()))

def test_waiting_is_not_looking():
    concurrent.futures.wait([send_mail("ann")], 10)

def test_flush_without_errors_is_not_looking():
    send_mail("ann")
    offload.flush()
"""


@pytest.mark.parametrize("mode", ["threads", "inline"])
def test_a_failure_that_somebody_looked_at_is_no_concern(run: Run, mode: str) -> None:
    result = run(LOOKED_AT, offload_mode=mode)
    result.assert_outcomes(passed=6, failed=2)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_waiting_is_not*", "FAILED test_app.py::test_flush_without_errors_is_not*"])


def test_a_callback_that_still_runs_may_be_who_looks(registry: Registry, gate: Callable[[str], Gate]) -> None:
    """The worker: the task ends; its callback is entered; it looks at the outcome. The test ends between the two."""
    watch = Watch("threads", PATIENCE, keeps_arguments=False)
    entered, opened = threading.Event(), threading.Event()

    def look(task: Future[object]) -> None:
        entered.set()
        assert opened.wait(PATIENCE)
        assert isinstance(task.exception(), ZeroDivisionError)

    _observing.add(watch)
    try:
        blocked = gate("sums")
        task = registry.queue("sums").submit(divmod, 1, 0)
        task.add_done_callback(look)
        blocked.open()
        assert entered.wait(PATIENCE)
        assert task.done()
        with ThreadPoolExecutor(1) as test:
            verdict = test.submit(watch.verdict)
            while not task._owner.idle_waiters:  # the test, that waits
                assert not verdict.done()
            opened.set()
            assert verdict.result(PATIENCE) is None
    finally:
        opened.set()
        _observing.remove(watch)


def test_callbacks_that_do_not_end_are_named(run: Run) -> None:
    result = run(
        """
opened = threading.Event()

def test_stuck(offloaded):
    ends = threading.Event()
    task = offload.queue("mail").submit(ends.wait, 10)
    task.add_done_callback(lambda task: opened.wait())
    ends.set()
    offloaded.flush()

@pytest.fixture
def ended():
    yield
    opened.set()

def test_flush_in_a_callback(ended, offloaded):
    ends = threading.Event()
    seen = []
    def look(task):
        offloaded.flush()
        seen.append(task.result())
    task = offload.queue("other").submit(ends.wait, 10)
    task.add_done_callback(look)
    ends.set()
    offloaded.flush()
    assert seen == [True]
""",
        offload_timeout="0.5",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*TimeoutError: 1 of the test's tasks had not ended 0.5 s after it: *Event.wait, offloaded at * to queue 'mail', its callbacks still run"]
    )


def test_a_cancelled_task_is_no_failure(run: Run) -> None:
    result = run(
        """
def test_cancelled():
    opened = threading.Event()
    offload.queue("mail").submit(opened.wait, 10)
    assert send_mail("ann").cancel()
    opened.set()
""",
        offload_mode="threads",
    )
    result.assert_outcomes(passed=1)


def test_several_failures_are_told_together(run: Run) -> None:
    result = run(
        """
@pytest.mark.offload
def test_both():
    send_mail("ann")
    send_mail("bob")
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ExceptionGroup: 2 of the test's offloaded calls went wrong*", "*no address: ann*", "*no address: bob*"])


def test_a_task_of_a_task_is_the_tests_too(run: Run) -> None:
    result = run(
        """
@pytest.mark.offload
def test_nested():
    @offload.offload
    def parent():
        send_mail("ann")
    parent()

def test_other():
    pass
"""
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*ValueError: no address: ann", "*offloaded at test_app.py:8 *"])


def test_a_systemexit_of_a_task_fails_its_test_alone(run: Run) -> None:
    result = run(
        """
@pytest.mark.offload
def test_leave():
    leave()

def test_after():
    pass
"""
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*SystemExit: 3*", "*OffloadError: app.leave ended by SystemExit: 3*"])


def test_a_test_that_fails_by_itself_shows_the_failures_behind_it(run: Run) -> None:
    result = run(
        """
@pytest.mark.offload
def test_both():
    task = send_mail("ann")
    assert "mail" == "sent"

@pytest.mark.offload
def test_skipped():
    send_mail("ann@example.org")
    pytest.skip("for now")

@pytest.mark.offload
@pytest.mark.xfail(raises=ValueError)
def test_expected():
    send_mail("ann")
"""
    )
    result.assert_outcomes(failed=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(
        ["*AssertionError*", "*--- Captured offload call ---*", "*ValueError: no address: ann", "*nobody looked at its outcome*"]
    )


def test_what_fixtures_offload_counts(run: Run) -> None:
    result = run(
        """
@pytest.fixture
def before():
    send_mail("before")

@pytest.fixture
def after():
    yield
    send_mail("after")

@pytest.mark.offload
def test_before(before):
    pass

@pytest.mark.offload
def test_after(after):
    pass

@pytest.mark.offload
def test_last():
    pass

@pytest.fixture
def broken():
    yield
    send_mail("behind")
    raise RuntimeError("fixture")

@pytest.mark.offload
def test_broken(broken):
    pass
"""
    )
    result.assert_outcomes(passed=3, failed=1, errors=2)
    result.stdout.fnmatch_lines(["*RuntimeError: fixture", "*--- Captured offload teardown ---*", "*ValueError: no address: behind"])
    result.stdout.fnmatch_lines(["ERROR test_app.py::test_after - *after", "FAILED test_app.py::test_before - ValueError: no address: before"])


def test_calls_that_were_refused_or_dropped_are_not_waited_for(run: Run) -> None:
    result = run(
        """
@pytest.mark.offload
def test_refused(offloaded):
    offload.configure("mail", maxsize=1, on_full="raise")
    opened = threading.Event()
    offload.queue("mail").submit(opened.wait, 10)
    while offload.stats()["mail"].running == 0:
        pass
    send_mail("ann@example.org")
    with pytest.raises(offload.QueueFull):
        send_mail("ann@example.org")
    offload.configure("mail", on_full="drop_newest")
    send_mail("ann@example.org")
    assert [call.outcome for call in offloaded.calls("send_mail")] == ["waiting", "refused", "cancelled"]
    opened.set()
    offloaded.flush()
    assert [call.outcome for call in offloaded.calls("send_mail")] == ["succeeded", "refused", "cancelled"]
"""
    )
    result.assert_outcomes(passed=1)


# --- tasks that do not end


def test_tasks_left_running_are_waited_for(run: Run) -> None:
    result = run(
        """
ended = []

@pytest.mark.offload
def test_slow():
    @offload.offload
    def slow(opened):
        assert opened.wait(10)
        ended.append(1)
    opened = threading.Event()
    slow(opened)
    threading.Timer(0.2, opened.set).start()
    assert not ended

def test_after():
    assert ended
"""
    )
    result.assert_outcomes(passed=2)


def test_tasks_that_do_not_end_are_named_and_do_not_hold_the_run(run: Run) -> None:
    result = run(
        """
opened = threading.Event()

@pytest.mark.offload(timeout=0.1)
def test_stuck():
    offload.queue("mail").submit(opened.wait)
    send_mail("ann")

@pytest.mark.offload
def test_after():
    assert where().result(10)

def test_fresh(offloaded):
    @offload.offload(queue="other")
    def stuck():
        opened.wait()
    stuck()

def test_last(offloaded):
    assert where().result(10)
    assert "other" not in offload.queues()

def test_both(offloaded):
    offload.queue("third").submit(opened.wait)
    send_mail("ann")
""",
        offload_timeout="0.2",
    )
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines(
        [
            "2 of the test's tasks had not ended 0.1 s after it: *Event.wait, offloaded at test_app.py:8 to queue 'mail', "
            "app.send_mail, offloaded at test_app.py:9 to queue 'mail', not started",
            "1 of the test's tasks had not ended 0.2 s after it: *stuck, offloaded at test_app.py:19 to queue 'other'",
            "*ExceptionGroup: 2 of the test's offloaded calls went wrong, *",
            "*ValueError: no address: ann",
            "*OffloadError: 1 of the test's tasks had not ended 0.2 s after it: *to queue 'third'",
        ]
    )
    result.stderr.fnmatch_lines(["left 3 offloaded calls behind at exit (the deadline of 1 s passed): *"])


# --- the fixture


FIXTURE = """
def test_calls(offloaded):
    assert offloaded.calls() == []
    Shop().order("tea", count=2)
    send_mail("bob", urgent=True)
    offloaded.flush()
    [order] = offloaded.calls("app.Shop.order")
    assert (order.args, order.kwargs, order.result(), order.outcome) == (("tea",), {"count": 2}, "teatea", "succeeded")
    mails = {call.args[0]: call for call in offloaded.calls("app.send_mail")}
    assert set(mails) == {"ann@example.org", "bob"}
    ann, bob = mails["ann@example.org"], mails["bob"]
    assert (ann.kwargs, ann.outcome, ann.result()) == ({}, "succeeded", "sent to ann@example.org")
    assert (bob.kwargs, bob.outcome) == ({"urgent": True}, "failed")
    assert str(bob.exception()) == "no address: bob"
    assert bob.name == bob.task.name == "app.send_mail"
    assert {call.name for call in offloaded.calls()} == {"app.Shop.order", "app.send_mail"}
    assert len(offloaded.calls("send_mail")) == len(offloaded.calls("order")) + 1 == 2
    assert offloaded.calls("mail") == offloaded.calls("app.Shop") == []
    assert "'app.send_mail', 'failed'" in repr(offloaded)

def test_fresh_registry(offloaded):
    assert offload.stats().get("mail") is None or offload.stats()["mail"].submitted == 0
    offload.configure("mail", workers=7)
    send_mail("ann@example.org")

def test_restored():
    assert offload.queue("mail").settings.workers == 1

def test_result_and_exception_wait(offloaded):
    opened = threading.Event()
    @offload.offload
    def slow(answer):
        assert opened.wait(10)
        return answer
    slow(42)
    [call] = offloaded.calls("slow")
    assert call.outcome in ("waiting", "running")
    with pytest.raises(TimeoutError):
        call.result(0)
    with pytest.raises(TimeoutError, match="slow, offloaded at test_app.py"):
        offloaded.flush(0)
    opened.set()
    assert call.result() == 42
    assert call.exception() is None

def test_failure(offloaded):
    send_mail("ann")

@pytest.mark.offload("off")
def test_failure_off(offloaded):
    send_mail("ann")

@pytest.mark.offload("inline")
def test_inline(offloaded):
    where()
    [call] = offloaded.calls("app.where")
    assert (call.outcome, call.result()) == ("succeeded", "MainThread")

def test_other_registries(offloaded):
    offload.Registry("acme").queue("telemetry").submit(print, "hello", end="")
    [call] = offloaded.calls("print")
    assert (call.args, call.kwargs, call.result()) == (("hello",), {"end": ""}, None)
"""


def test_the_fixture_records_calls_and_gives_a_fresh_registry(run: Run) -> None:
    result = run(FIXTURE)
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_failure - *"])


# --- beside other plugins and styles


def test_unittest_suites(run: Run) -> None:
    result = run(
        """
import unittest

class Case(unittest.TestCase):
    def test_good(self):
        self.assertEqual(where().result(10), "offload-default-0")

    def test_background(self):
        send_mail("ann")

    def test_both(self):
        send_mail("ann")
        self.assertEqual(1, 2)

    @pytest.mark.offload("inline")
    def test_inline(self):
        self.assertEqual(where().result(0), "MainThread")

@pytest.mark.usefixtures("offloaded")
class Recorded(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def keep(self, offloaded):
        self.offloaded = offloaded

    def test_calls(self):
        send_mail("ann@example.org")
        self.assertEqual(self.offloaded.calls("send_mail")[0].args, ("ann@example.org",))

class Later(unittest.IsolatedAsyncioTestCase):
    async def test_await(self):
        self.assertEqual(await where(), "offload-default-0")

    async def test_background(self):
        send_mail("bob")
""",
        offload_mode="threads",
    )
    result.assert_outcomes(passed=4, failed=3)
    result.stdout.fnmatch_lines(["*AssertionError: 1 != 2", "*--- Captured offload call ---*", "*ValueError: no address: ann"])
    result.stdout.fnmatch_lines(["FAILED test_app.py::Case::test_background - ValueError: no address: ann*"])
    result.stdout.fnmatch_lines(["FAILED test_app.py::Later::test_background - ValueError: no address: bob*"])


ASYNCIO = """
@pytest.mark.asyncio
async def test_await():
    assert await where() == "offload-default-0"

@pytest.mark.asyncio
async def test_background():
    send_mail("ann")

@pytest.mark.asyncio
async def test_aflush(offloaded):
    send_mail("ann@example.org")
    await offload.aflush()
    assert offloaded.calls("send_mail")[0].outcome == "succeeded"

@pytest.mark.asyncio
@pytest.mark.offload("inline")
async def test_inline():
    @offload.offload
    async def answer():
        return 42
    assert await answer() == 42
    assert await where() == "MainThread"
"""


@pytest.mark.skipif(not importlib.util.find_spec("pytest_asyncio"), reason="pytest-asyncio is not installed")
def test_pytest_asyncio(run: Run) -> None:
    options = {"asyncio_default_fixture_loop_scope": "function", "offload_mode": "threads"}
    result = run(ASYNCIO, "-pasyncio", **options)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_background - ValueError: no address: ann*"])


@pytest.mark.skipif(not importlib.util.find_spec("xdist"), reason="pytest-xdist is not installed")
def test_pytest_xdist(run: Run) -> None:
    result = run(FIXTURE + MODES, "-pxdist", "-n2", offload_mode="threads")
    result.assert_outcomes(passed=13, failed=1)
    result.stdout.fnmatch_lines(["FAILED test_app.py::test_failure - *"])
