"""Arguments as they are at the moment of the call, for loops that change them in place while the call still waits."""

import copy  # not when it is first needed: that may be in a __del__ at the end, when nothing can be imported
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

Snapshot: TypeAlias = bool | Callable[[Any], Any]


def freeze(
    how: Snapshot, name: str, fn: Callable[..., Any], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of the arguments; of `instance`, the method's own object, never, wherever among them it turns up.

    One memo serves them all, so what two arguments share their copies share too. Raises TypeError in the caller, naming the argument that can't be
    copied.
    """
    if callable(how):
        take = how
    else:
        memo: dict[int, Any] = {} if instance is None else {id(instance): instance}

        def take(value: Any) -> Any:
            return copy.deepcopy(value, memo)

    copied: list[Any] = []
    at: int | str = 0
    try:
        for at, value in enumerate(args):  # noqa: B007  # `at` tells below which one failed
            copied.append(take(value))
        copies: dict[str, Any] = {}
        for at, value in kwargs.items():
            copies[at] = take(value)
    except Exception as error:
        raise TypeError(
            f"snapshot of argument {_argument(fn, at)} of {name} failed: {type(error).__name__}: {error}; "
            "pass something that can be copied, or a callable as snapshot that copies only what has to be"
        ) from error
    return tuple(copied), copies


def _argument(fn: Callable[..., Any], at: int | str) -> str:
    if isinstance(at, str):
        return repr(at)
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return f"number {at + 1}"
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if at < len(positional):
        return repr(positional[at].name)
    rest = next((p for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    return f"number {at + 1} (*{rest.name})" if rest else f"number {at + 1}"
