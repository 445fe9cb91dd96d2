"""The server of the plotting service: fits come in over HTTP, a picture goes out for each.

`PlotService` in plot_service.py starts it in a process of its own, gives it the data to draw as JSON on
standard input, and reads its port from its standard output. It leaves when that input ends: when its owner
closes it or is gone.
"""

import io
import json
import math
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

BLUE, RED = "#4878a8", "#d1495b"


class Picture:
    """The one figure, drawn anew for each fit: the data with the curve so far, and the loss up to here.

    Axes, labels and data stay the same from step to step: they are kept as a background; the rest is drawn.
    """

    def __init__(self, points: list[tuple[float, float]]) -> None:
        figure = Figure(figsize=(9, 4), dpi=100)
        self._canvas = FigureCanvasAgg(figure)
        self._limits: tuple[int, int] | None = None  # of the axes of the background
        data, self._loss = figure.subplots(1, 2, width_ratios=(3, 2))
        figure.subplots_adjust(left=0.07, right=0.98, bottom=0.13, top=0.88, wspace=0.2)

        dots = {"color": BLUE, "alpha": 0.45, "markersize": 5, "markeredgewidth": 0}
        data.plot(*zip(*points, strict=True), "o", label=f"{len(points)} eruptions", **dots)
        (self._fit,) = data.plot([], [], color=RED, linewidth=2.5, label="fitted curve")
        data.set(xlabel="length of the eruption (minutes)", xlim=(1.4, 5.3), xticks=range(2, 6))
        data.set(ylabel="waiting time to the next one (minutes)", ylim=(40, 100), yticks=range(40, 101, 20))
        data.legend(loc="upper left", frameon=False)

        (self._losses,) = self._loss.plot([], [], color=RED, linewidth=2)
        (self._now,) = self._loss.plot([], [], "o", color=RED)
        self._label = self._loss.annotate("", (0, 0), (0, 8), textcoords="offset points", ha="right")
        self._loss.set(xlabel="step", ylabel="mean squared error (minutes²)")
        for axes in (data, self._loss):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
        self._loss.locator_params(nbins=4)
        self._title = figure.suptitle("", x=0.07, ha="left", weight="bold")

        self._changing = (self._fit, self._losses, self._now, self._label, self._title)
        for artist in self._changing:
            artist.set_animated(True)  # keeps it out of the background

    def draw(self, fit: dict[str, Any]) -> bytes:
        """The PNG of one step."""
        losses = fit["losses"]
        last = (len(losses), losses[-1])
        self._make_background(50 * math.ceil(len(losses) / 50), 25 * math.ceil(max(losses) / 25))
        self._title.set_text(f"Old Faithful: how long until the next eruption?  Step {fit['step']}")
        self._fit.set_data(*zip(*fit["fit"], strict=True))
        self._losses.set_data(range(1, len(losses) + 1), losses)
        self._now.set_data([last[0]], [last[1]])
        self._label.xy = last
        self._label.set_text(f"{last[1]:.1f}")
        self._canvas.restore_region(self._background)
        for artist in self._changing:
            artist.draw(self._canvas.get_renderer())
        png = io.BytesIO()
        imsave(png, self._canvas.buffer_rgba(), format="png", pil_kwargs={"compress_level": 1})
        return png.getvalue()

    def _make_background(self, steps: int, loss: int) -> None:
        """Draw all that stays, unless it has been drawn for this many steps and this loss."""
        if self._limits != (steps, loss):
            self._limits = (steps, loss)
            self._loss.set(xlim=(0, 1.02 * steps), ylim=(0, loss))
            self._canvas.draw()
            self._background = self._canvas.copy_from_bbox(self._canvas.figure.bbox)


class Gallery:
    """What the service has drawn since it was last asked for it."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._lock = threading.Lock()  # guards all that is here; one request draws at a time
        self._received: list[tuple[int, list[float]]] = []
        self._newest = b""

    def draw(self, fit: dict[str, Any]) -> None:
        with self._lock:
            png = self._picture.draw(fit)
            if not self._received or fit["step"] > max(self._received)[0]:
                self._newest = png
            self._received.append((fit["step"], fit["weights"]))

    def newest(self) -> bytes:
        with self._lock:
            return self._newest

    def take_received(self) -> bytes:
        with self._lock:
            received, self._received = self._received, []
        return json.dumps(received).encode()


class Handler(BaseHTTPRequestHandler):
    """The HTTP side of the gallery."""

    gallery: Gallery
    seconds: float  # how long a picture takes, at least

    def do_POST(self) -> None:
        ready = time.monotonic() + self.seconds
        self.gallery.draw(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        time.sleep(max(0.0, ready - time.monotonic()))  # what the way over a network would add
        self._answer(b"drawn")

    def do_GET(self) -> None:
        match self.path:
            case "/received":
                self._answer(self.gallery.take_received())
            case "/newest.png":
                self._answer(self.gallery.newest())
            case _:
                self.send_error(404)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: a line for each request would bury what the example prints."""


def main(seconds: float) -> None:
    """Serve until standard input ends. A picture takes `seconds` at least."""
    if hasattr(os, "nice"):
        os.nice(10)  # a service elsewhere would not take the processor from the loop that is measured against it
    Handler.gallery = Gallery(Picture(json.loads(sys.stdin.readline())))
    Handler.seconds = seconds
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        print(server.server_port, flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main(float(sys.argv[1]))
