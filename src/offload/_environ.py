"""Settings from outside the code: environment variables and TOML files, turned into the values that `configure` takes."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offload._errors import ConfigurationError
from offload._settings import NAMES, near

_NOTHING = frozenset(("none", "null"))
_TRUE, _FALSE = frozenset(("1", "true", "yes", "on")), frozenset(("0", "false", "no", "off"))
_IN_CODE_ONLY = frozenset(("on_error", "store"))
EXIT_NAMES = ("timeout", "progress")


def prefix(registry: str) -> str:
    """The start of a registry's variables: ``OFFLOAD_`` or ``OFFLOAD_<NAME>__``."""
    return f"OFFLOAD_{_upper(registry)}__" if registry else "OFFLOAD_"


def _upper(name: str) -> str:
    return re.sub(r"\W", "_", name).upper()


def for_queue(registry: str, queue: str) -> dict[str, tuple[str, Any]]:
    """A queue's settings in the environment: name to (variable, value). Raises ConfigurationError for an unknown setting."""
    start = f"{prefix(registry)}QUEUES__{_upper(queue)}__"
    return {name: (variable, value) for variable, name, value in _read(start, NAMES)}


def for_exit(registry: str) -> dict[str, tuple[str, Any]]:
    """The exit settings in the environment, likewise."""
    return {name: (variable, value) for variable, name, value in _read(f"{prefix(registry)}EXIT__", EXIT_NAMES)}


def inline() -> bool:
    """Whether ``OFFLOAD_INLINE`` asks for every call to run in place."""
    text = os.environ.get("OFFLOAD_INLINE", "")
    return bool(text) and _word("OFFLOAD_INLINE", "inline", text) is True


def _read(start: str, known: tuple[str, ...]) -> list[tuple[str, str, Any]]:
    found = []
    for variable, text in os.environ.items():
        if variable.upper().startswith(start):
            name = variable[len(start) :].lower()
            if "__" in name:  # of a queue whose name goes on here
                continue
            if name not in known:
                raise ConfigurationError(f"environment variable {variable}={text!r}: unknown setting {name!r}{near(name, known)}")
            if name in _IN_CODE_ONLY:
                raise ConfigurationError(f"environment variable {variable}={text!r}: {name} can't be set from the environment; set it in code")
            found.append((variable, name, _word(variable, name, text)))
    return found


def _word(variable: str, name: str, text: str) -> Any:
    word = text.strip().lower()
    if word in _NOTHING:
        return None
    if name in ("context", "progress", "inline"):
        if word in _TRUE | _FALSE:
            return word in _TRUE
        raise ConfigurationError(f"environment variable {variable}={text!r}: allowed: 1, true, yes, on, 0, false, no, off")
    if name in ("workers", "maxsize", "idle_timeout", "timeout"):
        return _number(text)
    return text.strip()


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # the check of the setting says what is wrong with it


def load(source: Mapping[str, Any] | str | os.PathLike[str]) -> tuple[Mapping[str, Any], str]:
    """The settings that a mapping or a TOML file holds, and what to call their place. Raises ConfigurationError."""
    if isinstance(source, Mapping):
        return source, "configure_from"
    if not isinstance(source, str | os.PathLike):
        raise ConfigurationError(f"configure_from: {source!r} is neither a mapping nor the path of a TOML file")
    import tomllib  # seldom used, and dear to import

    path = Path(source)
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"configure_from: can't read {str(path)!r}: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"configure_from: {str(path)!r} is no valid TOML: {error}") from error
    return _offload_table(document, path), str(path)


def _offload_table(document: dict[str, Any], path: Path) -> Mapping[str, Any]:
    tool = document.get("tool", {})
    if isinstance(tool, dict) and "offload" in tool:
        table = tool["offload"]
        if not isinstance(table, dict):
            raise ConfigurationError(f"{path}: [tool.offload] is {table!r}, not a table")
        return table
    if path.name == "pyproject.toml":
        raise ConfigurationError(f"{path}: there is no [tool.offload] table; write the settings as [tool.offload.queues.<name>]")
    return document


def sections(source: Mapping[str, Any], where: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The queues' settings and the exit's. Raises ConfigurationError for anything of another shape."""
    unknown = [key for key in source if key not in ("queues", "exit")]
    if unknown:
        raise ConfigurationError(f"{where}: unknown section {unknown[0]!r} (value {source[unknown[0]]!r}){near(str(unknown[0]), ('queues', 'exit'))}")
    queues = _table(source.get("queues", {}), f"{where}: queues")
    return {name: _table(values, f"{where}: queues.{name}") for name, values in queues.items()}, _table(source.get("exit", {}), f"{where}: exit")


def _table(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(f"{where}={value!r} is not a table of names and settings")
    return {key: None if isinstance(item, str) and item.lower() in _NOTHING else item for key, item in value.items()}
