"""What crosses the border of a process: a call on its way there, and its outcome on the way back.

- A function goes by its name, undecorated: see `_reference`.
- Arguments and results are pickled here, not by the executor, wherever its way to pickle is known. An object that
  can't be pickled or unpickled is then a failure of its own task; in the hands of a process pool some of them break the
  whole pool, and all tasks in it.
- The same holds for exceptions: one that does not survive the journey is told in words.
"""

import functools
import io
import os
import pickle
import traceback
from collections.abc import Callable
from types import CoroutineType
from typing import Any

import wrapt

from offload import _exit
from offload._errors import OffloadError
from offload._reference import import_script, target_of

PLAIN, CLOUD, NATIVE = "plain", "cloud", "native"
"""Who pickles: the standard library's pickle; cloudpickle, which takes lambdas and all of ``__main__``; the executor itself."""


class RemoteTraceback(Exception):
    """The cause of an exception that came from another process: its traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


# -- the way there ----------------------------------------------------------------------------------------------------


class Parcel:
    """A call on its way. Called on the other side, it makes the call and returns the Outcome; it raises nothing."""

    def __init__(self, name: str, way: str, body: Any, script: str | None = None) -> None:
        self.name = name
        self.way = way
        self.body = body
        self.script = script
        self.__name__ = name.rpartition(".")[2]  # what Dask's dashboard shows

    def __repr__(self) -> str:
        return f"<call of {self.name}>"

    def __dask_tokenize__(self) -> str:
        """Unlike any other's: Dask runs calls that look the same only once."""
        return os.urandom(16).hex()

    def __call__(self) -> "Outcome":
        pid = os.getpid()
        outcome, error = self._carry_out()
        if os.getpid() != pid:  # the task has forked, and this is its child
            _exit.end_forked_task(error)
        return outcome

    def _carry_out(self) -> "tuple[Outcome, BaseException | None]":
        try:
            fn, args, kwargs = self._unpack()
            result = fn(*args, **kwargs)
            if type(result) is CoroutineType:
                import asyncio  # its import costs more than offload's; who has coroutines has paid for it

                result = asyncio.run(result)
            return Outcome.of(self.name, self.way, result), None
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the task's
            return Outcome.of_failure(self.name, error), error

    def _unpack(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        body, self.body = self.body, None
        if self.way == NATIVE:
            return body  # type: ignore[no-any-return]
        try:
            import_script(self.script)
            return pickle.loads(body)  # type: ignore[no-any-return]
        except BaseException as error:
            error.add_note(f"{self.name}: its function or arguments could not be unpickled in the other process")
            raise


def pack(name: str, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], way: str, script: str | None = None) -> Parcel:
    """Make a call ready to travel. Raises PicklingError in words, naming the function or the argument that can't."""
    target = target_of(fn, has_script=way == PLAIN)
    if way == NATIVE:
        return Parcel(name, way, (target, args, kwargs))
    try:
        return Parcel(name, way, _dumps((target, args, kwargs), way), script if way == PLAIN else None)
    except Exception as error:
        raise pickle.PicklingError(_why(name, target, args, kwargs, way, error)) from error


def _dumps(value: Any, way: str) -> bytes:
    if way == CLOUD:
        buffer = io.BytesIO()
        _cloud_pickler()(buffer).dump(value)
        return buffer.getvalue()
    from multiprocessing.reduction import ForkingPickler  # pickle, with sockets and connections; its import is not cheap

    return bytes(ForkingPickler.dumps(value))


@functools.cache
def _cloud_pickler() -> Any:
    import cloudpickle  # comes with loky and with Dask

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            """What the script has decorated can't go by reference, to processes that need not have the script: it goes undecorated."""
            if isinstance(obj, wrapt.FunctionWrapper) and hasattr(obj, "_self_route") and obj.__module__ in ("__main__", "__mp_main__"):
                return _same, (obj.__wrapped__,)
            return super().reducer_override(obj)

    return Pickler


def _same(value: Any) -> Any:
    return value


def _why(name: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], way: str, error: Exception) -> str:
    instance = getattr(target, "instance", getattr(target, "__self__", None))
    if instance is not None and not _travels(instance, way):
        return f"{name} can't go to another process: the object ({_type(instance)}) whose method it is can't be pickled: {error}"
    if not _travels(target, way):
        return cannot_travel(name, error)
    for place, value in (*enumerate(args, 1), *kwargs.items()):
        if not _travels(value, way):
            return f"{name} can't go to another process: its argument {place} ({_type(value)}) can't be pickled: {error}"
    return f"{name} can't go to another process: {error}"


def cannot_travel(name: str, error: BaseException) -> str:
    """The words for a function that pickle does not take."""
    return (
        f"{name} can't go to another process, which finds a function by its name: {error}. Define it at the top of a module (a "
        "lambda or a function inside a function has no name to be found by), or run the queue on loky or Dask, which "
        "send the function itself"
    )


def _travels(value: Any, way: str) -> bool:
    try:
        _dumps(value, way)
    except Exception:  # noqa: BLE001  # whatever a __reduce__ raises
        return False
    return True


def _type(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


# -- the way back -----------------------------------------------------------------------------------------------------


class Outcome:
    """What became of a call: a result, pickled or as it is, or an exception, pickled and in words."""

    def __init__(self, way: str, body: Any, error: bytes | None, text: str) -> None:
        self.way = way
        self.body = body
        self.error = error
        self.text = text

    @classmethod
    def of(cls, name: str, way: str, result: Any) -> "Outcome":
        """The outcome of a call that returned. Raises PicklingError in words."""
        if way == NATIVE:
            return cls(way, result, None, "")
        try:
            return cls(way, _dumps(result, way), None, "")
        except Exception as error:
            raise pickle.PicklingError(
                f"{name} has run, but its result ({_type(result)}) can't come back from the other process: {error}; return "
                "something that can be pickled, or None"
            ) from error

    @classmethod
    def of_failure(cls, name: str, error: BaseException) -> "Outcome":
        """The outcome of a call that raised."""
        own = error.__traceback__
        error.__traceback__ = own.tb_next if own is not None else None  # without offload's own frame
        text = "".join(traceback.format_exception(error))
        try:
            body = pickle.dumps(error)
            pickle.loads(body)  # many an exception can be pickled and not be made again
        except Exception as why:  # noqa: BLE001
            body = pickle.dumps(OffloadError(f"{name} raised {_words(error)}; the exception itself can't be pickled ({_words(why)})"))
        return cls(PLAIN, None, body, text)

    def open(self, name: str) -> tuple[Any, BaseException | None]:
        """The result, and the exception in its place if there is one. Raises nothing."""
        if self.error is None:
            return self._result(name)
        try:
            error = pickle.loads(self.error)
        except Exception as why:  # noqa: BLE001
            error = OffloadError(f"{name} raised an exception that can't be unpickled here ({_words(why)})")
        error.__cause__ = RemoteTraceback(self.text)
        return None, error

    def _result(self, name: str) -> tuple[Any, BaseException | None]:
        if self.way == NATIVE:
            return self.body, None
        try:
            return pickle.loads(self.body), None
        except Exception as why:  # noqa: BLE001
            error = pickle.UnpicklingError(f"{name} has run, but its result can't be unpickled here: {_words(why)}")
            error.__cause__ = why
            return None, error


def _words(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()
