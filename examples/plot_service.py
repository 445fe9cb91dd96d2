"""The client of the plotting service: starts its server on loopback, sends it fits, asks what it was shown.

The service stands for one on another machine: it is a process of its own, and its answer takes as long as one
over a network would. Nothing in here knows offload: `gradient_descent.py` is the file to read.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SERVER = Path(__file__).with_name("plot_server.py")
PATIENCE = 60.0  # seconds after which a request that nobody answers is an error


class PlotService:
    """A server for as long as the `with` block lasts; any thread may use it."""

    def __init__(self, points: Sequence[tuple[float, float]], *, seconds: float) -> None:
        """`points` stand in every picture, and a picture takes `seconds` at least."""
        self._points = points
        self._command = [sys.executable, str(SERVER), str(seconds)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(self._points), file=self._process.stdin, flush=True)
        port = self._process.stdout.readline()
        if not port:
            self._process.communicate()
            raise RuntimeError("the plotting service did not start; its own words stand above")
        self._port = int(port)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate(timeout=PATIENCE)  # closes its standard input, and waits until it has left

    def plot(self, fit: dict[str, Any]) -> None:
        """Have one picture drawn. Blocks until the service has done it."""
        self._request("POST", "/plots", json.dumps(fit))

    def received(self) -> dict[int, list[float]]:
        """For each step that the service has drawn since it was last asked, the weights that it was shown."""
        return dict(json.loads(self._request("GET", "/received")))

    def newest_picture(self) -> bytes:
        """The PNG of the newest run's last step; a run begins with the first plot after `received`."""
        return self._request("GET", "/newest.png")

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"the plotting service answered {response.status} {response.reason}")
        return answer
