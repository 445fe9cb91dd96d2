"""A recorded timeline, laid out in tracks, for viewers: in Chrome's trace event format, or as a page of HTML. Plain values; it knows no queue."""

import os
import re
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

Thread = tuple[int, str]
"""A thread's ident and name: idents are used again, and so are names."""

_DATA = b"/*DATA*/null"
_THREADS = "other threads"


class Call:
    """What became of one call, and when. Times are `time.monotonic`'s, in seconds."""

    __slots__ = ("called", "caller", "code", "ended", "label", "lasti", "name", "outcome", "queued", "returned", "runner", "started")

    def __init__(self, name: str, label: str, code: CodeType | None, lasti: int, caller: Thread, called: float) -> None:
        self.name = name
        self.label = label
        """Its queue's threads are called ``<label>-0``, ``<label>-1`` ..."""
        self.code = code
        self.lasti = lasti
        self.caller = caller
        self.called = called
        self.queued = called
        """When it was accepted: later than `called` if its caller had to wait for room."""
        self.returned: float | None = None
        """When its caller went on."""
        self.started: float | None = None
        self.ended: float | None = None
        self.runner: Thread | None = None
        """Where it ended: a worker's thread, or whatever stands for one."""
        self.outcome = "waiting"


# Not named tuples: to make those classes would take as long as all the rest of this module's import.


class Slice:
    """One bar of a track: of the call with this number the time that its caller spent (``"call"``), or that it ran (``"run"``)."""

    __slots__ = ("call", "end", "kind", "start")

    def __init__(self, start: float, end: float, call: int, kind: str) -> None:
        self.start = start
        self.end = end
        self.call = call
        self.kind = kind


class Track:
    """What one thread did. Of one that does several things at once, like an event loop: what one strand of it did."""

    __slots__ = ("name", "slices")

    def __init__(self, name: str, slices: list[Slice]) -> None:
        self.name = name
        self.slices = slices


class Group:
    """A queue and its threads; or, without waits, the threads of no queue. A wait is from when until when, and the number of the call."""

    __slots__ = ("name", "tracks", "waits")

    def __init__(self, name: str) -> None:
        self.name = name
        self.waits: list[tuple[float, float, int]] = []
        self.tracks: list[Track] = []


class Timeline:
    """All of it: its calls in order, their callers' places in the code, the groups, and how many earlier calls are left out."""

    __slots__ = ("begin", "calls", "end", "groups", "lost", "places", "title")

    def __init__(self, title: str, calls: list[Call], begin: float, end: float, lost: int, groups: list[Group]) -> None:
        self.title = title
        self.calls = calls
        self.begin = begin
        self.end = end
        self.lost = lost
        self.groups = groups
        self.places = _places(calls)


def lay_out(title: str, calls: list[Call], begin: float, end: float, lost: int) -> Timeline:
    """Sort the calls into groups and tracks. What has not ended lasts until `end`."""
    labels = {call.label for call in calls}
    groups: dict[str, Group] = {name: Group(name.removeprefix("offload-")) for name in (_THREADS, *sorted(labels))}
    threads: dict[Thread, list[Slice]] = {}
    for number, call in enumerate(calls):
        over = end if call.ended is None else call.ended
        returned = over if call.returned is None else call.returned
        threads.setdefault(call.caller, []).append(Slice(call.called, returned, number, "call"))
        if call.started is not None:
            threads.setdefault(call.runner or (0, f"{call.label} (running)"), []).append(Slice(call.started, over, number, "run"))
        if call.outcome != "refused":
            groups[call.label].waits.append((call.queued, over if call.started is None else call.started, number))
    for (_, name), slices in sorted(threads.items(), key=lambda item: _natural(item[0][1])):
        home, mingles = _home(name, labels)
        for strand, fitting in enumerate(_strands(slices, mingles=mingles)):
            groups[home].tracks.append(Track(f"{name} ({strand + 1})" if strand else name, fitting))
    return Timeline(title, calls, begin, end, lost, [group for group in groups.values() if group.tracks or group.waits])


def _home(thread: str, labels: set[str]) -> tuple[str, bool]:
    """The group of a thread, and whether it runs several tasks at once."""
    match = re.fullmatch(r"(.+?)(?:-(\d+|loop|results)| \((running)\))", thread)
    if match is None or match[1] not in labels:
        return _THREADS, False
    return match[1], not (match[2] or "").isdigit()


def _natural(name: str) -> list[Any]:
    return [part if number % 2 == 0 else int(part) for number, part in enumerate(re.split(r"(\d+)", name))]


def _strands(slices: list[Slice], *, mingles: bool) -> list[list[Slice]]:
    """As few tracks as will do if no two slices of one may overlap, unless one lies inside the other: there it is a call of the same thread."""
    strands: list[list[Slice]] = []
    open_: list[list[Slice]] = []  # of each strand what has not ended, the innermost last
    for each in sorted(slices, key=lambda each: (each.start, -each.end)):
        number = next((number for number, inside in enumerate(open_) if _fits(each, inside, mingles=mingles)), len(strands))
        if number == len(strands):
            strands.append([])
            open_.append([])
        strands[number].append(each)
        open_[number].append(each)
    return strands


def _fits(each: Slice, open_: list[Slice], *, mingles: bool) -> bool:
    while open_ and open_[-1].end <= each.start:
        open_.pop()
    return not open_ or (each.end <= open_[-1].end and not (mingles and each.kind == "run"))


def _places(calls: Iterable[Call]) -> list[str]:
    known: dict[tuple[int, int], str] = {}  # by the code's id: its hash is made of all of it, and the calls keep it alive
    found = []
    for call in calls:
        place = known.get((id(call.code), call.lasti))
        if place is None:
            place = known[id(call.code), call.lasti] = _place(call.code, call.lasti)
        found.append(place)
    return found


def _place(code: CodeType | None, lasti: int) -> str:
    if code is None:
        return "<unknown>"
    line = next((line for start, end, line in code.co_lines() if start <= lasti < end and line is not None), code.co_firstlineno)
    return f"{os.path.basename(code.co_filename)}:{line}"


# -- Chrome's trace event format --------------------------------------------------------------------------------------


def chrome(timeline: Timeline) -> bytes:
    """The timeline as JSON that ``ui.perfetto.dev`` and ``chrome://tracing`` open: a "process" for each queue, a "thread" for each track."""
    import json  # its import costs as much as offload's; who traces pays for it

    document = {
        "displayTimeUnit": "ms",
        "otherData": {"program": timeline.title, "calls": len(timeline.calls), "earlier calls left out": timeline.lost},
        "traceEvents": list(_events(timeline)),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _events(timeline: Timeline) -> Iterator[dict[str, Any]]:
    thread = 0
    for process, group in enumerate(timeline.groups, 1):
        name = f"queue {group.name}" if group.waits else f"{timeline.title}: {group.name}"
        yield {"ph": "M", "pid": process, "tid": 0, "name": "process_name", "args": {"name": name}}
        yield {"ph": "M", "pid": process, "tid": 0, "name": "process_sort_index", "args": {"sort_index": process}}
        yield from _wait_events(timeline, group, process)
        for track in group.tracks:
            thread += 1
            yield {"ph": "M", "pid": process, "tid": thread, "name": "thread_name", "args": {"name": track.name}}
            yield {"ph": "M", "pid": process, "tid": thread, "name": "thread_sort_index", "args": {"sort_index": thread}}
            for each in track.slices:
                yield from _slice_events(timeline, each, process, thread)


def _wait_events(timeline: Timeline, group: Group, process: int) -> Iterator[dict[str, Any]]:
    steps: list[tuple[float, int]] = []
    for start, end, number in group.waits:
        call = timeline.calls[number]
        common = {"cat": "wait", "id": number, "name": f"wait: {call.name}", "pid": process, "tid": 0}
        args = {"outcome": call.outcome, "caller": timeline.places[number]}
        yield {"ph": "b", "ts": _micros(timeline, start), **common, "args": args}
        yield {"ph": "e", "ts": _micros(timeline, end), **common}
        steps += (start, 1), (end, -1)
    waiting = 0
    for moment, step in sorted(steps):
        waiting += step
        yield {"ph": "C", "ts": _micros(timeline, moment), "pid": process, "name": "waiting", "args": {"tasks": max(waiting, 0)}}


def _slice_events(timeline: Timeline, each: Slice, process: int, thread: int) -> Iterator[dict[str, Any]]:
    call = timeline.calls[each.call]
    start, duration = _micros(timeline, each.start), round((each.end - each.start) * 1e6, 3)
    args: dict[str, Any] = {"queue": call.label.removeprefix("offload-"), "outcome": call.outcome, "caller": timeline.places[each.call]}
    if each.kind == "run":
        args["waited_ms"] = round((each.start - call.queued) * 1e3, 3)
    common = {"pid": process, "tid": thread, "cat": each.kind}
    yield {"ph": "X", "ts": start, "dur": duration, "name": call.name if each.kind == "run" else f"call {call.name}", **common, "args": args}
    if call.started is not None:  # an arrow from the call to its run
        arrow = {"ph": "s"} if each.kind == "call" else {"ph": "f", "bp": "e"}
        yield {**arrow, "ts": start, "id": each.call, "name": "offload", "pid": process, "tid": thread, "cat": "offload"}


def _micros(timeline: Timeline, moment: float) -> float:
    return round((moment - timeline.begin) * 1e6, 3)


# -- a page -----------------------------------------------------------------------------------------------------------


def page(timeline: Timeline) -> bytes:
    """The timeline as one HTML file that needs nothing else."""
    import json
    import pkgutil

    template = pkgutil.get_data(__package__, "_timeline.html") or b""
    names = {name: number for number, name in enumerate(dict.fromkeys(call.name for call in timeline.calls))}
    places = {place: number for number, place in enumerate(dict.fromkeys(timeline.places))}
    outcomes = {outcome: number for number, outcome in enumerate(dict.fromkeys(call.outcome for call in timeline.calls))}
    data = {
        "title": timeline.title,
        "length": _micros(timeline, timeline.end),
        "lost": timeline.lost,
        "names": list(names),
        "places": list(places),
        "outcomes": list(outcomes),
        "calls": [
            [names[call.name], places[place], outcomes[call.outcome], _micros(timeline, call.queued)]
            for call, place in zip(timeline.calls, timeline.places, strict=True)
        ],
        "groups": [
            {
                "name": group.name,
                "queue": bool(group.waits),
                "waits": [[_micros(timeline, start), _micros(timeline, end)] for start, end, _ in group.waits],
                "tracks": [
                    {
                        "name": track.name,
                        "slices": [
                            [_micros(timeline, each.start), _micros(timeline, each.end), each.call, int(each.kind == "run")] for each in track.slices
                        ],
                    }
                    for track in group.tracks
                ],
            }
            for group in timeline.groups
        ],
    }
    # No name of a function can end the script element that it stands in.
    return template.replace(_DATA, json.dumps(data, separators=(",", ":")).replace("<", "\\u003c").encode(), 1)
