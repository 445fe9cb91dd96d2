"""Signals that leave the program the ordinary way, so that it drains. Only if asked for."""

import signal
import threading
from types import FrameType
from typing import NoReturn

from offload._errors import ConfigurationError


def drain_on_signal(*signals: int) -> None:
    """Make these signals (default: SIGTERM) leave the program through ``SystemExit(128 + n)``, so that its exit handlers run and its queues drain.

    Returns None, does not block. Raises RuntimeError off the main thread, where Python handles no signals, and ConfigurationError for a signal that
    can't be handled or that has a handler already: raise SystemExit from that one instead, or, if a server has set it, flush where that server shuts
    down. Nothing is changed if one of them is refused.
    """
    chosen = signals or (signal.SIGTERM,)
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("drain_on_signal: call it on the main thread; Python sets and runs signal handlers there alone")
    checked = [_check(number) for number in chosen]
    for number in checked:
        signal.signal(number, _leave)


def _check(number: int) -> signal.Signals:
    try:
        known = signal.Signals(number)
        handler = signal.getsignal(known)
    except (ValueError, TypeError):
        raise ConfigurationError(f"drain_on_signal: {number!r} is no signal of this platform; give signal.SIGTERM or the like") from None
    if known in _UNCATCHABLE:
        raise ConfigurationError(f"drain_on_signal: no program can handle {known.name}; it loses what waits in memory")
    if handler not in (signal.SIG_DFL, signal.default_int_handler, _leave):
        raise ConfigurationError(
            f"drain_on_signal: {known.name} has a handler already ({handler!r}). If it is yours, raise SystemExit({128 + known}) from it, and "
            "offload drains; if a server has set it, leave drain_on_signal away, and let the server's shutdown hook await aflush() or call flush()"
        )
    return known


_UNCATCHABLE = {number for name in ("SIGKILL", "SIGSTOP") if (number := getattr(signal, name, None)) is not None}


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise SystemExit(128 + number)
