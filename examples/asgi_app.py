"""An ASGI application in uvicorn: requests that offload mails, one that awaits its task, and a SIGTERM while mails wait.

    pip install uvicorn
    python examples/asgi_app.py              # starts the server, asks it, stops it by SIGTERM, and counts
    uvicorn --app-dir examples asgi_app:app  # the server alone

uvicorn ends by the signal itself, so that Python runs no exit handlers: what waits is drained in the lifespan's shutdown.
Plain ASGI; with Starlette or FastAPI the `try` ... `finally` of `lifespan` stands in their lifespan function.
"""

import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from offload import aflush, configure, offload, stats

configure("mails", workers=2)


@offload(queue="mails")
def send_mail(to: str) -> None:
    time.sleep(0.05)  # stands for smtplib
    with open("sent.txt", "a", encoding="utf-8") as file:
        file.write(f"{to}\n")


@offload(queue="reports")
def count_words(text: str) -> int:
    time.sleep(0.05)  # too slow for the event loop
    return len(text.split())


@offload(queue="audit")
async def record(path: str) -> None:  # a coroutine: it runs on its queue's own event loop
    await asyncio.sleep(0.05)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    body = (await receive()).get("body", b"").decode()
    record(scope["path"])
    if scope["path"] == "/sign-up":
        send_mail(body)
        answer = "welcome"
    else:
        answer = f"{await count_words(body)} words"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": answer.encode()})


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    try:
        await receive()  # returns when the server stops
    finally:
        print(f"server: {stats()['mails'].waiting} mails wait", flush=True)
        await aflush(timeout=30)  # seconds; the event loop goes on meanwhile
        counts = stats()
        print(f"server: {counts['mails'].succeeded} mails sent, {counts['audit'].succeeded} requests recorded", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


def ask(port: int, path: str, body: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body.encode(), timeout=10) as answer:
        return answer.read().decode()


def main() -> None:
    with socket.socket() as listening, tempfile.TemporaryDirectory() as directory:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.set_inheritable(True)
        port = listening.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).resolve().parent), "asgi_app:app"]
        server = subprocess.Popen([*command, "--fd", str(listening.fileno()), "--log-level", "warning"], pass_fds=[listening.fileno()], cwd=directory)
        print(ask(port, "/words", "to be or not to be"))
        started = time.perf_counter()
        answers = [ask(port, "/sign-up", f"visitor-{number}@example.org") for number in range(40)]
        print(f"{len(answers)} visitors were told {answers[-1]!r} after {time.perf_counter() - started:.2f} s; their mails take 1 s")
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=30)
        sent = Path(directory, "sent.txt").read_text(encoding="utf-8").split()
        print(f"the server has ended (status {status}); {len(set(sent))} of {len(answers)} mails were sent, each once: {len(sent) == len(set(sent))}")


if __name__ == "__main__":
    main()
