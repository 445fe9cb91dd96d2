"""For tests of code that offloads: run calls in place, or apart from the application's queues."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, TypeVar

from offload import _exit, _observing
from offload._api import default
from offload._errors import FlushTimeout

__all__ = ["inline", "isolated"]

F = TypeVar("F", bound=Callable[..., Any])


class Context:
    """What `inline` and `isolated` return: a context manager that nests in itself, and a decorator of functions and coroutine functions."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._entered: list[AbstractContextManager[None]] = []

    def __enter__(self) -> None:
        inner = self._make()
        inner.__enter__()
        self._entered.append(inner)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._entered.pop().__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        """Decorate a function, or a coroutine function: the context is open while its body runs."""
        wrapper: Any
        if inspect.iscoroutinefunction(function):  # contextlib's own decorators would close the context before the body runs

            @functools.wraps(function)
            async def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self._make():
                    return await function(*args, **kwargs)

        else:

            @functools.wraps(function)
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                with self._make():
                    return function(*args, **kwargs)

        return wrapper  # type: ignore[no-any-return]


def inline() -> Context:
    """Within this context every call of every registry and thread runs in place: it returns its Task when that has ended.

    Same accounting, same ``on_error``, same Task; a call that fails does not raise, but for SystemExit and KeyboardInterrupt. What waited before
    still runs in the background. Contexts nest; also usable as a decorator. Entering and leaving do not block. ``OFFLOAD_INLINE=1`` in the
    environment does the same for every queue that is made or configured while it is set.
    """
    return Context(_inline)


def isolated() -> Context:
    """Within this context the default registry is a fresh one: queues of the same settings, no tasks, no failures, no counts.

    On leaving it blocks until the tasks that were offloaded within have run, ends their threads, and brings the old queues back, with their tasks and
    settings; what `configure` and `configure_exit` changed within is gone. Contexts nest; also usable as a decorator. The registry is swapped for all
    threads.
    """
    return Context(_isolated)


@contextmanager
def _inline() -> Iterator[None]:
    _observing.count_inline(1)
    try:
        yield
    finally:
        _observing.count_inline(-1)  # another monitor, in a forked child


@contextmanager
def _isolated(patience: Callable[[], float | None] = lambda: None) -> Iterator[None]:
    """`isolated`; what has not ended so many seconds after the block is left behind, and what waits then is cancelled."""
    leaving = _exit.settings()
    before = default._swap(default._fresh())
    try:
        yield
    finally:
        try:
            _drain(patience())
        finally:
            default._swap(before)
            _exit.configure("testing.isolated", **leaving)


def _drain(timeout: float | None) -> None:
    try:
        default.flush(timeout=timeout)
    except FlushTimeout:
        default.shutdown(wait=False, cancel_futures=True)
    else:
        default.shutdown()
