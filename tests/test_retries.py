"""Retries are composed: @offload over other libraries' decorators, and what the log tells of them (§6)."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offload import Registry

WAIT = 10.0  # seconds, used only to fail
EXAMPLE = Path(__file__).parent.parent / "examples" / "retries.py"

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def by_tenacity() -> Decorator:
    tenacity = pytest.importorskip("tenacity", reason="tenacity is not installed")
    return tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none(), reraise=True)  # type: ignore[no-any-return]


def by_tenacity_wrapping() -> Decorator:
    """Without `reraise`, tenacity raises an error of its own from the last one."""
    tenacity = pytest.importorskip("tenacity", reason="tenacity is not installed")
    return tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())  # type: ignore[no-any-return]


def by_stamina() -> Decorator:
    stamina = pytest.importorskip("stamina", reason="stamina is not installed")
    return stamina.retry(on=ConnectionError, attempts=3, wait_initial=0, wait_max=0, wait_jitter=0)  # type: ignore[no-any-return]


def by_hand() -> Decorator:
    """A dozen lines of one's own."""

    def retry(function: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any) -> Any:
            for left in (2, 1, 0):
                try:
                    return function(*args)
                except ConnectionError:
                    if not left:
                        raise
            raise AssertionError

        return attempt

    return retry


@pytest.fixture(params=[by_tenacity, by_stamina, by_hand])
def retry(request: pytest.FixtureRequest) -> Decorator:
    return request.param()  # type: ignore[no-any-return]


class Service:
    """It refuses the first calls."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.attempts = 0

    def upload(self, name: str) -> str:
        self.attempts += 1
        if self.attempts <= self.refusals:
            raise ConnectionError(f"refused, attempt {self.attempts}")
        return name


def told(caplog: pytest.LogCaptureFixture) -> str:
    """What offload logged, as a handler would print it."""
    formatter = logging.Formatter("%(levelname)s %(name)s %(message)s")
    return "\n".join(formatter.format(r) for r in caplog.records if r.name.startswith("offload"))


def test_a_call_is_retried_on_the_worker(registry: Registry, retry: Decorator, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(refusals=2)
    upload = registry.offload(queue="uploads")(retry(service.upload))

    assert upload("weights").result(WAIT) == "weights"
    assert service.attempts == 3
    assert told(caplog) == ""
    stats = upload.queue.stats()
    assert (stats.submitted, stats.succeeded, stats.failed) == (1, 1, 0)


def test_what_gives_up_is_told_once(registry: Registry, retry: Decorator, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(refusals=9)
    upload = registry.offload(queue="uploads")(retry(service.upload))
    error = upload("weights").exception(WAIT)

    assert service.attempts == 3
    assert isinstance(error, ConnectionError)
    text = told(caplog)
    assert text.count("ERROR offload.uploads") == 1
    assert text.count("refused, attempt 3") == 1
    assert "attempt 1" not in text
    assert "attempt 2" not in text
    assert "weights" not in text  # never an argument's value
    stats = upload.queue.stats()
    assert (stats.submitted, stats.succeeded, stats.failed) == (1, 0, 1)


def test_a_wrapped_error_tells_the_last_one_once(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(refusals=9)
    upload = registry.offload(queue="uploads")(by_tenacity_wrapping()(service.upload))
    error = upload("weights").exception(WAIT)

    assert isinstance(error, Exception)
    assert isinstance(error.__cause__, ConnectionError)
    text = told(caplog)
    assert text.count("ERROR offload.uploads") == 1
    assert text.count("refused, attempt 3") == 1


def test_async_retries(registry: Registry) -> None:
    tenacity = pytest.importorskip("tenacity", reason="tenacity is not installed")
    service = Service(refusals=2)

    @registry.offload(queue="uploads")
    @tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())
    async def upload(name: str) -> str:
        return service.upload(name)

    assert upload("weights").result(WAIT) == "weights"
    assert service.attempts == 3


def test_the_example(tmp_path: Path) -> None:
    pytest.importorskip("tenacity", reason="tenacity is not installed")
    assert len(EXAMPLE.read_text().splitlines()) <= 40
    done = subprocess.run(
        [sys.executable, "-X", "dev", EXAMPLE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )

    assert done.returncode == 0
    assert "weights.npz is there after 3 attempts" in done.stdout
    assert done.stderr.count("the service is busy (attempt 7)") == 1
    assert re.search("attempt [1-6]", done.stderr) is None
