"""Fire-and-forget calls that are not forgotten: decorate a slow function, and its calls run on a named background queue.

    from offload import offload

    @offload(queue="plots")
    def write_plot(x, y, title=""): ...

    task = write_plot(xs, ys)    # returns a Task at once; most callers ignore it
    write_plot.call(xs, ys)      # runs here and now

Leaving the program waits for every call that was accepted; `flush` waits now. A failure is logged, and stands on the Task.
`configure` sets how many workers a queue has and what it does when it is full.
"""

import os
from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from offload._api import Registry, default
from offload._errors import ConfigurationError, FlushTimeout, OffloadError, QueueClosed, QueueFull
from offload._queue import Queue
from offload._registry import configure_exit
from offload._task import Task

if TYPE_CHECKING:
    from offload import testing
    from offload._signals import drain_on_signal
    from offload._stats import QueueStats
    from offload._trace import trace
    from offload._typing import Offloaded
else:
    from offload._decorator import Offloaded

__all__ = [
    "ConfigurationError",
    "FlushTimeout",
    "OffloadError",
    "Offloaded",
    "Queue",
    "QueueClosed",
    "QueueFull",
    "QueueStats",
    "Registry",
    "Task",
    "aflush",
    "configure",
    "configure_exit",
    "configure_from",
    "drain_on_signal",
    "flush",
    "offload",
    "queue",
    "queues",
    "shutdown",
    "stats",
    "testing",
    "trace",
]

_LATER = {"QueueStats": "_stats", "drain_on_signal": "_signals", "testing": "testing", "trace": "_trace"}
"""Names that few programs ask for, and the modules that they come from then: to import those at once would make half as much again of our import."""

offload = default.offload
configure = default.configure
configure_from = default.configure_from
queue = default.queue
queues = default.queues
flush = default.flush
aflush = default.aflush
stats = default.stats
shutdown = default.shutdown

for _public in (ConfigurationError, FlushTimeout, OffloadError, Offloaded, Queue, QueueClosed, QueueFull, Registry, Task):
    _public.__module__ = __name__  # tracebacks, help and pickles name what users import
del _public


if not TYPE_CHECKING:  # or checkers would take any name for one of ours

    def __getattr__(name: str) -> object:  # PEP 562
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = _import_module(f"{__name__}.{_LATER[name]}")
        value = globals()[name] = module if name == "testing" else getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if os.environ.get("OFFLOAD_TRACE"):
    from offload._trace import trace_program

    trace_program(os.environ["OFFLOAD_TRACE"])
    del trace_program
del TYPE_CHECKING, default, os
