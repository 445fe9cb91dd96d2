"""Settings: given in code, in a mapping, in a file or by the environment; checked where they are given."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import WAIT, Gate

import offload
from offload import ConfigurationError, OffloadError, Queue, Registry

DEFAULTS = {
    "workers": 1,
    "maxsize": 10_000,
    "on_full": "block",
    "idle_timeout": 60.0,
    "context": True,
    "executor": None,
    "store": None,
}
POLICIES = ["block", "raise", "drop_newest", "drop_oldest", "caller_runs"]


def test_defaults(registry: Registry) -> None:
    settings = registry.queue("plots").settings
    assert {name: getattr(settings, name) for name in DEFAULTS} == DEFAULTS


# --- configure


@pytest.mark.parametrize("used_before", [True, False])
def test_configure_before_or_after_first_use(registry: Registry, used_before: bool) -> None:
    if used_before:
        registry.queue("plots").submit(int).result(WAIT)
    queue = registry.configure("plots", workers=4, maxsize=7)
    assert isinstance(queue, Queue)
    assert registry.queue("plots") is queue
    assert (queue.settings.workers, queue.settings.maxsize) == (4, 7)
    assert queue.submit(int, 3).result(WAIT) == 3


def test_configure_sets_what_is_given_and_leaves_the_rest(registry: Registry) -> None:
    queue = registry.configure("plots", workers=4, idle_timeout=None)
    assert registry.configure("plots", maxsize=None) is queue
    assert registry.configure("plots") is queue
    settings = queue.settings
    assert (settings.workers, settings.idle_timeout, settings.maxsize) == (4, None, None)
    assert settings.on_full == "block"


def test_configure_changes_no_other_queue(registry: Registry) -> None:
    registry.configure("plots", workers=4)
    assert registry.queue("mail").settings.workers == 1
    assert registry.queue().settings.workers == 1


def test_settings_of_a_queue_are_read_only(registry: Registry) -> None:
    with pytest.raises(AttributeError):
        registry.queue("plots").settings.workers = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", POLICIES)
def test_every_policy_is_accepted(registry: Registry, value: str) -> None:
    assert registry.configure("plots", on_full=value).settings.on_full == value


@pytest.mark.parametrize(
    ("name", "value"),
    [("idle_timeout", 0), ("idle_timeout", 0.5), ("idle_timeout", None), ("maxsize", 1), ("workers", 64)],
)
def test_values_at_the_edge_are_accepted(registry: Registry, name: str, value: Any) -> None:
    queue = registry.configure("plots", **{name: value})
    assert getattr(queue.settings, name) == value
    assert queue.submit(int, 3).result(WAIT) == 3


BAD: list[tuple[str, Any, str]] = [
    *(("workers", value, r"\b1\b") for value in (0, -1, 1.5, "two", "2", None, [2], float("nan"))),
    *(("maxsize", value, "None") for value in (0, -5, 2.5, "many", [2], float("inf"))),
    *(("on_full", value, ".*".join(POLICIES)) for value in ("explode", None, 3, True, ["block"])),
    *(("on_error", value, "callable") for value in (3, "log", [print])),
    *(("idle_timeout", value, "None") for value in (-1, -0.5, "soon", float("nan"), [1])),
    *(("context", value, "True") for value in ("maybe", None, 2)),
    *(("executor", value, "processes") for value in ("threads", 3, [])),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_a_value_without_sense_is_refused(registry: Registry, name: str, value: Any, allowed: str) -> None:
    queue = registry.configure("plots", workers=3)
    before = queue.settings
    with pytest.raises(ConfigurationError) as raised:
        registry.configure("plots", **{name: value})
    message = str(raised.value)
    assert name in message
    assert repr(value) in message
    assert re.search(allowed, message.replace(repr(value), "", 1)), "the message says what is allowed"
    assert queue.settings == before
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, OffloadError)


@pytest.mark.parametrize("store", [3, "tasks.db"])
def test_the_reserved_store_says_so(registry: Registry, store: Any) -> None:
    with pytest.raises(ConfigurationError, match="store"):
        registry.configure("plots", store=store)


NEAR = {
    "wrokers": "workers",
    "worker": "workers",
    "max_size": "maxsize",
    "onfull": "on_full",
    "on_errors": "on_error",
    "idletimeout": "idle_timeout",
    "contexts": "context",
    "executer": "executor",
    "Workers": "workers",
}


@pytest.mark.parametrize(("misspelt", "near"), NEAR.items())
def test_a_misspelt_setting_suggests_the_near_one(registry: Registry, misspelt: str, near: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        registry.configure("plots", **{misspelt: 3})
    assert misspelt in str(raised.value)
    assert re.search(rf"\b{near}\b", str(raised.value).replace(misspelt, "", 1))


def test_an_unknown_setting_like_no_other_lists_what_there_is(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="flavour") as raised:
        registry.configure("plots", flavour="mint")
    assert all(name in str(raised.value) for name in DEFAULTS)


def test_a_misspelt_policy_suggests_the_near_one(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean 'drop_oldest'|'drop_oldest'\?"):
        registry.configure("plots", on_full="drop_olddest")


def test_the_message_names_the_queue(registry: Registry) -> None:
    with pytest.raises(ConfigurationError, match="plots"):
        registry.configure("plots", workers=0)


def test_configure_is_all_or_nothing(registry: Registry) -> None:
    queue = registry.configure("plots", workers=2)
    for bad in ({"workers": 4, "maxsize": 0}, {"maxsize": 0, "workers": 4}, {"workers": 4, "flavour": 1}):
        with pytest.raises(ConfigurationError):
            registry.configure("plots", **bad)
        assert queue.settings.workers == 2


def test_a_setting_that_can_not_change_while_tasks_wait_says_so(registry: Registry, gate: Callable[[str], Gate]) -> None:
    with ThreadPoolExecutor(1) as pool:
        with gate("plots"):
            waiting = registry.queue("plots").submit(int, 3)
            with pytest.raises(ConfigurationError, match="executor"):
                registry.configure("plots", executor=pool)
            assert registry.queue("plots").settings.executor is None
        assert waiting.result(WAIT) == 3
        registry.flush(timeout=WAIT)
        registry.configure("plots", executor=pool)
        assert registry.queue("plots").submit(int, 4).result(WAIT) == 4
        registry.flush(timeout=WAIT)
        registry.configure("plots", executor=None)


# --- the environment


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("WORKERS", "8", "workers", 8),
        ("MAXSIZE", "5", "maxsize", 5),
        ("MAXSIZE", "none", "maxsize", None),
        ("ON_FULL", "drop_oldest", "on_full", "drop_oldest"),
        ("IDLE_TIMEOUT", "0.5", "idle_timeout", 0.5),
        ("IDLE_TIMEOUT", "3", "idle_timeout", 3.0),
        ("CONTEXT", "false", "context", False),
        ("CONTEXT", "true", "context", True),
        ("EXECUTOR", "processes", "executor", "processes"),
    ],
)
def test_variables_override_code(registry: Registry, monkeypatch: pytest.MonkeyPatch, variable: str, text: str, name: str, value: Any) -> None:
    monkeypatch.setenv(f"OFFLOAD_QUEUES__PLOTS__{variable}", text)
    assert getattr(registry.queue("plots").settings, name) == value
    code = {
        "workers": 2,
        "maxsize": 3,
        "on_full": "raise",
        "idle_timeout": 9,
        "context": True,
        "executor": None,
    }
    assert getattr(registry.configure("plots", **{name: code[name]}).settings, name) == value
    assert getattr(registry.queue("mail").settings, name) == DEFAULTS[name], "of that queue alone"


def test_variables_are_read_when_a_queue_is_made_or_configured(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = registry.queue("plots")
    monkeypatch.setenv("OFFLOAD_QUEUES__PLOTS__WORKERS", "8")
    assert queue.settings.workers == 1
    registry.configure("plots")
    assert queue.settings.workers == 8


@pytest.mark.parametrize("name", ["plots", "Plots", "PLOTS"])
def test_variables_name_the_queue_in_capitals(registry: Registry, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__PLOTS__WORKERS", "8")
    assert registry.queue(name).settings.workers == 8


@pytest.mark.parametrize(
    ("variable", "text", "fragments"),
    [
        ("WORKERS", "many", ["workers", "many", "1"]),
        ("WORKERS", "0", ["workers", "0", "1"]),
        ("WORKERS", "", ["workers"]),
        ("WORKERS", "1.5", ["workers", "1.5"]),
        ("MAXSIZE", "lots", ["maxsize", "lots"]),
        ("ON_FULL", "explode", ["on_full", "explode", *POLICIES]),
        ("CONTEXT", "maybe", ["context", "maybe"]),
        ("WROKERS", "8", ["WROKERS", "workers"]),
        ("FLAVOUR", "mint", ["FLAVOUR"]),
    ],
)
@pytest.mark.parametrize("method", ["queue", "configure"])
def test_a_bad_variable_is_refused(
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    variable: str,
    text: str,
    fragments: list[str],
) -> None:
    monkeypatch.setenv(f"OFFLOAD_QUEUES__PLOTS__{variable}", text)
    with pytest.raises(ConfigurationError) as raised:
        getattr(registry, method)("plots")
    for fragment in fragments:
        assert fragment.lower() in str(raised.value).lower()
    assert "OFFLOAD_QUEUES__PLOTS__" in str(raised.value), "an operator looks for the variable"


def test_a_bad_variable_spoils_a_call_only_where_its_queue_is_made(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    f = registry.offload(queue="plots")(abs)
    monkeypatch.setenv("OFFLOAD_QUEUES__PLOTS__WORKERS", "many")
    with pytest.raises(ConfigurationError, match="many"):
        f()
    monkeypatch.delenv("OFFLOAD_QUEUES__PLOTS__WORKERS")
    assert f(-7).result(WAIT) == 7


# --- configure_from

SHAPE: dict[str, Any] = {"queues": {"plots": {"workers": 2, "on_full": "raise"}, "mail": {"maxsize": 5}}}
TOML = """
[queues.plots]
workers = 2
on_full = "raise"

[queues.mail]
maxsize = 5
"""
PYPROJECT = """
[project]
name = "somebody"

[tool.other]
queues = 3

[tool.offload.queues.plots]
workers = 2
on_full = "raise"

[tool.offload.queues]
mail.maxsize = 5
"""


def check_configured(registry: Registry) -> None:
    plots, mail = registry.queue("plots").settings, registry.queue("mail").settings
    assert (plots.workers, plots.on_full, mail.maxsize) == (2, "raise", 5)


def test_configure_from_a_mapping(registry: Registry) -> None:
    registry.queue("plots").submit(int).result(WAIT)
    registry.configure_from(SHAPE)
    check_configured(registry)
    registry.configure_from({"queues": {"plots": {"maxsize": 9}}})
    check_configured(registry)
    assert registry.queue("plots").settings.maxsize == 9
    registry.configure_from({})
    registry.configure_from({"queues": {}})


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize(("name", "text"), [("pyproject.toml", PYPROJECT), ("offload.toml", TOML)])
def test_configure_from_a_file(registry: Registry, tmp_path: Path, kind: Callable[[Path], Any], name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    registry.configure_from(kind(path))
    check_configured(registry)


def test_variables_override_configure_from(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__PLOTS__WORKERS", "8")
    registry.configure_from(SHAPE)
    assert registry.queue("plots").settings.workers == 8


@pytest.mark.parametrize(
    ("source", "fragments"),
    [
        ({"queues": {"plots": {"workers": 0}}}, ["plots", "workers", "0"]),
        ({"queues": {"plots": {"wrokers": 2}}}, ["plots", "wrokers", "workers"]),
        ({"queues": {"plots": 3}}, ["plots", "3"]),
        ({"queues": ["plots"]}, ["queues"]),
        ({"queue": {"plots": {"workers": 2}}}, ["queue", "queues"]),
        ({"flavour": "mint"}, ["flavour", "queues", "exit"]),
    ],
)
def test_configure_from_refuses_what_makes_no_sense(registry: Registry, source: dict[str, Any], fragments: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        registry.configure_from(source)
    for fragment in fragments:
        assert fragment in str(raised.value)


def test_a_bad_file_is_named(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "offload.toml"
    path.write_text("[queues.plots]\nworkers = 0\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="workers") as raised:
        registry.configure_from(path)
    assert "offload.toml" in str(raised.value)


def test_a_file_that_is_no_toml_or_not_there(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "offload.toml"
    with pytest.raises((OSError, ConfigurationError), match=re.escape("offload.toml")):
        registry.configure_from(path)
    path.write_text("queues = = 3", encoding="utf-8")
    with pytest.raises(ValueError):
        registry.configure_from(path)


@pytest.mark.parametrize("source", [3, None, ["queues"]])
def test_configure_from_takes_a_mapping_or_a_path(registry: Registry, source: Any) -> None:
    with pytest.raises((TypeError, ConfigurationError)):
        registry.configure_from(source)


# --- the exit's two settings


@pytest.fixture
def exit_settings(default_registry: ModuleType) -> Any:
    yield offload.configure_exit
    offload.configure_exit(timeout=None, progress=None)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"timeout": 30},
        {"timeout": 0.5},
        {"timeout": None},
        {"progress": True},
        {"timeout": 1, "progress": False},
    ],
)
def test_configure_exit_takes(exit_settings: Callable[..., None], values: dict[str, Any]) -> None:
    exit_settings(**values)
    offload.configure_from({"exit": {name: value for name, value in values.items() if value is not None}})


@pytest.mark.parametrize(
    ("values", "fragments"),
    [
        ({"timeout": "soon"}, ["timeout", "soon"]),
        ({"timeout": -1}, ["timeout", "-1"]),
        ({"timeout": float("nan")}, ["timeout", "nan"]),
        ({"progress": "loud"}, ["progress", "loud"]),
        ({"tiemout": 3}, ["tiemout", "timeout"]),
        ({"flavour": 3}, ["flavour", "timeout", "progress"]),
    ],
)
def test_configure_exit_refuses(exit_settings: Callable[..., None], values: dict[str, Any], fragments: list[str]) -> None:
    for call in (lambda: exit_settings(**values), lambda: offload.configure_from({"exit": values})):
        with pytest.raises(ConfigurationError) as raised:
            call()
        for fragment in fragments:
            assert fragment in str(raised.value)


def test_a_bad_exit_variable_is_refused(exit_settings: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFLOAD_EXIT__TIMEOUT", "soon")
    with pytest.raises(ConfigurationError, match="soon"):
        exit_settings(progress=None)
    monkeypatch.delenv("OFFLOAD_EXIT__TIMEOUT")
