"""`python -m offload check`: what it prints, in which order settings win, and its exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import offload
from offload.__main__ import main


def check(tmp_path: Path, text: str, *options: str, name: str = "pyproject.toml") -> int:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return main(["check", name, *options])


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_settings_and_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__PLOTS__MAXSIZE", "none")
    monkeypatch.setenv("OFFLOAD_EXIT__TIMEOUT", "7.5")
    monkeypatch.setenv("OFFLOAD_QUEUES__MAILS__WORKERS", "3")
    monkeypatch.setenv("OFFLOAD_INLINE", "1")
    text = """
        [tool.offload.queues.plots]
        workers = 2
        maxsize = 50
        [tool.offload.exit]
        timeout = 30
        progress = false
    """
    assert check(tmp_path, text) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert [line.split(None, 2) for line in said.out.splitlines()] == [
        ["queue", "'plots'"],
        ["workers", "2", "pyproject.toml"],
        ["maxsize", "None", "environment variable OFFLOAD_QUEUES__PLOTS__MAXSIZE"],
        ["on_full", "'block'", "default"],
        ["on_error", "None", "default"],
        ["idle_timeout", "60.0", "default"],
        ["context", "True", "default"],
        ["executor", "None", "default"],
        ["store", "None", "default"],
        [],
        ["exit"],
        ["timeout", "7.5", "environment variable OFFLOAD_EXIT__TIMEOUT"],
        ["progress", "False", "pyproject.toml"],
        [],
        ["note:", "environment", "variable OFFLOAD_INLINE='1' is set"],
        ["note:", "environment", "variable OFFLOAD_QUEUES__MAILS__WORKERS is for a queue that this file does not name"],
        ["pyproject.toml:", "1", "queue, all right"],
    ]


def test_it_says_what_configure_from_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__A_B__WORKERS", "4")
    text = "[queues.a-b]\nmaxsize = 9\non_full = 'raise'\n[queues.c]\nidle_timeout = 'none'\n"
    assert check(tmp_path, text, name="own.toml") == 0
    said = capsys.readouterr().out.split("queue ")[1:]
    registry = offload.Registry()
    registry.configure_from("own.toml")
    for (name, queue), block in zip(registry.queues().items(), said, strict=True):
        lines = [line.split(None, 2) for line in block.splitlines()[1:9]]
        assert block.startswith(repr(name))
        assert {setting: value for setting, value, _ in lines} == {setting: repr(getattr(queue.settings, setting)) for setting, _, _ in lines}


def test_a_registry_has_variables_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__EVENTS__WORKERS", "2")
    monkeypatch.setenv("OFFLOAD_ACME__QUEUES__EVENTS__WORKERS", "3")
    assert check(tmp_path, "[queues.events]\n", "--registry", "acme", name="acme.toml") == 0
    said = capsys.readouterr().out
    assert "environment variable OFFLOAD_ACME__QUEUES__EVENTS__WORKERS" in said
    assert "progress" not in said
    assert check(tmp_path, "[exit]\nprogress = true\n", "--registry", "acme", name="acme.toml") == 1
    assert "a registry of its own sets its exit timeout alone" in capsys.readouterr().err


def test_every_error_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__MAILS__WORKERS", "many")
    monkeypatch.setenv("OFFLOAD_EXIT__TIMEOUT", "soon")
    text = """
        [tool.offload.queues.plots]
        workers = 0
        on_ful = "raise"
        [tool.offload.queues.mails]
        on_full = "drop_odlest"
        [tool.offload.exit]
        progres = true
    """
    assert check(tmp_path, text) == 1
    said = capsys.readouterr()
    assert said.out == ""
    *errors, total = said.err.splitlines()
    for words in (
        ("queues.plots", "workers=0", "1 or more"),
        ("queues.plots", "'on_ful'", "did you mean 'on_full'?"),
        ("environment variable OFFLOAD_QUEUES__MAILS__WORKERS", "'many'", "1 or more"),
        ("queues.mails", "'drop_odlest'", "did you mean 'drop_oldest'?"),
        ("environment variable OFFLOAD_EXIT__TIMEOUT", "'soon'"),
        ("exit", "progres", "did you mean 'progress'?"),
    ):
        assert any(all(word in error for word in words) for error in errors), words
    assert len(errors) == 6
    assert all(error.startswith("error: ") for error in errors)
    assert total == "pyproject.toml: 6 errors"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "can't read 'pyproject.toml'"),
        ("[tool.offload", "is no valid TOML"),
        ("[tool.other]", "there is no [tool.offload] table"),
        ("[tool.offload]\nqueue = 1", "unknown section 'queue' (value 1); did you mean 'queues'?"),
        ("[tool.offload.queues]\nplots = 2", "queues.plots=2 is not a table"),
        ('[tool.offload.queues.""]', "is a string that is not empty"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, words: str) -> None:
    assert (main(["check"]) if text is None else check(tmp_path, text)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.endswith("pyproject.toml: 1 error\n")


def test_a_misspelt_variable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OFFLOAD_QUEUES__PLOTS__WORKRES", "2")
    assert check(tmp_path, "[tool.offload.queues.plots]\n") == 1
    assert "did you mean 'workers'?" in capsys.readouterr().err


def test_a_switch_that_makes_no_sense_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OFFLOAD_INLINE", "maybe")
    assert check(tmp_path, "[tool.offload.queues.plots]\n") == 1
    assert "environment variable OFFLOAD_INLINE='maybe': allowed: 1, true," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variable", "note"),
    [
        ("OFFLOAD_QUEUE__PLOTS__WORKERS", "is read by nobody: unknown part 'QUEUE'; did you mean 'queues'?"),
        ("OFFLOAD_WORKERS", "is read by nobody: unknown part 'WORKERS'; allowed: exit, inline, queues, trace"),
        ("OFFLOAD_EXITS__TIMEOUT", "is read by nobody: unknown part 'EXITS'; did you mean 'exit'?"),
        ("OFFLOAD_ACME__QUEUES__EVENTS__WORKERS", None),  # another registry's
        ("OFFLOAD_ACME__EXIT__TIMEOUT", None),
        ("OFFLOAD_TRACE_PID", None),
    ],
)
def test_a_variable_that_nobody_reads_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, note: str | None
) -> None:
    monkeypatch.setenv(variable, "3")
    assert check(tmp_path, "[tool.offload.queues.plots]\n") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == ([f"note: environment variable {variable} {note}"] if note else [])


def test_checking_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from offload import _exit

    before = _exit.settings(), dict(offload.queues())
    assert check(tmp_path, "[tool.offload.queues.checked]\nworkers=2\n[tool.offload.exit]\ntimeout=1\n") == 0
    assert (_exit.settings(), dict(offload.queues())) == before


@pytest.mark.parametrize(("workers", "status"), [(2, 0), (0, 1)])
def test_as_a_command(tmp_path: Path, workers: int, status: int) -> None:
    (tmp_path / "pyproject.toml").write_text(f"[tool.offload.queues.plots]\nworkers = {workers}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-m", "offload", "check", "pyproject.toml"],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    assert (done.stderr == "") is (status == 0)
    assert "plots" in done.stdout + done.stderr


def test_a_wrong_command_line_is_argparses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert "command" in capsys.readouterr().err
