"""The decorator: a function whose calls go to a queue."""

import functools
import inspect
import sys
from collections.abc import Callable
from types import FrameType, GenericAlias
from typing import Any

import wrapt

from offload._admission import offer, place_of
from offload._core import Core
from offload._errors import ConfigurationError
from offload._queue import Queue, name_of
from offload._registry import Names, import_looks
from offload._snapshot import Snapshot, freeze
from offload._task import Task

Coalesce = bool | Callable[..., object]
getframe = sys._getframe


class _Route:
    """Where the calls of one decorated function go, and how."""

    __slots__ = ("coalesce", "fn", "name", "plain", "queue", "registry", "snapshot")

    def __init__(self, registry: Names, fn: Any, queue: str, snapshot: Snapshot, coalesce: Coalesce) -> None:
        if not isinstance(queue, str) or not queue:
            raise ConfigurationError(f"offload: queue={queue!r} is not allowed: a queue's name is a string that is not empty")
        for option, value in (("snapshot", snapshot), ("coalesce", coalesce)):
            if not isinstance(value, bool) and not callable(value):
                raise ConfigurationError(f"offload: {option}={value!r} is not allowed: True, False or a callable")
        self.registry = registry
        self.fn = fn
        self.queue = queue
        self.snapshot = snapshot
        self.coalesce = coalesce
        self.plain = not (snapshot or coalesce)
        self.name = name_of(getattr(fn, "__func__", fn))

    def changed(self, **changes: Any) -> "_Route":
        now = {"queue": self.queue, "snapshot": self.snapshot, "coalesce": self.coalesce}
        return _Route(self.registry, self.fn, **(now | changes))

    def core(self) -> Core:
        return self.registry.queue(self.queue)._core

    def send(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType | None) -> Task[Any]:
        """Carry a call out; `fn` is the decorated function, or that bound to an object."""
        place = place_of(frame)
        if self.plain:
            return offer(self.core(), self.name, fn, args, kwargs, *place)
        instance, own = _split(self.fn, fn, args)
        head = args[: len(args) - len(own)]
        key = _key(self, instance, own, kwargs) if self.coalesce else None
        if self.snapshot:
            own, kwargs = freeze(self.snapshot, self.name, functools.partial(fn, *head), instance, own, kwargs)
        return offer(self.core(), self.name, fn, (*head, *own), kwargs, *place, key)


def _frame(depth: int) -> FrameType | None:
    """The frame `depth` levels up; None if C code called with no Python below it: atexit, or a bare thread."""
    try:
        return getframe(depth + 1)
    except ValueError:
        return None


def _split(target: Any, fn: Any, args: tuple[Any, ...]) -> tuple[object, tuple[Any, ...]]:
    """The object whose method is called, or None, and the call's own arguments without it."""
    bound = getattr(fn, "__self__", None)
    if bound is not None and not inspect.isbuiltin(fn) and fn is not target:
        return bound, args
    if args and _is_method_of(target, args[0]):
        return args[0], args[1:]
    return None, args


def _is_method_of(target: Any, first: object) -> bool:
    """Whether `first` stands for self or cls: ``Class.method(obj)``, and from 3.13 on a classmethod around the decorator."""
    name: Any = getattr(target, "__name__", None)
    for owner in (first, type(first)):
        for base in owner.__mro__ if isinstance(owner, type) else ():
            found = vars(base).get(name)
            if isinstance(found, classmethod):
                if getattr(found.__func__, "__wrapped__", None) is target and owner is first:
                    return True
            elif isinstance(found, Offloaded) and found.__wrapped__ is target and owner is not first:
                return not isinstance(target, staticmethod)
    return False


def _key(route: _Route, instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    own = route.coalesce(*args, **kwargs) if callable(route.coalesce) else None
    try:
        hash(own)
    except TypeError as error:
        raise TypeError(f"coalesce of {route.name}: its key {own!r} can't be hashed; return a number, a string or a tuple of those") from error
    return id(route.fn), id(instance), own  # the waiting call keeps both objects alive, so their ids are theirs


class BoundOffloaded(wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]  # typed in _typing
    """An Offloaded that was looked up on an object or a class."""

    def __call__(self, /, *args: Any, **kwargs: Any) -> Task[Any]:
        return _route_of(self._self_parent).send(self.__wrapped__, args, kwargs, _frame(1))  # type: ignore[no-any-return]

    @property
    def call(self) -> Any:
        """The function itself, bound as this is: ``f.call(...)`` runs here and now, uncounted."""
        return self.__wrapped__

    @property
    def queue(self) -> Queue:
        """The queue that calls go to now, made if there is none."""
        return self._self_parent.queue  # type: ignore[no-any-return]

    def using(self, **changes: Any) -> Any:
        """A copy, bound as this is, with the given options changed: ``queue``, ``snapshot``, ``coalesce``."""
        return self._self_parent.using(**changes).__get__(self._self_instance, self._self_owner)

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: object) -> Any:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _bind, (self._self_parent, self._self_instance, self._self_owner)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def __repr__(self) -> str:
        return f"<Offloaded {self._self_parent._self_route.name} on queue {self._self_parent._self_route.queue!r}, bound>"


class Offloaded(wrapt.FunctionWrapper):  # type: ignore[type-arg]  # typed in _typing
    """A function whose calls go to a queue: what `offload` returns.

    ``f(...)`` returns a Task at once; ``f.call(...)`` runs here and now; ``f.using(queue=...)`` is a changed copy; ``f.queue`` is the Queue. It
    pickles by reference.
    """

    __bound_function_wrapper__ = BoundOffloaded
    __class_getitem__ = classmethod(GenericAlias)  # type: ignore[var-annotated]  # ``Offloaded[[int], str, str]``, for annotations
    __slots__ = ("_self_route",)

    def __init__(self, route: _Route) -> None:
        super().__init__(route.fn, _never_called)
        self._self_route = route
        self._self_changes: dict[str, Any] = {}

    # wrapt would work the binding out anew at each call, for several times the price of a call here, and an attribute of a proxy costs as much as a
    # function call; the slot's own descriptor goes past the proxy. What `_Route.send` does for a plain call is written out for the same reason.
    def __call__(self, /, *args: Any, **kwargs: Any) -> Task[Any]:
        if _route_of is None:  # the interpreter has cleared this module: a __del__ in its very last moments, for which nothing is left but to run
            return self.__wrapped__(*args, **kwargs)
        route: _Route = _route_of(self)
        if not route.plain:
            return route.send(route.fn, args, kwargs, _frame(1))
        try:
            core = route.registry._queues[route.queue]._core
            frame = getframe(1)
        except (KeyError, ValueError):  # the queue's first call; or C code called, with no Python below it
            pass  # what the call does is not done while this is handled: a failure would get it as its context
        else:
            return offer(core, route.name, route.fn, args, kwargs, frame.f_code, frame.f_lasti)
        return route.send(route.fn, args, kwargs, _frame(1))

    @property
    def call(self) -> Any:
        """The function itself, bound as this is: ``f.call(...)`` runs here and now, uncounted."""
        return self.__wrapped__

    @property
    def queue(self) -> Queue:
        """The queue that calls go to now, made if there is none."""
        route = self._self_route
        return route.registry.queue(route.queue)

    def using(self, **changes: Any) -> "Offloaded":
        """A copy with the given options changed: ``queue``, ``snapshot``, ``coalesce``. This one stays as it is."""
        unknown = set(changes) - {"queue", "snapshot", "coalesce"}
        if unknown:
            raise TypeError(f"using() takes queue, snapshot and coalesce, not {', '.join(sorted(unknown))}")
        copy = Offloaded(self._self_route.changed(**changes))
        copy._self_changes = self._self_changes | changes
        return copy

    def __copy__(self) -> "Offloaded":
        return self

    def __deepcopy__(self, memo: object) -> "Offloaded":
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        module, path = self.__module__, self.__qualname__
        if _found(module, path) is not self and not self._self_changes:
            from pickle import PicklingError  # who pickles has paid for its import

            raise PicklingError(
                f"can't pickle {self!r}: it pickles by reference, and {module}.{path} is not it; define the function at the top of a module "
                "and decorate it there"
            )
        return _resolve, (module, path, self._self_changes)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def __repr__(self) -> str:
        return f"<Offloaded {self._self_route.name} on queue {self._self_route.queue!r}>"


_route_of: Callable[..., Any] = Offloaded._self_route.__get__  # type: ignore[attr-defined, misc]  # the slot itself


def _never_called(*_: Any) -> Any:
    raise AssertionError("Offloaded.__call__ takes wrapt's place")  # pragma: no cover


def _bind(parent: Any, instance: Any, owner: Any) -> Any:
    return parent.__get__(instance, owner)


def _found(module: str, path: str) -> Any:
    """What stands at a module's qualified name, not bound to its class."""
    *parents, name = path.split(".")
    try:
        owner = sys.modules[module]
        for parent in parents:
            owner = getattr(owner, parent)
        found = vars(owner)[name]
    except (KeyError, AttributeError, TypeError):
        return None
    return found.__func__ if isinstance(found, classmethod | staticmethod) and not isinstance(found, Offloaded) else found


def _resolve(module: str, path: str, changes: dict[str, Any]) -> Any:
    __import__(module)
    found = _found(module, path)
    if not isinstance(found, Offloaded):
        from pickle import UnpicklingError

        raise UnpicklingError(f"{module}.{path} is {found!r} here, not a function decorated with offload")
    return found.using(**changes) if changes else found


def decorate(registry: Names, fn: Any, queue: str, snapshot: Snapshot, coalesce: Coalesce) -> Offloaded:
    """Wrap one callable. Raises TypeError for what can't be offloaded, saying why."""
    if isinstance(fn, (Offloaded, BoundOffloaded)):
        fn = fn.__wrapped__
    _refuse(fn)
    import_looks()
    return Offloaded(_Route(registry, fn, queue, snapshot, coalesce))


def _refuse(fn: Any) -> None:
    inner = fn.__func__ if isinstance(fn, classmethod | staticmethod) else fn
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.isclass(inner):
        raise TypeError(
            f"offload can't decorate the class {inner.__qualname__}: calling it has to return the object; "
            "decorate a method, or a function that makes it"
        )
    if not callable(inner):
        raise TypeError(f"offload decorates callables; {inner!r} is not one")
    for looked_at in (inner, getattr(type(inner), "__call__", None)):
        if inspect.isgeneratorfunction(looked_at) or inspect.isasyncgenfunction(looked_at):
            raise TypeError(
                f"offload can't decorate the generator function {name_of(inner)}: nobody would iterate over it, so its body would never run"
            )
