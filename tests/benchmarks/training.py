"""A training loop that sends plots to a server; run as a program, it is the server, until stdin ends.

The server is a process of its own, on the loopback interface, and takes its time to answer as one does.
What is measured is what the uploads cost the loop, not what the server costs the machine.
"""

from __future__ import annotations

import http.client
import http.server
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ANSWER_AFTER = 0.02  # seconds: a server that is near, and busy
PLOT = random.Random(5).randbytes(60_000)  # about what a PNG of a plot weighs


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(ANSWER_AFTER)
        self.send_response(201)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


@contextmanager
def server() -> Iterator[int]:
    """Run the server as a process of its own and give its port."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield int(process.stdout.readline())
        process.stdin.close()


def upload(port: int, plot: bytes = PLOT) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/plots", body=plot)
    status = connection.getresponse().status
    connection.close()
    return status


def train(steps: int, plot: Callable[[], object] | None = None, every: int = 10) -> float:
    """Fit a line by gradient descent in plain Python, plotting now and then. Returns the loop's seconds."""
    points = [(x / 1000, 3 * x / 1000 + 1) for x in range(1000)]
    slope = intercept = 0.0
    start = time.perf_counter()
    for step in range(steps):
        for _ in range(20):
            slope_sum = intercept_sum = 0.0
            for x, y in points:
                error = slope * x + intercept - y
                slope_sum += error * x
                intercept_sum += error
            slope -= 0.5 * slope_sum / len(points)
            intercept -= 0.5 * intercept_sum / len(points)
        if plot is not None and step % every == 0:
            plot()
    return time.perf_counter() - start


def serve() -> None:
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    print(httpd.server_address[1], flush=True)
    sys.stdin.read()  # the end of the parent is the end of the server
    httpd.shutdown()
    httpd.server_close()


if __name__ == "__main__":
    serve()
