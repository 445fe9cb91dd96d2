"""The registry that users make, and the default one whose methods are the module's functions."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from offload._decorator import Coalesce, decorate
from offload._registry import Names
from offload._snapshot import Snapshot

if TYPE_CHECKING:
    from offload._typing import Decorator


class Registry(Names):
    __doc__ = Names.__doc__

    if TYPE_CHECKING:

        @property
        def offload(self) -> Decorator:
            """Decorate a function: its calls go to a queue of this registry."""
            ...

    else:

        def offload(
            self, fn: Callable[..., Any] | None = None, /, *, queue: str = "default", snapshot: Snapshot = False, coalesce: Coalesce = False
        ) -> Any:
            """Decorate a function: a call of it returns a Task at once, and the work runs on the named queue, which is made when it is first used.

            Use it bare, ``@offload``, or with options, ``@offload(queue="plots")``. ``snapshot=True`` copies the arguments at the call (a callable is
            applied to each instead). ``coalesce=True`` keeps only the newest waiting call (a callable gets the arguments and returns the key: the
            newest for each). Returns an Offloaded. Raises TypeError for a class or a generator function, ConfigurationError for an option that makes
            no sense.
            """
            if fn is None:
                return partial(self.offload, queue=queue, snapshot=snapshot, coalesce=coalesce)
            return decorate(self, fn, queue, snapshot, coalesce)


default = Registry()
