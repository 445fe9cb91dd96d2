"""The errors that offload raises: one class for each thing that a caller can do about it."""

__all__ = ["ConfigurationError", "FlushTimeout", "OffloadError", "QueueClosed", "QueueFull"]


class OffloadError(Exception):
    """The base of every error that offload raises of its own.

    Raised itself where nothing can be done but read: by ``result()`` in a forked child on a task of its parent, and inside
    ``flush(raise_errors=True)``'s group in the place of a failure that is no ``Exception`` (which is its ``__cause__``).
    """


class QueueFull(OffloadError):
    """Raised by a call on a full queue whose ``on_full`` is ``"raise"``. The call was not accepted and counts in ``rejected``."""


class QueueClosed(OffloadError, RuntimeError):
    """Raised by a call on a queue that was shut down, callers that wait for room included. The call was not accepted."""


class FlushTimeout(OffloadError, TimeoutError):
    """Raised by ``flush`` when its timeout passed before the queues were idle. Nothing is lost: the tasks go on."""


class ConfigurationError(OffloadError, ValueError):
    """Raised where a setting is given that makes no sense: it names the setting, the value and what is allowed."""
