"""The line that counts down while a program waits for its queues at exit. tqdm draws it where it is installed."""

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

PATIENCE = 1.0  # seconds before anything is shown
INTERVAL = 0.25  # seconds between two looks


class Progress:
    """Shows how many tasks are left. ``wanted`` None: on a terminal only."""

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = _is_terminal() if wanted is None else wanted and sys.stderr is not None
        self._bar: Any = None

    def tick(self, unfinished: Mapping[str, int], waited: float) -> float:
        """Show what is left, if it is time to. Returns the seconds until it wants to be called again."""
        if not self._wanted:
            return float("inf")
        if waited < PATIENCE:
            return PATIENCE - waited
        with contextlib.suppress(Exception):  # a broken terminal is no reason to lose tasks
            self._show(unfinished)
        return INTERVAL

    def close(self) -> None:
        """Leave the line as it is and end it."""
        if self._bar is not None:
            with contextlib.suppress(Exception):
                self._bar.close()
            self._bar = None

    def _show(self, unfinished: Mapping[str, int]) -> None:
        left = sum(unfinished.values())
        if self._bar is None:
            self._bar = _new_bar(left)
        queues = ", ".join(f"{name} {number}" for name, number in unfinished.items())
        self._bar.show(left, f"offload: waiting for {left} task{'' if left == 1 else 's'} ({queues}); Ctrl-C abandons what waits")


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it was closed
        return False


def _new_bar(total: int) -> "_TqdmBar | _PlainLine":
    try:
        from tqdm import tqdm
    except Exception:  # noqa: BLE001  # not installed, or not importable so late in the interpreter's life
        return _PlainLine()
    tqdm.monitor_interval = 0  # it would start a thread
    return _TqdmBar(tqdm(total=total, file=sys.stderr, leave=False, bar_format="{desc} {bar} {n_fmt}/{total_fmt}"))


class _TqdmBar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def show(self, left: int, text: str) -> None:
        self._bar.total = max(self._bar.total, left)
        self._bar.n = self._bar.total - left
        self._bar.set_description_str(text)

    def close(self) -> None:
        self._bar.close()


class _PlainLine:
    def __init__(self) -> None:
        self._width = 0

    def show(self, left: int, text: str) -> None:
        del left
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)

    def close(self) -> None:
        sys.stderr.write("\n")
        sys.stderr.flush()
