"""``python -m offload check pyproject.toml``: whether a configuration is right, what each queue ends up with, and where each setting comes from."""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from offload import _environ, _exit
from offload._errors import ConfigurationError
from offload._settings import NAMES, Settings, check, near

DEFAULT = "default"
SWITCHES = ("OFFLOAD_INLINE", "OFFLOAD_TRACE")
_READ = re.compile(r"OFFLOAD_(INLINE|TRACE|TRACE_PID|(\w+?__)?(QUEUES__\w+?__\w+|EXIT__\w+))")
"""The variables that the default registry reads, or one that this check knows nothing of."""


class Setting(NamedTuple):
    """One line of the answer."""

    name: str
    value: Any
    source: str


class Checked:
    """A configuration, looked at as `configure_from` does, without a queue being made. All that is wrong with it is in `errors`."""

    def __init__(self, path: str, registry: str) -> None:
        self.errors: list[str] = []
        self.queues: dict[str, list[Setting]] = {}
        self.leaving: list[Setting] = []
        self._path = path
        self._registry = registry
        self._check_switches()
        try:
            table, where = _environ.load(path)
            queues, leaving = _environ.sections(table, where)
        except ConfigurationError as error:
            self.errors.append(str(error).removeprefix("configure_from: "))
            return
        for name, given in queues.items():
            if name:
                self.queues[name] = list(self._settings(name, given))
            else:
                self.errors.append(f"{path}: a queue's name is a string that is not empty")
        self.leaving = list(self._exit_settings(leaving))

    def _check_switches(self) -> None:
        try:
            _environ.inline()
        except ConfigurationError as error:
            self.errors.append(str(error))

    def _settings(self, queue: str, given: Mapping[str, Any]) -> Iterator[Setting]:
        merged = self._merged(given, f"{self._path}: queues.{queue}", NAMES, lambda: _environ.for_queue(self._registry, queue))
        defaults = Settings()
        for name in NAMES:
            value, source = merged.pop(name, (getattr(defaults, name), DEFAULT))
            yield from self._checked(name, value, source, f"{self._path}: queues.{queue}", check)
        for name, (value, _) in merged.items():
            list(self._checked(name, value, "", f"{self._path}: queues.{queue}", check))

    def _exit_settings(self, given: Mapping[str, Any]) -> Iterator[Setting]:
        known = ("timeout",) if self._registry else _environ.EXIT_NAMES
        where = f"{self._path}: exit"
        merged = self._merged(given, where, known, lambda: _environ.for_exit(self._registry))
        for name in known:
            value, source = merged.pop(name, (None, DEFAULT))
            yield from self._checked(name, value, source, where, _exit._check)
        for name, (value, _) in merged.items():
            if name in _environ.EXIT_NAMES:
                self.errors.append(f"{where}: {name}={value!r}: a registry of its own sets its exit timeout alone; the rest is the application's")
            else:
                list(self._checked(name, value, "", where, _exit._check))

    def _merged(self, given: Mapping[str, Any], where: str, known: tuple[str, ...], environment: Any) -> dict[str, tuple[Any, str]]:
        """The settings of the file, overridden by the environment; each with its source."""
        merged = {name: (value, self._path) for name, value in given.items()}
        try:
            overrides = environment()
        except ConfigurationError as error:
            self.errors.append(str(error))
            return merged
        return merged | {name: (value, f"environment variable {variable}") for name, (variable, value) in overrides.items()}

    def _checked(self, name: str, value: Any, source: str, where: str, checker: Any) -> Iterator[Setting]:
        try:
            yield Setting(name, checker(name, value, source if source.startswith("environment") else where), source)
        except ConfigurationError as error:
            self.errors.append(str(error))


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns its exit status: 0, or 1 if anything is wrong; argparse leaves with 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="python -m offload", description="Tools for programs that use offload.")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser(
        "check",
        help="check a configuration and print each queue's settings",
        description="Check a configuration, as configure_from reads it and the environment overrides it, and print each queue's settings and where "
        "each comes from. The exit status is 0 if all is right, 1 if not.",
    )
    command.add_argument("file", nargs="?", default="pyproject.toml", help="a TOML file (pyproject.toml)")
    command.add_argument("--registry", default="", metavar="NAME", help="check it for Registry(NAME), which has variables of its own")
    given = parser.parse_args(arguments)
    return check_file(given.file, given.registry)


def check_file(path: str, registry: str) -> int:
    """Check one file, and print what it comes to. Returns the exit status."""
    checked = Checked(path, registry)
    for error in checked.errors:
        print(f"error: {error}", file=sys.stderr)
    if checked.errors:
        print(f"{path}: {len(checked.errors)} error{'s'[: len(checked.errors) > 1]}", file=sys.stderr)
        return 1
    for name, settings in checked.queues.items():
        _print(f"queue {name!r}", settings)
    _print("exit", checked.leaving)
    for note in _notes(checked, registry):
        print(f"note: {note}")
    print(f"{path}: {len(checked.queues)} queue{'s'[: len(checked.queues) != 1]}, all right")
    return 0


def _print(title: str, settings: list[Setting]) -> None:
    print(title)
    wide = max(len(repr(setting.value)) for setting in settings)
    for name, value, source in settings:
        print(f"  {name:<{max(map(len, NAMES))}}  {value!r:<{wide}}  {source}")
    print()


def _notes(checked: Checked, registry: str) -> Iterator[str]:
    """What else the environment says."""
    for switch in SWITCHES:
        if os.environ.get(switch):
            yield f"environment variable {switch}={os.environ[switch]!r} is set"
    start = f"{_environ.prefix(registry)}QUEUES__"
    known = tuple(f"{start}{_environ._upper(name)}__" for name in checked.queues)
    for variable in sorted(os.environ):
        name = variable.upper()
        if name.startswith(start):
            if not name.startswith(known):
                yield f"environment variable {variable} is for a queue that this file does not name"
        elif name.startswith("OFFLOAD_") and not _READ.fullmatch(name):
            part = name.removeprefix("OFFLOAD_").partition("__")[0]
            yield f"environment variable {variable} is read by nobody: unknown part {part!r}{near(part, ('queues', 'exit', 'inline', 'trace'))}"


if __name__ == "__main__":
    sys.exit(main())
