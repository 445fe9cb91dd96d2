"""What type checkers see of the decorator. Nothing here exists at run time: the classes are in `_decorator`, and `Registry.offload` is a plain
method.

`Offloaded` is declared here and not there because wrapt's classes can't say what becomes of parameters and result. Known limits of checkers, not of
the library: mypy sees no parameters of a function that returns Any, and can't keep the type variables of a decorated generic function; a classmethod
or staticmethod *around* the decorator loses ``call``, ``using`` and ``queue`` for all but mypy; pyright's strict mode knows no types for the
parameters of a lambda that takes what it likes, so ``coalesce`` wants a ``def`` there.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, Never, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from offload._queue import Queue
from offload._snapshot import Snapshot
from offload._task import Task

P = ParamSpec("P", contravariant=True)  # type: ignore[misc]  # mypy has no rule for it and lets it pass; others need it
Q = ParamSpec("Q")  # the parameters of a method without its self or cls
R = TypeVar("R")
C = TypeVar("C")
S = TypeVar("S")

Coalesce: TypeAlias = bool | Callable[..., object]

class Offloaded(Generic[P, R, C]):
    """A function whose calls go to a queue: what `offload` returns.

    Generic in the function's parameters ``P``, in its result ``R``, and in what ``call`` returns, ``C``: ``R``, or for an ``async def`` the coroutine
    of it.
    """

    __name__: str
    __qualname__: str

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Task[R]:
        """Offload one call. Returns its Task at once, unless the queue is full and blocks its callers.

        Raises QueueClosed; QueueFull as ``on_full`` says.
        """

    @property
    def call(self) -> Callable[P, C]:
        """The function itself: ``f.call(...)`` runs here and now, uncounted."""

    @property
    def queue(self) -> Queue:
        """The queue that calls go to now, made if there is none."""

    @property
    def __wrapped__(self) -> Callable[P, C]:
        """The function itself, as `inspect` and `functools` look for it."""

    def using(self, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...) -> Offloaded[P, R, C]:
        """A copy with the given options changed; this one stays as it is."""

    # In the order of trial: a classmethod, on its class or an object; a function looked up on its class; a method; what takes no self: a
    # staticmethod.
    @overload
    def __get__(self: Callable[Concatenate[type[S], Q], object], instance: object, owner: type[S], /) -> Offloaded[Q, R, C]: ...  # type: ignore[misc]  # a Callable may be this
    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Offloaded[P, R, C]: ...
    @overload
    def __get__(self: Callable[Concatenate[S, Q], object], instance: S, owner: type[Any] | None = None, /) -> Offloaded[Q, R, C]: ...
    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Offloaded[P, R, C]: ...

class BoundLater(Generic[P, R, C]):
    """A decorated classmethod or staticmethod object, which stands in a class body: looked up there it is an Offloaded without self or cls."""

    def __get__(self, instance: object, owner: type[Any] | None = None, /) -> Offloaded[P, R, C]: ...

class Decorator(Protocol):
    """`offload`, and what it returns when it is given options only: itself with other defaults.

    The overloads stand in the order of trial. ``Never`` is for functions that return Any, which would pass for coroutines.
    """

    @overload
    def __call__(self, fn: None = None, /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...) -> Decorator: ...
    @overload
    def __call__(self, fn: Offloaded[P, R, C], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...) -> Offloaded[P, R, C]: ...
    @overload
    def __call__(
        self, fn: classmethod[Any, P, Never], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...
    ) -> BoundLater[P, Any, Any]: ...
    @overload
    def __call__(
        self, fn: classmethod[Any, P, Coroutine[Any, Any, R]], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...
    ) -> BoundLater[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, fn: classmethod[Any, P, R], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...
    ) -> BoundLater[P, R, R]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a staticmethod can be called too
        self, fn: staticmethod[P, Never], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...
    ) -> BoundLater[P, Any, Any]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a staticmethod can be called too
        self, fn: staticmethod[P, Coroutine[Any, Any, R]], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...
    ) -> BoundLater[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]  # a staticmethod can be called too
        self, fn: staticmethod[P, R], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...
    ) -> BoundLater[P, R, R]: ...
    @overload
    def __call__(
        self, fn: Callable[P, Never], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...
    ) -> Offloaded[P, Any, Any]: ...
    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, R]], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...
    ) -> Offloaded[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /, *, queue: str = ..., snapshot: Snapshot = ..., coalesce: Coalesce = ...) -> Offloaded[P, R, R]: ...
