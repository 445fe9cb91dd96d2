"""A call in the hands of an executor that may run it here, on a thread of its own, or send it elsewhere."""

import functools
from concurrent.futures import Future
from contextvars import Context
from types import CoroutineType
from typing import Any

from offload import _exit
from offload._core import Core
from offload._ending import without_first_frame
from offload._payload import NATIVE, Parcel, pack
from offload._run import entered, left
from offload._task import Task


class Call:
    """A call in the hands of an executor. In this process it runs as it is; pickled, it becomes a Parcel.

    A ThreadPoolExecutor that can't start a thread raises from ``submit`` although it has the call, and a thread that it already had may run it. So
    whoever runs the call, or gives it up, has to `take` it first; and `ended` tells of its outcome where ``submit`` has returned no future.
    """

    def __init__(self, core: Core, task: Task[Any], fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Context | None) -> None:
        self.core = core
        self.task = task
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context = context
        self.ended: Future[LocalOutcome] = Future()
        self._token = [None]

    def take(self) -> bool:
        """Take the call: returns True once."""
        try:
            self._token.pop()
        except IndexError:
            return False
        return True

    def __call__(self) -> "LocalOutcome | None":
        """Run it, on a thread of the executor's. Returns None if it was taken from the executor."""
        if not self.take():
            return None
        core, task = self.core, self.task
        entered(core, task)
        try:
            outcome = self._run()
        finally:
            left(core, task)
        self.ended.set_result(outcome)
        return outcome

    def run_here(self) -> bool:
        """Run it on the worker thread. Raises what it raises."""
        result, error = self._run().open(self.task.name)
        if error is not None:
            raise error
        self.task._result = result
        return True

    def _run(self) -> "LocalOutcome":
        call = functools.partial(self.fn, *self.args, **self.kwargs)
        try:
            result = call() if self.context is None else self.context.run(call)
            if type(result) is CoroutineType:
                result = _to_end(result, self.context)
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the task's
            if not self.core.mark[0]:
                _exit.end_forked_task(error)
            return LocalOutcome(None, without_first_frame(error))
        if not self.core.mark[0]:
            _exit.end_forked_task(None)
        return LocalOutcome(result, None)

    def __reduce__(self) -> Any:
        parcel = pack(self.task.name, self.fn, self.args, self.kwargs, NATIVE)
        return Parcel, (parcel.name, parcel.way, parcel.body)


class LocalOutcome:
    """The outcome of a call that ran in this process."""

    __slots__ = ("error", "result")

    def __init__(self, result: Any, error: BaseException | None) -> None:
        self.result = result
        self.error = error

    def open(self, name: str) -> tuple[Any, BaseException | None]:
        """As `Outcome.open`."""
        del name
        return self.result, self.error


def _to_end(coroutine: Any, context: Context | None) -> Any:
    import asyncio  # its import costs more than offload's; who has coroutines has paid for it

    with asyncio.Runner() as runner:
        return runner.run(coroutine, context=context)
