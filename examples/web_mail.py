"""A web server that sends a mail for each sign-up without making its visitor wait for the mail server."""

import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.request import urlopen

from offload import offload


@offload(queue="mail")
def send_mail(to: str, subject: str) -> None:
    time.sleep(0.5)  # stands for smtplib, and a mail server that takes its time
    print(f"mail to {to}: {subject}")


class SignUp(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        name = self.rfile.read(int(self.headers["Content-Length"])).decode()
        send_mail(f"{name}@example.org", subject="Welcome!")
        self.send_response(202)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing for each request."""


def main() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SignUp) as server:
        Thread(target=server.serve_forever, args=(0.05,)).start()
        for name in ("ada", "grace", "barbara"):
            start = time.perf_counter()
            urlopen(f"http://127.0.0.1:{server.server_port}/", name.encode()).close()
            print(f"{name} was answered after {time.perf_counter() - start:.3f} s")
        server.shutdown()
    print("the server is closed; the mails that wait are sent before Python leaves")


if __name__ == "__main__":
    main()
