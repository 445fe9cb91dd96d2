"""Watching every call of this process: for the pytest plugin, the timeline and the like. While anybody watches, no call takes the fast path."""

from typing import Any

from offload import _monitor
from offload._monitor import Monitor, section


class Observer:
    """Who is told of each call, on the thread concerned. What it overrides must be quick and must not raise."""

    def called(self, task: Any) -> None:
        """A call comes in: its Task still has the function and the arguments, and is not accepted yet."""

    def accepted(self, task: Any) -> None:
        """Its caller goes on, perhaps after waiting for room: it waits, runs, has run in place, or was dropped."""

    def refused(self, task: Any) -> None:
        """It was not accepted: its caller gets QueueFull, QueueClosed or ConfigurationError."""

    def looked_at(self, task: Any) -> None:
        """Somebody has asked for its outcome, and gets it."""


def add(observer: Observer) -> None:
    """Tell an observer of every call from now on."""
    _add(_Whole(_monitor.current), observer)


def remove(observer: Observer) -> None:
    """Tell it no more."""
    _remove(_Whole(_monitor.current), observer)


def count_inline(change: int) -> None:
    """Open one context more, or less, in which all calls run in place."""
    _count_inline(_Whole(_monitor.current), change)


class _Whole:
    """The monitor as something that sections guard."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def refresh(self) -> None:
        """Let every queue see what has become special. Inside a section; a queue that is not live looks when it comes to life."""
        for core in self.monitor.live:
            core.refresh()


@section
def _add(whole: _Whole, observer: Observer) -> None:
    whole.monitor.observers += (observer,)
    whole.refresh()


@section
def _remove(whole: _Whole, observer: Observer) -> None:
    whole.monitor.observers = tuple(each for each in whole.monitor.observers if each is not observer)
    whole.refresh()


@section
def _count_inline(whole: _Whole, change: int) -> None:
    whole.monitor.inline += change
    whole.refresh()
