"""User code that type checkers refuse, in each line marked as such and in no other. Never run: see test_typing.py."""

from typing import Any, Generic, TypeVar

import offload as offload_package
from offload import Offloaded, Queue, QueueStats, Registry, Task, configure, configure_exit, flush, offload, queue

T = TypeVar("T")
offload_package.flsh()  # error: a misspelt name
registry = Registry("acme")
Registry("acme", worker=2)  # error: a misspelt setting
Registry(name="acme")  # error: positional only


@offload
def bare(x: int, y: str = "") -> float:
    return x / 2


@registry.offload(queue="plots")
def called(x: int, *, title: str = "") -> float:
    return x / 2


@offload
async def fetch(url: str) -> bytes:
    return url.encode()


# --- the function's own parameters

bare()  # error: x is missing
bare("a")  # error: not an int
bare(1, 2)  # error: not a str
bare(1, "a", 3)  # error: one too many
bare(1, z=2)  # error: no such parameter
called(1, "a")  # error: keyword only
called.call("a")  # error: not an int
called.using(queue="mail")("a")  # error: not an int
bare.__wrapped__()  # error: x is missing
fetch(1)  # error: not a str

# --- what comes back

number: float = bare(1)  # error: a Task, not the result
text: str = bare.call(1)  # error: a float
failed: Task[str] = bare(1)  # error: a Task[float]
content: bytes = fetch.call("a")  # error: the coroutine
stats: QueueStats = bare.queue  # error: a Queue
bare(1).reslt()  # error: no such method


async def waits() -> None:
    text: str = await bare(1)  # error: a float
    size: int = await fetch("a")  # error: bytes
    await flush("web")  # error: flush is no coroutine function
    print(text, size)


# --- methods


class Sender:
    @offload(queue="mail")
    def send(self, to: str, *, urgent: bool = False) -> int:
        return len(to)

    @offload
    @classmethod
    def class_inside(cls, to: str) -> int:
        return len(to)

    @classmethod
    @offload
    def class_outside(cls, to: str) -> int:
        return len(to)

    @offload
    @staticmethod
    def static_inside(to: str) -> int:
        return len(to)

    @staticmethod
    @offload
    def static_outside(to: str) -> int:
        return len(to)


sender = Sender()
sender.send(1)  # error: not a str
sender.send("a", True)  # error: keyword only
sender.send.call()  # error: to is missing
sender.send.using(queue="other")(sender, "a")  # error: bound already
Sender.send("a")  # error: self is missing
length: int = sender.send("a")  # error: a Task
sender.class_inside(1)  # error: not a str
Sender.class_inside()  # error: to is missing
Sender.class_outside(1)  # error: not a str
sender.static_inside("a", "b")  # error: one too many
Sender.static_inside(1)  # error: not a str
Sender.static_outside(1)  # error: not a str


class Box(Generic[T]):
    @offload
    def put(self, content: T) -> None:
        return None


def fill(box: Box[int]) -> None:
    box.put("a")  # error: not an int


class Plotter:
    def __call__(self, xs: list[float]) -> bytes:
        return b""


plot = offload(queue="plots")(Plotter())
plot("a")  # error: not a list
plot.call(3)  # error: not a list
plot([1.0]).upper()  # error: a Task
offload([1].append)("a")  # error: not an int

# --- options and settings

offload(queue=1)(bare)  # error: not a str
offload(que="plots")  # error: no such option
offload(bare, "plots")  # error: keyword only
offload(fn=bare)  # error: positional only
offload(snapshot=1)  # error: neither bool nor callable
offload(3)  # error: not callable
bare.using("mail")  # error: keyword only
bare.using(workers=2)  # error: no such option
configure("plots", wokers=2)  # error: a misspelt setting
configure("plots", workers="2")  # error: not an int
configure("plots", on_full="explode")  # error: no such policy
configure("plots", executor="threads")  # error: the one word is "processes"
configure_exit(timeout="soon")  # error: not a number
configure_exit(timeuot=1)  # error: a misspelt setting
flush(1)  # error: not a name
flush("plots", timeout="1")  # error: not a number
queue("plots").submit(bare.call, "a")  # error: not an int
result: str = queue("plots").submit(bare.call, 1).result()  # error: a float
queue("plots").workers  # error: no such attribute


def run(send: Offloaded[[int], str, str], place: Queue) -> Any:
    return send, place


run(fetch, queue())  # error: other parameters and result
run(called, called)  # error: not a Queue
