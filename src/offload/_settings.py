"""The settings of a queue, and the check of each where it is given. Plain values; nothing here knows a queue."""

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Literal, NamedTuple, TypeAlias, TypedDict, get_args

from offload._errors import ConfigurationError

OnFull: TypeAlias = Literal["block", "raise", "drop_newest", "drop_oldest", "caller_runs"]
OnError: TypeAlias = Callable[[Any, BaseException], object]
ExecutorSetting: TypeAlias = Executor | Callable[[], Executor] | Literal["processes"] | None

POLICIES: tuple[str, ...] = get_args(OnFull)


class Settings(NamedTuple):
    """What a queue is set to. Read it from ``Queue.settings``; change it with ``configure``.

    ``idle_timeout`` is in seconds; ``maxsize`` and ``idle_timeout`` may be ``None``: no bound, never.
    ``context`` holds on threads; contextvars do not travel to another process, whatever the executor. A class of executors is called with
    ``max_workers=workers``, and a process pool of such a class never forks; any other callable is called as it is.
    """

    workers: int = 1
    maxsize: int | None = 10_000
    on_full: OnFull = "block"
    on_error: OnError | None = None
    idle_timeout: float | None = 60.0
    context: bool = True
    executor: ExecutorSetting = None
    store: None = None

    def changed(self, values: Mapping[str, object], where: str) -> "Settings":
        """A copy with ``values`` checked and set. Raises ConfigurationError, naming ``where`` they were given."""
        return self._replace(**{name: check(name, value, where) for name, value in values.items()})


class SettingsGiven(TypedDict, total=False):
    """The same settings as keyword arguments, any of them left out."""

    workers: int
    maxsize: int | None
    on_full: OnFull
    on_error: OnError | None
    idle_timeout: float | None
    context: bool
    executor: ExecutorSetting
    store: None


class ExitSettingsGiven(TypedDict, total=False):
    """The exit contract's settings, likewise."""

    timeout: float | None
    progress: bool | None


NAMES: tuple[str, ...] = Settings._fields


def near(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'workers'?"`` for a misspelt word, or the list of what there is."""
    import difflib  # only a mistake needs it

    names = sorted(known)
    match = difflib.get_close_matches(word.lower(), names, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; allowed: {', '.join(names)}"


def refuse(where: str, name: str, value: object, allowed: str) -> ConfigurationError:
    """The error for a value that makes no sense."""
    return ConfigurationError(f"{where}: {name}={value!r} is not allowed: {allowed}")


def check(name: str, value: object, where: str) -> Any:
    """The value of setting ``name`` as it will be kept. Raises ConfigurationError for an unknown name or a wrong value."""
    try:
        checker = _CHECKS[name]
    except KeyError:
        raise ConfigurationError(f"{where}: unknown setting {name!r} (value {value!r}){near(name, NAMES)}") from None
    return checker(name, value, where)


def _workers(name: str, value: object, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise refuse(where, name, value, "a whole number, 1 or more")


def _maxsize(name: str, value: object, where: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise refuse(where, name, value, "a whole number, 1 or more, or None for no bound")


def _on_full(name: str, value: object, where: str) -> str:
    if isinstance(value, str) and value in POLICIES:
        return value
    hint = near(value, POLICIES) if isinstance(value, str) else ""
    raise refuse(where, name, value, f"one of {', '.join(map(repr, POLICIES))}{hint if 'mean' in hint else ''}")


def _on_error(name: str, value: object, where: str) -> object:
    if value is None or callable(value):
        return value
    raise refuse(where, name, value, "a callable that takes the task and the exception, or None to log it")


def seconds(name: str, value: object, where: str) -> float | None:
    """A time in seconds, 0 or more, or None."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0:
        return value
    raise refuse(where, name, value, "a number of seconds, 0 or more, or None")


def flag(name: str, value: object, where: str) -> bool:
    """True or False, and nothing that merely counts as one."""
    if isinstance(value, bool):
        return value
    raise refuse(where, name, value, "True or False")


def _executor(name: str, value: object, where: str) -> object:
    if value is None:
        return value
    if isinstance(value, str):
        if value == "processes":
            return "processes"  # always the same object
        raise refuse(where, name, value, "the one word is 'processes'")
    if is_executor(value):
        _refuse_shut_down(name, value, where)
        return value
    if callable(value):
        return value
    raise refuse(where, name, value, "a concurrent.futures.Executor, a callable that makes one, 'processes' or None")


def is_executor(value: object) -> bool:
    """Whether it takes tasks, rather than makes something that does."""
    return not isinstance(value, type) and callable(getattr(value, "submit", None))


def _refuse_shut_down(name: str, value: Any, where: str) -> None:
    # The standard library's executors and loky's tell it in these attributes; another's tells it at its first submit.
    flags = getattr(value, "_flags", None)
    if getattr(value, "_broken", False) or getattr(flags, "broken", None) is not None:  # a broken one calls itself shut down too
        raise refuse(where, name, value, "this executor is broken: a process of it has died; hand in a new one, or a callable that makes one")
    if any(flag is True for flag in (getattr(value, "_shutdown", 0), getattr(value, "_shutdown_thread", 0), getattr(flags, "shutdown", 0))):
        raise refuse(where, name, value, "this executor was shut down; hand in an open one, or a callable that makes one")


def _store(name: str, value: object, where: str) -> None:
    if value is not None:
        raise refuse(where, name, value, "the durable queue is reserved for a later release; leave it None")


_CHECKS: dict[str, Callable[[str, object, str], Any]] = {
    "workers": _workers,
    "maxsize": _maxsize,
    "on_full": _on_full,
    "on_error": _on_error,
    "idle_timeout": seconds,
    "context": flag,
    "executor": _executor,
    "store": _store,
}
