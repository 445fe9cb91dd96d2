"""Everything in the README runs as written.

Its ```python blocks run in order as one script, on the lines where the README has them: a traceback names
the README's own line. A block below the comment <!-- not run --> is left out. A ```toml block that sets
[tool.offload] is the pyproject.toml of the directory in which the script runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)[^\n]*$")
NOT_RUN = "<!-- not run -->"
TIMEOUT = 100  # seconds, used only to fail


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of a language that are to be run: first line's number (from 1) and code."""
    found = []
    lines = text.splitlines()
    above, start, opening = "", 0, None
    for number, row in enumerate(lines, 1):
        match = FENCE.match(row)
        if opening is None:
            if match:
                opening, start = match, number + 1
            elif row.strip():
                above = row.strip()
        elif match and match["fence"] == opening["fence"] and not match["language"]:
            if opening["language"] == language and above != NOT_RUN:
                found.append((start, textwrap.dedent("\n".join(lines[start - 1 : number - 1])) + "\n"))
            opening, above = None, ""
    assert opening is None, f"the block that starts at line {start} is never closed"
    return found


def script(text: str) -> str:
    """All the python blocks as one script, each on its own lines of the README."""
    lines = [""] * (text.count("\n") + 1)
    for start, code in blocks(text, "python"):
        for offset, row in enumerate(code.splitlines()):
            lines[start - 1 + offset] = row
    return "\n".join(lines) + "\n"


def run(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


EXAMPLE = """\
# Title
```python
first = 1
```
```console
$ python
```
<!-- not run -->

```python
never = 2
```

- an item

  ```python
  third = first + 2
  if third:
      print(third)
  ```
"""


def test_the_blocks_are_found_where_they_are() -> None:
    assert blocks(EXAMPLE, "python") == [
        (3, "first = 1\n"),
        (17, "third = first + 2\nif third:\n    print(third)\n"),
    ]
    assert script(EXAMPLE).splitlines()[16:19] == ["third = first + 2", "if third:", "    print(third)"]


def test_a_failing_block_is_told_by_the_readmes_line(tmp_path: Path) -> None:
    path = tmp_path / "readme.py"
    path.write_text(script(EXAMPLE.replace("first + 2", "missing")), encoding="utf-8")
    done = run(path)
    assert done.returncode == 1
    assert 'readme.py", line 17' in done.stderr


def test_the_readme_runs_as_written(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    assert blocks(text, "python"), "a README without a snippet"
    for _, toml in blocks(text, "toml"):
        if "[tool.offload" in toml:
            (tmp_path / "pyproject.toml").write_text(toml, encoding="utf-8")
    path = tmp_path / "readme.py"
    path.write_text(script(text), encoding="utf-8")
    done = run(path)
    assert done.returncode == 0, done.stdout + done.stderr
    for sign in ("Traceback", "Warning", "WARNING", "ERROR"):
        assert sign not in done.stderr, done.stderr


def test_every_block_names_its_language() -> None:
    """A python block without it would be passed over in silence."""
    inside = False
    for number, row in enumerate(README.read_text(encoding="utf-8").splitlines(), 1):
        if match := FENCE.match(row):
            assert inside or match["language"], f"README.md:{number}: a block without a language"
            inside = not inside
