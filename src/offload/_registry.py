"""Names to queues. One registry is the application's; a library that embeds offload makes one of its own."""

import logging
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

from offload import _environ, _exit, _monitor, _waiting
from offload._core import Core
from offload._errors import ConfigurationError
from offload._failures import hand_on_failures
from offload._queue import Queue, import_counts
from offload._settings import ExitSettingsGiven, Settings, SettingsGiven, refuse, seconds

if TYPE_CHECKING:
    from offload._stats import StatsTable  # noqa: TC004  # see import_looks
    from offload._view import QueuesView  # noqa: TC004

Contents: TypeAlias = tuple[dict[str, Queue], list[Queue]]
"""A registry's queues: those that calls go to, and those that were shut down and are not done yet."""


class Names:
    """Named queues, made when they are first used.

    ``Registry("acme", workers=2)`` keeps a library's queues apart from the application's: loggers ``offload.acme.<queue>``, threads
    ``offload-acme-<queue>-0``, variables ``OFFLOAD_ACME__QUEUES__...``. ``defaults`` are settings for all its queues; ``exit_timeout`` (seconds)
    shortens the shared deadline at exit for them. Raises ConfigurationError.
    """

    def __init__(self, name: str = "", /, *, exit_timeout: float | None = None, **defaults: "Unpack[SettingsGiven]") -> None:
        where = f"Registry({name!r})" if name else "Registry()"
        if not isinstance(name, str):
            raise ConfigurationError(f"Registry: the name {name!r} is not a string")
        self._name = name
        self._exit_timeout = seconds("exit_timeout", exit_timeout, where)
        self._defaults = Settings().changed(defaults, where)
        self._queues: dict[str, Queue] = {}
        self._closing: list[Queue] = []

    def configure(self, name: str = "default", /, **settings: "Unpack[SettingsGiven]") -> Queue:
        """Set what is given on a queue and leave the rest; before its first use or after. Returns the queue; does not block.

        ``workers`` (1): the most tasks that run at once. ``maxsize`` (10_000): the most that wait, None for no bound. ``on_full`` ("block"): what a
        call on a full queue does, or "raise", "drop_newest", "drop_oldest", "caller_runs". ``on_error`` (None, log it): called with each failed task
        and its exception. ``idle_timeout`` (60.0): seconds until an idle worker thread ends, None never. ``context`` (True): tasks see the caller's
        contextvars. ``executor`` (None, the queue's own threads): a `concurrent.futures.Executor` that runs the tasks, a callable that makes one, or
        "processes".

        Raises ConfigurationError, which changes nothing. On the name of a queue that was shut down it opens a fresh one.
        """
        _check_name(name)
        where = f"configure({name!r})"
        queue = self._queues.get(name)
        if queue is None or queue._core.closed:
            wanted = self._overridden(name, self._defaults.changed(settings, where))
            queue = self._new(name, wanted)
            if queue.settings is wanted:
                return queue  # else another thread's first use came between
        queue._configure(self._overridden(name, queue.settings.changed(settings, where)), where)
        return queue

    def configure_from(self, source: Mapping[str, Any] | str | os.PathLike[str]) -> None:
        """Configure from a mapping or a TOML file: ``{"queues": {"plots": {"workers": 2}}, "exit": {"timeout": 30}}``.

        A pyproject.toml keeps it under ``[tool.offload]``. Everything is checked before anything is set. Raises ConfigurationError.
        """
        table, where = _environ.load(source)
        queues, leaving = _environ.sections(table, where)
        for name, settings in queues.items():
            _check_name(name)
            self._defaults.changed(settings, f"{where}: queues.{name}")
        self._configure_exit(leaving, f"{where}: exit")
        for name, settings in queues.items():
            self.configure(name, **settings)

    def queue(self, name: str = "default") -> Queue:
        """The queue of that name, made now if there is none. Does not block."""
        try:
            return self._queues[name]
        except (KeyError, TypeError):
            _check_name(name)
            return self._new(name, self._overridden(name, self._defaults))

    def queues(self) -> Mapping[str, Queue]:
        """A read-only view of the queues that exist, by name; it prints as a table of what they do. Does not block."""
        if not self._queues:  # nothing may have been decorated
            import_looks()
        return QueuesView(self)

    def flush(self, *names: str, timeout: float | None = None, raise_errors: bool = False) -> None:
        """Block until the named queues, or all, are idle at one moment. One timeout, in seconds, for all of them.

        A name never used is no error. Raises FlushTimeout, which lists what is unfinished; RuntimeError at once in a task of one of the queues; with
        ``raise_errors`` one ExceptionGroup of the failures since the last such flush.
        """
        _check_names(names)
        _waiting.flush(lambda: self._cores(names), timeout, raise_errors)

    async def aflush(self, *names: str, timeout: float | None = None, raise_errors: bool = False) -> None:
        """`flush` for coroutines: it waits without blocking the event loop. Being cancelled does nothing to the tasks."""
        _check_names(names)
        await _waiting.aflush(lambda: self._cores(names), timeout, raise_errors)

    def stats(self) -> "StatsTable":
        """The counts of all queues at one moment, by name; ``str()`` of it is a table. Does not block."""
        if not self._queues:
            import_looks()
        with _monitor.current.lock:
            table = StatsTable({name: queue.stats() for name, queue in list(self._queues.items())})
        _monitor.current.tidy()
        return table

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Shut every queue down: calls raise QueueClosed, what was accepted runs, or is cancelled with ``cancel_futures``.

        With ``wait`` blocks until all is done. Raises RuntimeError if a task of one of the queues asks to wait.
        """
        queues = list(self._queues.values())
        if wait:
            _waiting.refuse_from_inside([queue._core for queue in queues], "shutdown")
        for queue in queues:
            queue.shutdown(wait=False, cancel_futures=cancel_futures)
        if wait:
            for queue in queues:
                queue.shutdown(wait=True)

    def _cores(self, names: tuple[str, ...]) -> Iterator[Core]:
        """The cores of the named queues, or all; of those that were shut down and are not done yet as well."""
        for queue in [queue for queue in self._closing if not queue._core.unfinished]:
            self._closing.remove(queue)
            hand_on_failures(queue._core, self._queues[queue.name]._core)
        for queue in (*self._queues.values(), *self._closing):
            if not names or queue.name in names:
                yield queue._core

    def _make(self, name: str, settings: Settings) -> Queue:
        import_looks()
        self._read_exit_environment()
        parts = [part for part in (self._name, name) if part]
        return Queue(name, "-".join(["offload", *parts]), logging.getLogger(".".join(["offload", *parts])), settings, self._exit_timeout)

    def _new(self, name: str, settings: Settings) -> Queue:
        queue = self._make(name, settings)
        with _monitor.current.lock:  # two first calls at once make one queue
            old = self._queues.get(name)
            if old is None:
                queue = self._queues.setdefault(name, queue)  # or that of a signal handler which struck just before
            elif old._core.closed:
                self._closing.append(old)
                self._queues[name] = queue
            else:
                queue = old
        _monitor.current.tidy()
        return queue

    def _fresh(self) -> Contents:
        """Queues of the same names and settings, with nothing in them."""
        return {name: self._make(name, queue.settings) for name, queue in list(self._queues.items())}, []

    def _swap(self, contents: Contents) -> Contents:
        """Put other queues in the place of those that there are. Returns these."""
        before = self._queues, self._closing
        self._queues, self._closing = contents
        return before

    def _read_exit_environment(self) -> None:
        """Whoever operates the program has the last word on how it leaves, too."""
        configure_exit_at("configure_exit")
        for name, (variable, value) in _environ.for_exit(self._name).items() if self._name else ():
            self._set_own_exit(name, value, f"environment variable {variable}")

    def _set_own_exit(self, name: str, value: object, where: str) -> None:
        if name != "timeout":
            raise refuse(where, name, value, "a registry of its own sets its exit timeout alone; the rest is the application's")
        self._exit_timeout = seconds(name, value, where)
        for queue in list(self._queues.values()):
            queue._exit_timeout = queue._core.exit_timeout = self._exit_timeout

    def _overridden(self, name: str, settings: Settings) -> Settings:
        for setting, (variable, value) in _environ.for_queue(self._name, name).items():
            settings = settings.changed({setting: value}, f"environment variable {variable}")
        return settings

    def _configure_exit(self, settings: Mapping[str, Any], where: str) -> None:
        if not self._name:
            configure_exit_at(where, **settings)
        for name, value in settings.items() if self._name else ():
            self._set_own_exit(name, value, where)

    def __repr__(self) -> str:
        return f"<Registry {self._name!r}: {', '.join(map(repr, self._queues)) or 'no queues yet'}>"


def import_looks() -> None:
    """Import what queues are looked at with, one or all of them: when `import_counts` says, and for its reasons."""
    global QueuesView, StatsTable
    from offload._stats import StatsTable
    from offload._view import QueuesView

    import_counts()


def configure_exit_at(where: str, **settings: Any) -> None:
    """Set the exit contract's settings; variables override them."""
    _exit.configure(where, **settings)
    for name, (variable, value) in _environ.for_exit("").items():
        _exit.configure(f"environment variable {variable}", **{name: value})


def configure_exit(**settings: "Unpack[ExitSettingsGiven]") -> None:
    """Set how the program leaves: ``timeout`` in seconds for all queues together (None, the default: no deadline), ``progress`` (None: a line on a
    terminal after a second; True and False force it). Changes what is given. Raises ConfigurationError. Does not block.
    """
    configure_exit_at("configure_exit", **settings)


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"a queue's name is a string that is not empty; {name!r} is not")


def _check_names(names: tuple[object, ...]) -> None:
    for name in names:
        _check_name(name)
