"""The decorator: what it accepts and refuses, what it returns, what inspect, pickle and copy see."""

from __future__ import annotations

import abc
import copy
import functools
import inspect
import json
import math
import os.path
import pickle
import re
import sys
import threading
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import wrapt
from conftest import WAIT, Gate

from offload import Offloaded, Queue, QueueClosed, Registry, Task, offload

module_registry = Registry()


@pytest.fixture(autouse=True, scope="module")
def close_module_registry() -> Iterator[None]:
    yield
    module_registry.shutdown()


@pytest.fixture
def in_module(thread_guard: None) -> Iterator[None]:
    """For tests that call what is decorated at the top of this module: its queue ends with each test."""
    yield
    for queue in module_registry.queues().values():
        queue.shutdown()
        module_registry.configure(queue.name)


@module_registry.offload(queue="plots")
def double(number: int, *, offset: int = 0) -> int:
    """Twice the number."""
    return 2 * number + offset


async def async_double(number: int) -> int:
    return 2 * number


def plain_double(number: int) -> int:
    return 2 * number


def generator(number: int) -> Iterator[int]:
    yield number


async def async_generator(number: int) -> AsyncIterator[int]:
    yield number


class Doubler:
    def __call__(self, number: int) -> int:
        return 2 * number


class AsyncDoubler:
    async def __call__(self, number: int) -> int:
        return 2 * number


class GeneratorObject:
    def __call__(self, number: int) -> Iterator[int]:
        yield number


class AsyncGeneratorObject:
    async def __call__(self, number: int) -> AsyncIterator[int]:
        yield number


@dataclass
class Sender:
    """Every kind of method, in either order of the decorators."""

    unit: int = 1

    @module_registry.offload(queue="plots")
    def send(self, number: int, *, offset: int = 0) -> tuple[Sender, int]:
        """Send it."""
        return self, number * self.unit + offset

    @module_registry.offload(queue="plots")
    async def send_async(self, number: int) -> tuple[Sender, int]:
        return self, number * self.unit

    @module_registry.offload(queue="plots")
    @classmethod
    def class_inside(cls, number: int) -> tuple[type[Sender], int]:
        """Class, inside."""
        return cls, number

    @classmethod
    @module_registry.offload(queue="plots")
    def class_outside(cls, number: int) -> tuple[type[Sender], int]:
        """Class, outside."""
        return cls, number

    @module_registry.offload(queue="plots")
    @staticmethod
    def static_inside(number: int) -> tuple[None, int]:
        """Static, inside."""
        return None, number

    @staticmethod
    @module_registry.offload(queue="plots")
    def static_outside(number: int) -> tuple[None, int]:
        """Static, outside."""
        return None, number

    @module_registry.offload(queue="plots")
    @classmethod
    async def class_async(cls, number: int) -> tuple[type[Sender], int]:
        return cls, number


class LoudSender(Sender):
    @module_registry.offload(queue="plots")
    def send(self, number: int, *, offset: int = 0) -> tuple[Sender, int]:
        sender, sent = super().send.call(number, offset=offset)
        return sender, sent * 100


METHODS = {  # name: what the call gets in place of self, seen from the instance and the class
    "send": lambda sender: sender,
    "send_async": lambda sender: sender,
    "class_inside": type,
    "class_outside": type,
    "static_inside": lambda sender: None,
    "static_outside": lambda sender: None,
    "class_async": type,
}


# --- bare, called, and what comes back


def test_bare_decorator_runs_on_the_queue_named_default(default_registry: ModuleType) -> None:
    @offload
    def where() -> str:
        return threading.current_thread().name

    task = where()
    assert isinstance(task, Task)
    assert (task.result(WAIT), task.queue) == ("offload-default-0", "default")
    assert where.queue is default_registry.queue("default")


@pytest.mark.parametrize(("options", "queue"), [({}, "default"), ({"queue": "plots"}, "plots")])
def test_called_decorator(default_registry: ModuleType, options: dict[str, str], queue: str) -> None:
    @offload(**options)  # type: ignore[call-overload]
    def where() -> str:
        return threading.current_thread().name

    assert where().result(WAIT) == f"offload-{queue}-0"
    assert where.queue is default_registry.queue(queue)


def test_the_designs_first_snippet(default_registry: ModuleType) -> None:
    from offload import configure, flush

    written = []
    configure("plots", workers=2, maxsize=1_000)

    @offload(queue="plots")
    def write_plot(x: int, y: int, title: str = "") -> str:
        written.append((x, y, title))
        return "written"

    task = write_plot(1, 2, title="fit")
    assert write_plot.call(3, 4) == "written"
    flush("plots", timeout=30)
    assert task.done()
    assert sorted(written) == [(1, 2, "fit"), (3, 4, "")]


def test_options_are_keywords_and_the_function_is_positional() -> None:
    with pytest.raises(TypeError):
        offload(plain_double, "plots")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        offload(fn=plain_double)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        offload(que="plots")  # type: ignore[call-overload]


@pytest.mark.parametrize("name", [5, None, b"plots"])
def test_a_queue_is_named_by_a_string(registry: Registry, name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="queue"):
        registry.offload(queue=name)(plain_double)


def test_it_returns_an_offloaded_which_is_a_function_wrapper(registry: Registry) -> None:
    f = registry.offload(plain_double)
    assert isinstance(f, Offloaded)
    assert isinstance(f, wrapt.FunctionWrapper)
    assert Offloaded[[int], int, int] is not None


def test_a_call_returns_before_the_work_has_begun(registry: Registry, gate: Callable[[str], Gate]) -> None:
    ran = threading.Event()
    f = registry.offload(queue="plots")(ran.set)
    with gate("plots"):
        task = f()
        assert not task.done()
        assert not task.running()
        assert not ran.is_set()
    assert task.result(WAIT) is None
    assert ran.is_set()


def test_decorating_creates_neither_queue_nor_thread(registry: Registry) -> None:
    before = threading.enumerate()
    f = registry.offload(queue="plots")(plain_double)
    assert dict(registry.queues()) == {}
    f(1).result(WAIT)
    assert list(registry.queues()) == ["plots"]
    assert [t.name for t in threading.enumerate() if t not in before] == ["offload-plots-0"]


# --- what it accepts

ACCEPTED: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "function": (plain_double, (4,), 8),
    "lambda": (lambda number: 2 * number, (4,), 8),
    "async function": (async_double, (4,), 8),
    "partial": (functools.partial(plain_double, 4), (), 8),
    "partial of a partial": (functools.partial(functools.partial(pow, 2), 3), (), 8),
    "async partial": (functools.partial(async_double, 4), (), 8),
    "callable object": (Doubler(), (4,), 8),
    "async callable object": (AsyncDoubler(), (4,), 8),
    "partial of a callable object": (functools.partial(AsyncDoubler(), 4), (), 8),
    "builtin": (len, ("word",), 4),
    "builtin of C": (math.sqrt, (16,), 4.0),
    "other people's function": (os.path.join, ("a", "b"), os.path.join("a", "b")),
    "other people's module": (json.dumps, ([1],), "[1]"),
    "bound method": (Sender(3).__eq__, (Sender(3),), True),
    "bound method of a builtin": ("-".join, (["a", "b"],), "a-b"),
    "unbound method of a builtin": (str.upper, ("a",), "A"),
    "cached function": (functools.lru_cache(plain_double), (4,), 8),
    "single dispatch": (functools.singledispatch(plain_double), (4,), 8),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_accepts(registry: Registry, kind: str) -> None:
    function, args, expected = ACCEPTED[kind]
    f = registry.offload(queue="plots")(function)
    task = f(*args)
    assert isinstance(task, Task)
    assert task.result(WAIT) == expected
    assert (task.queue, f.queue) == ("plots", registry.queue("plots"))
    assert f.__wrapped__ is function
    assert isinstance(task.name, str)
    assert task.name


@pytest.mark.parametrize("kind", ACCEPTED)
def test_call_runs_here_and_uncounted(registry: Registry, kind: str) -> None:
    function, args, expected = ACCEPTED[kind]
    f = registry.offload(queue="plots")(function)
    result = f.call(*args)
    if inspect.iscoroutine(result):
        with pytest.raises(StopIteration) as stopped:
            result.send(None)
        result = stopped.value.value
    assert result == expected
    assert f.queue.stats().submitted == 0


def test_call_runs_on_the_callers_thread_and_raises_what_the_function_raises(registry: Registry) -> None:
    here = registry.offload(threading.current_thread)
    assert here.call() is threading.current_thread()
    assert here().result(WAIT) is not threading.current_thread()
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        registry.offload(math.sqrt).call(-1)


def test_keywords_of_any_name_reach_the_function(registry: Registry) -> None:
    @registry.offload(queue="plots")
    def echo(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    names = "self cls fn f func function wrapped wrapper instance args kwargs queue snapshot coalesce task name"
    keywords = dict.fromkeys(names.split(), 1)
    expected = ((1,), keywords)
    assert echo(1, **keywords).result(WAIT) == expected
    assert echo.call(1, **keywords) == expected
    assert echo.using(queue="mail")(1, **keywords).result(WAIT) == expected
    assert registry.queue("plots").submit(echo.__wrapped__, 1, **keywords).result(WAIT) == expected


def test_keywords_of_any_name_reach_a_method(registry: Registry) -> None:
    class Echo:
        @registry.offload(queue="plots")
        def echo(this, *args: Any, **kwargs: Any) -> Any:
            return this, args, kwargs

    echo = Echo()
    keywords = dict.fromkeys("self cls fn wrapped instance args kwargs".split(), 1)
    assert echo.echo(1, **keywords).result(WAIT) == (echo, (1,), keywords)
    assert echo.echo.call(1, **keywords) == (echo, (1,), keywords)


# --- methods


@pytest.mark.parametrize("name", METHODS)
def test_methods_from_the_instance(in_module: None, name: str) -> None:
    sender = Sender()
    task = getattr(sender, name)(3)
    assert isinstance(task, Task)
    owner, number = task.result(WAIT)
    assert owner is METHODS[name](sender)
    assert number == 3
    assert task.name == f"{__name__}.Sender.{name}"


@pytest.mark.parametrize("name", METHODS)
def test_methods_from_the_class(in_module: None, name: str) -> None:
    sender = Sender()
    args = (sender, 3) if METHODS[name](sender) is sender else (3,)
    owner, number = getattr(Sender, name)(*args).result(WAIT)
    assert owner is METHODS[name](sender)
    assert number == 3


@pytest.mark.parametrize("name", METHODS)
def test_methods_from_a_subclass(in_module: None, name: str) -> None:
    class Sub(Sender): ...

    sender = Sub()
    owner, number = getattr(sender, name)(3).result(WAIT)
    assert owner is METHODS[name](sender)
    assert number == 3


# Since 3.13 a classmethod binds whatever it holds as a plain method, and asks it nothing: from such a method
# `.call` and `.using` are those of the unbound function. The other order of the decorators has no such limit.
BINDING = [name for name in METHODS if name != "class_outside" or sys.version_info < (3, 13)]


@pytest.mark.parametrize("name", BINDING)
def test_methods_have_call_using_queue_and_wrapped(in_module: None, name: str) -> None:
    sender = Sender()
    bound = getattr(sender, name)
    result = bound.call(3)
    if inspect.iscoroutine(result):
        with pytest.raises(StopIteration) as stopped:
            result.send(None)
        result = stopped.value.value
    assert result == (METHODS[name](sender), 3)
    assert result[0] is METHODS[name](sender)

    other = bound.using(queue="mail")
    task = other(3)
    assert (task.queue, task.result(WAIT)) == ("mail", result)
    assert task.result()[0] is METHODS[name](sender)
    assert other.queue is module_registry.queue("mail")

    assert bound.queue is module_registry.queue("plots")
    assert callable(bound.__wrapped__)
    assert not isinstance(bound.__wrapped__, Offloaded)


def test_class_access_to_a_method_has_call_using_and_queue(in_module: None) -> None:
    sender = Sender(5)
    assert Sender.send.call(sender, 3) == (sender, 15)
    assert Sender.send.using(queue="mail")(sender, 3).result(WAIT) == (sender, 15)
    assert Sender.send.queue is module_registry.queue("plots")


def test_wrapped_of_a_bound_method_is_the_bound_method(in_module: None) -> None:
    sender = Sender(5)
    assert sender.send.__wrapped__(3) == (sender, 15)
    assert sender.send.__self__ is sender


def test_super_reaches_the_overridden_method(in_module: None) -> None:
    sender = LoudSender(2)
    assert sender.send(3, offset=1).result(WAIT) == (sender, 700)


def test_an_offloaded_callable_object_in_a_class_binds_as_its_original_does(registry: Registry) -> None:
    """An object without __get__ gets no self, and the decorator changes nothing about that."""

    class Holder:
        plain = Doubler()
        offloaded = registry.offload(Doubler())

    assert Holder().plain(4) == Holder().offloaded(4).result(WAIT) == Holder().offloaded.call(4) == 8


def test_abstract_methods_stay_abstract(registry: Registry) -> None:
    class Base(abc.ABC):
        @registry.offload
        @abc.abstractmethod
        def inside(self) -> None: ...

        @abc.abstractmethod
        @registry.offload
        def outside(self) -> None: ...

    assert Base.__abstractmethods__ == {"inside", "outside"}


# --- what it refuses


class WithGenerators:
    def method(self) -> Iterator[int]:
        yield 1

    @staticmethod
    async def static() -> AsyncIterator[int]:
        yield 1


REFUSED: dict[str, tuple[Any, str]] = {
    "class": (Sender, "class"),
    "builtin class": (int, "class"),
    "exception class": (ValueError, "class"),
    "class with a metaclass": (abc.ABC, "class"),
    "generator function": (generator, "generator"),
    "generator lambda": (lambda: (yield), "generator"),
    "async generator function": (async_generator, "generator"),
    "object whose call is a generator": (GeneratorObject(), "generator"),
    "object whose call is an async generator": (AsyncGeneratorObject(), "generator"),
    "bound generator method": (WithGenerators().method, "generator"),
    "partial of a generator function": (functools.partial(generator, 1), "generator"),
    "partial of an async generator function": (functools.partial(async_generator, 1), "generator"),
    "partial of a generator object": (functools.partial(GeneratorObject(), 1), "generator"),
    "static generator method": (staticmethod(generator), "generator"),
    "class generator method": (classmethod(generator), "generator"),
    "static async generator method": (WithGenerators.__dict__["static"], "generator"),
    "number": (42, "callable|function|int"),
    "the name of a queue": ("plots", "callable|function|queue"),
}


@pytest.mark.parametrize("options", [{}, {"queue": "plots"}])
@pytest.mark.parametrize("kind", REFUSED)
def test_refuses_at_decoration_and_says_why(registry: Registry, kind: str, options: dict[str, str]) -> None:
    function, why = REFUSED[kind]
    decorate = registry.offload(**options) if options else registry.offload  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=f"(?i){why}"):
        decorate(function)


def test_a_refusal_names_what_was_refused(registry: Registry) -> None:
    for function in (generator, async_generator, Sender):
        with pytest.raises(TypeError, match=re.escape(function.__name__)):
            registry.offload(function)


def test_a_functools_wrapper_of_a_generator_function_is_judged_by_itself(registry: Registry) -> None:
    """`wraps` copies names, not nature: this wrapper's own body runs."""

    @functools.wraps(generator)
    def collected(number: int) -> list[int]:
        return list(generator(number))

    assert registry.offload(collected)(3).result(WAIT) == [3]


# --- what introspection sees


def test_introspection_sees_the_original() -> None:
    raw = double.__wrapped__
    for attribute in ("__name__", "__qualname__", "__doc__", "__module__", "__defaults__", "__kwdefaults__"):
        assert getattr(double, attribute) == getattr(raw, attribute)
    assert raw.__name__ == "double"
    assert inspect.signature(double) == inspect.signature(raw)
    assert str(inspect.signature(double)) == "(number: 'int', *, offset: 'int' = 0) -> 'int'"
    assert inspect.getdoc(double) == "Twice the number."
    assert inspect.unwrap(double) is raw
    assert inspect.isfunction(double)
    assert inspect.getsource(double) == inspect.getsource(raw)
    assert typing.get_type_hints(double) == {"number": int, "offset": int, "return": int}


def test_introspection_sees_the_original_method() -> None:
    sender = Sender()
    assert list(inspect.signature(sender.send).parameters) == ["number", "offset"]
    assert list(inspect.signature(Sender.send).parameters) == ["self", "number", "offset"]
    assert list(inspect.signature(Sender.class_inside).parameters) == ["number"]
    assert list(inspect.signature(Sender.static_inside).parameters) == ["number"]
    assert sender.send.__name__ == "send"
    assert sender.send.__qualname__ == "Sender.send"
    assert sender.send.__doc__ == "Send it."
    assert inspect.ismethod(sender.send)


@pytest.mark.parametrize("name", ["class_inside", "class_outside", "static_inside", "static_outside"])
def test_introspection_sees_class_and_static_methods(name: str) -> None:
    method = getattr(Sender, name)
    assert method.__name__ == name
    assert method.__qualname__ == f"Sender.{name}"
    assert inspect.getdoc(method) == ", ".join(name.split("_")).capitalize() + "."
    assert list(inspect.signature(method).parameters) == ["number"]


def test_functools_wraps_and_partial_take_an_offloaded_function(in_module: None) -> None:
    @functools.wraps(double)
    def outer(number: int) -> Task[int]:
        return double(number)

    assert (outer.__name__, inspect.signature(outer)) == ("double", inspect.signature(double))
    assert outer(4).result(WAIT) == 8
    assert functools.partial(double, 4)(offset=1).result(WAIT) == 9


def test_a_decorator_beneath_is_run_on_the_worker_too(registry: Registry) -> None:
    def shout(function: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> str:
            return f"{function(*args)} on {threading.current_thread().name}"

        return wrapper

    @registry.offload(queue="plots")
    @shout
    def hello() -> str:
        return "hello"

    assert hello().result(WAIT) == "hello on offload-plots-0"
    assert hello.__name__ == "hello"


# --- using, queue


def test_using_is_a_changed_copy(registry: Registry) -> None:
    f = registry.offload(queue="plots")(plain_double)
    mail = f.using(queue="mail")
    assert isinstance(mail, Offloaded)
    assert (f(1).queue, mail(1).queue) == ("plots", "mail")
    assert f.queue is registry.queue("plots")
    assert mail.queue is registry.queue("mail")
    assert mail.__wrapped__ is f.__wrapped__
    assert mail(4).result(WAIT) == 8
    assert mail.call(4) == 8


def test_using_keeps_what_is_not_given(registry: Registry, gate: Callable[[str], Gate]) -> None:
    seen: list[list[int]] = []
    f = registry.offload(queue="plots", snapshot=True)(seen.append)
    for copied in (
        f.using(),
        f.using(coalesce=False),
        f.using(queue="plots"),
        f.using(queue="plots").using(),
    ):
        with gate("plots"):
            numbers = [1]
            task = copied(numbers)
            numbers.append(2)
        task.result(WAIT)
        assert seen.pop() == [1], "the copy has lost snapshot=True"
        assert task.queue == "plots"
    chained = f.using(queue="mail").using(snapshot=False)
    assert chained.queue.name == "mail"
    values = [1]
    chained(values).result(WAIT)
    assert seen.pop() is values


@pytest.mark.parametrize("options", [{"que": "mail"}, {"workers": 2}])
def test_using_refuses_unknown_options(registry: Registry, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        registry.offload(plain_double).using(**options)


def test_using_of_another_registry_stays_with_its_own(registry: Registry, make_registry: Callable[..., Registry]) -> None:
    sdk = make_registry("sdk")
    f = sdk.offload(queue="plots")(plain_double)
    assert f.using(queue="mail").queue is sdk.queue("mail")
    assert f.queue is sdk.queue("plots")
    assert f.queue is not registry.queue("plots")


def test_the_queue_is_looked_up_at_each_call(registry: Registry) -> None:
    f = registry.offload(queue="plots")(plain_double)
    first = f.queue
    assert isinstance(first, Queue)
    f(1).result(WAIT)
    first.shutdown()
    with pytest.raises(QueueClosed):
        f(1)
    fresh = registry.configure("plots")
    assert fresh is not first
    assert f(4).result(WAIT) == 8
    assert f.queue is fresh
    assert (first.stats().submitted, fresh.stats().submitted) == (1, 1)


def test_the_queue_can_not_be_assigned(registry: Registry) -> None:
    f = registry.offload(plain_double)
    with pytest.raises(AttributeError):
        f.queue = registry.queue("mail")  # type: ignore[misc,assignment]


# --- pickle and copy

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_function_pickles_by_reference(protocol: int) -> None:
    data = pickle.dumps(double, protocol)
    assert pickle.loads(data) is double
    assert len(data) < 100


@pytest.mark.parametrize("protocol", PROTOCOLS[2:])
@pytest.mark.parametrize("name", BINDING)
def test_a_method_pickles_with_its_object(in_module: None, name: str, protocol: int) -> None:
    sender = Sender(7)
    loaded = pickle.loads(pickle.dumps(getattr(sender, name), protocol))
    owner, number = loaded(3).result(WAIT)
    expected = METHODS[name](sender)
    assert owner == expected
    assert owner is not sender  # a dataclass, equal though it is another object
    assert number in (3, 21)
    assert loaded.queue is module_registry.queue("plots")
    assert callable(loaded.call)


@pytest.mark.parametrize("name", ["send", "class_inside", "class_outside", "static_inside", "static_outside"])
def test_a_method_of_the_class_pickles(in_module: None, name: str) -> None:
    loaded = pickle.loads(pickle.dumps(getattr(Sender, name)))
    args = (Sender(), 3) if name == "send" else (3,)
    assert loaded(*args).result(WAIT)[1] == 3


def test_an_object_that_holds_an_offloaded_function_pickles(in_module: None) -> None:
    loaded = pickle.loads(pickle.dumps({"send": double, "unit": 1}))
    assert loaded["send"] is double


def test_what_no_reference_finds_does_not_pickle_as_something_else(registry: Registry) -> None:
    """Its name would find the original, or nothing: an error, as pickle raises for any shadowed function."""

    def local() -> None: ...

    for function in (local, len, lambda: None, plain_double, functools.partial(plain_double, 1)):
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            pickle.dumps(registry.offload(function))


def test_a_changed_copy_pickles_as_itself_or_not_at_all() -> None:
    mail = double.using(queue="mail")
    try:
        data = pickle.dumps(mail)
    except pickle.PicklingError:
        return
    assert pickle.loads(data).queue.name == "mail"


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_a_function_copies_as_itself(registry: Registry, copier: Callable[[Any], Any]) -> None:
    local = registry.offload(queue="plots")(lambda: None)
    mail = double.using(queue="mail")
    for function in (double, local, mail, Sender.static_inside):
        assert copier(function) is function
    assert copy.deepcopy({"a": [double]})["a"][0] is double


def test_an_object_that_holds_an_offloaded_function_copies(in_module: None) -> None:
    class Holder:
        def __init__(self) -> None:
            self.send = double
            self.bound = Sender(7).send

    assert copy.deepcopy(Holder()).send is double
    owner, number = copy.deepcopy(Holder()).bound(3).result(WAIT)
    assert (owner.unit, number) == (7, 21)


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("name", BINDING)
def test_a_bound_method_copies_as_itself(in_module: None, name: str, copier: Callable[[Any], Any]) -> None:
    sender = Sender(7)
    copied = copier(getattr(sender, name))
    owner, number = copied(3).result(WAIT)
    assert owner == METHODS[name](sender)
    assert number in (3, 21)
    assert copied.queue is module_registry.queue("plots")
    assert callable(copied.call)
    if copier is copy.copy and METHODS[name](sender) is sender:
        assert owner is sender


def test_equal_and_hashable_as_its_original() -> None:
    sender = Sender()
    assert double in {double}
    assert sender.send == sender.send
    assert len({double, double}) == 1
