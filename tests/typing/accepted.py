"""User code that type checkers accept, and the types that they see in it. Never run: test_typing.py hands it to each checker."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Never, TypeVar, assert_type

import offload as package
from offload import Offloaded, Queue, QueueStats, Registry, Task, aflush, configure, configure_from, flush, offload, queue, queues, stats

T = TypeVar("T")
registry = Registry("acme", workers=2)


def newest_of(x: int, **_: object) -> int:
    return x


# --- functions: bare, called, with options, of a registry's own


@offload
def bare(x: int, y: str = "") -> float:
    return x / 2


@offload()
def empty(x: int, y: str = "") -> float:
    return x / 2


@offload(queue="plots", snapshot=True, coalesce=newest_of)
def called(x: int, *, title: str = "") -> float:
    return x / 2


@registry.offload
def own(x: int) -> list[str]:
    return [str(x)]


@registry.offload(queue="plots", snapshot=lambda value: value)
def own_called(x: int) -> None:
    return None


assert_type(bare(1), Task[float])
assert_type(bare(1, y="a"), Task[float])
assert_type(bare(1).result(timeout=1), float)
assert_type(bare(1).exception(), BaseException | None)
assert_type(bare(1).name, str)
assert_type(bare(1).queue, str)
assert_type(bare(1).caller, str)
assert_type(empty(1, "a"), Task[float])
assert_type(called(1, title="a"), Task[float])
assert_type(own(1), Task[list[str]])
assert_type(own_called(1), Task[None])
assert_type(package.offload(own_called)(x=1), Task[None])

assert_type(bare.call(1, "a"), float)
assert_type(bare.__wrapped__(1), float)
assert_type(bare.queue, Queue)
assert_type(bare.__name__, str)
assert_type(bare.using(queue="mail")(1, y="a"), Task[float])
assert_type(bare.using(snapshot=True, coalesce=False).using().call(1), float)
assert_type(bare.using(coalesce=newest_of).queue, Queue)


# --- async def: the Task is of what it returns, `call` gives the coroutine


@offload
async def fetch(url: str) -> bytes:
    return url.encode()


@registry.offload(queue="web")
async def fetch_called(url: str, /) -> bytes:
    return url.encode()


assert_type(fetch("a"), Task[bytes])
assert_type(fetch_called("a").result(), bytes)
coroutines = [assert_type(fetch.call("a"), Coroutine[Any, Any, bytes])]
assert_type(fetch.using(queue="mail")(url="a"), Task[bytes])


async def waits() -> None:
    assert_type(await fetch("a"), bytes)
    assert_type(await fetch.call("a"), bytes)
    assert_type(await bare(1), float)
    await aflush("web", timeout=1.0, raise_errors=True)


# --- methods, on the object and on the class


class Sender:
    @offload(queue="mail")
    def send(self, to: str, *, urgent: bool = False) -> int:
        return len(to)

    @offload
    async def send_async(self, to: str) -> int:
        return len(to)

    @registry.offload
    @classmethod
    def class_inside(cls, to: str) -> int:
        return len(to)

    @classmethod
    @offload(queue="mail")
    def class_outside(cls, to: str) -> int:
        return len(to)

    @offload(queue="mail")
    @staticmethod
    def static_inside(to: str) -> int:
        return len(to)

    @staticmethod
    @registry.offload
    def static_outside(to: str) -> int:
        return len(to)

    @offload
    @classmethod
    async def class_async(cls, to: str) -> int:
        return len(to)

    @offload
    @staticmethod
    async def static_async(to: str) -> int:
        return len(to)

    @offload
    def send_number(self, number: int) -> None:
        return None

    def uses_its_own(self) -> None:
        assert_type(self.send("a", urgent=True), Task[int])
        assert_type(self.class_inside("a"), Task[int])
        assert_type(self.static_inside("a"), Task[int])


class LoudSender(Sender):
    def shout(self) -> Task[int]:
        return super().send("A")


sender = Sender()
assert_type(sender.send("a", urgent=True), Task[int])
assert_type(sender.send.call("a", urgent=True), int)
assert_type(sender.send.using(queue="other")("a"), Task[int])
assert_type(sender.send.queue, Queue)
assert_type(Sender.send(sender, "a"), Task[int])
assert_type(Sender.send.call(sender, "a"), int)
assert_type(LoudSender().send("a"), Task[int])
assert_type(sender.send_async("a"), Task[int])
counts = [assert_type(sender.send_async.call("a"), Coroutine[Any, Any, int])]

assert_type(Sender.class_inside("a"), Task[int])
assert_type(sender.class_inside(to="a"), Task[int])
assert_type(Sender.class_inside.call("a"), int)
assert_type(sender.class_inside.using(queue="other")("a"), Task[int])
assert_type(Sender.class_outside("a"), Task[int])
assert_type(sender.class_outside(to="a"), Task[int])
assert_type(Sender.static_inside("a"), Task[int])
assert_type(sender.static_inside(to="a"), Task[int])
assert_type(Sender.static_inside.call("a"), int)
assert_type(sender.static_inside.using(queue="other")("a"), Task[int])
assert_type(Sender.static_outside("a"), Task[int])
assert_type(sender.static_outside(to="a"), Task[int])
assert_type(Sender.class_async("a"), Task[int])
assert_type(sender.static_async("a"), Task[int])
counts += [assert_type(Sender.class_async.call("a"), Coroutine[Any, Any, int])]
counts += [assert_type(sender.static_async.call("a"), Coroutine[Any, Any, int])]


# --- methods that give back their own class, of dataclasses, of generic classes


@dataclass
class Point:
    x: float

    @offload
    def mirrored(self, *through: "Point") -> "Point":
        return Point(-self.x)

    @offload
    @classmethod
    def origin(cls, *, x: float = 0) -> "Point":
        return cls(x)

    @classmethod
    @offload
    def parsed(cls, text: str) -> "Point":
        return cls(float(text))


class Box(Generic[T]):
    def __init__(self, content: T) -> None:
        self.content = content

    @offload
    def get(self) -> T:
        return self.content

    @offload(queue="boxes")
    def put(self, content: T) -> None:
        self.content = content


assert_type(Point(1).mirrored(Point(2), Point(3)).result(), Point)
assert_type(Point.origin(x=1.0), Task[Point])
assert_type(Point.parsed("1"), Task[Point])
assert_type(Box(1).get(), Task[int])
assert_type(Box("a").put("b"), Task[None])


# --- handed to what takes functions and futures


def takes_function(function: Callable[[int], object]) -> None: ...
def takes_offloaded(function: Callable[[int], Task[float]]) -> None: ...
def takes_awaitable(awaitable: Awaitable[float]) -> None: ...


async def several() -> None:
    assert_type(await asyncio.gather(fetch("a"), bare(1)), tuple[bytes, float])
    assert_type(await asyncio.wait_for(fetch("a"), 1), bytes)
    assert_type(await asyncio.wrap_future(bare(1)), float)


takes_function(bare)
takes_function(sender.send_number)
takes_offloaded(bare)
takes_awaitable(bare(1))
done, waiting = wait([bare(1), bare(2)])
for each in as_completed([bare(1)]):
    assert_type(each.result(), float)


# --- partials, callable objects, other people's functions, an Offloaded again


class Doubler:
    def __call__(self, number: int) -> int:
        return 2 * number


class AsyncDoubler:
    async def __call__(self, number: int) -> int:
        return 2 * number


def halve(x: int, digits: int) -> float:
    return round(x / 2, digits)


assert_type(offload(Doubler())(1), Task[int])
assert_type(offload(Doubler()).call(1), int)
assert_type(offload(AsyncDoubler())(1), Task[int])
assert_type(offload(queue="plots")(halve)(1, 2), Task[float])
assert_type(offload(halve, queue="plots", coalesce=True)(1, digits=2), Task[float])
assert_type(offload(partial(halve, 1))(2), Task[float])
assert_type(offload(partial(halve, digits=1))(2).result(), float)
assert_type(offload(print)("a", "b", sep=""), Task[None])
assert_type(offload([1].append)(2), Task[None])
assert_type(offload(json.dumps, queue="files")({"a": 1}, indent=2), Task[str])
assert_type(offload(bare, queue="other")(1), Task[float])
assert_type(offload(queue="other")(bare).call(1), float)


# --- as annotations


def run(send: Offloaded[[int], float, float], anything: Offloaded[..., Any, Any]) -> None:
    assert_type(send(1), Task[float])
    anything(1, 2)
    anything.queue.flush()


@offload
def plain(x: int) -> float:
    return x


run(plain, bare)  # pyrefly: ignore[bad-argument-type]  # it takes the parameters of a generic class for invariant
waits_for: Callable[[int], Future[float]] = plain


@offload
def loads(text: str) -> Any:
    return text


@offload(queue="plots")
def stop(code: int) -> Never:
    raise SystemExit(code)


assert_type(loads("a"), Task[Any])
loads.call("a")["any"]
stop(1).result()
offloader = offload(queue="plots")
assert_type(offloader(halve)(1, 2), Task[float])


# --- queues, registries, the module's functions

plots = configure("plots", workers=2, maxsize=None, on_full="drop_oldest", idle_timeout=5, executor=ThreadPoolExecutor)
assert_type(plots, Queue)
assert_type(plots.submit(halve, 1, digits=2), Task[float])
assert_type(plots.submit(fetch.call, "a"), Task[bytes])
assert_type(queue("plots").stats(), QueueStats)
assert_type(queue().stats().waiting, int)
assert_type(queues()["plots"], Queue)
assert_type(registry.queue("plots").submit(partial(halve, 1, 2)), Task[float])
assert_type(stats()["plots"], QueueStats)
configure_from({"queues": {"plots": {"workers": 2}}, "exit": {"timeout": 30}})
registry.configure("plots", on_error=lambda task, error: print(task.name, error))
flush("plots", "mail", timeout=1, raise_errors=True)
for square in plots.map(halve, [1, 2], [1, 2]):
    assert_type(square, float)
with plots as entered:
    entered.flush(timeout=1)
