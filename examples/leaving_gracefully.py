"""What a program sees when it leaves while work still waits.

    python examples/leaving_gracefully.py            # every upload is done; the exit status is 3
    python examples/leaving_gracefully.py --stuck    # one never ends: a WARNING at the deadline, and status 3 again

On a terminal a progress line counts down after a second. Ctrl-C then abandons what waits, a second one what runs.
"""

import argparse
import atexit
import logging
import sys
import threading
import time

from offload import configure, configure_exit, drain_on_signal, offload

logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
configure("uploads", workers=2)
configure_exit(timeout=5.0)  # seconds, for all queues together; the default is no deadline
done: list[int] = []


@offload(queue="uploads")
def upload(number: int) -> None:
    time.sleep(0.3)
    done.append(number)


@offload(queue="uploads")
def hang() -> None:
    threading.Event().wait()


@offload(queue="mails")
def send_report() -> None:
    print(f"report: {len(done)} uploads when it was sent", flush=True)


@atexit.register
def report_at_exit() -> None:
    """Comes after the first drain; what it offloads is drained as well."""
    send_report()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stuck", action="store_true", help="let one upload hang")
    if parser.parse_args().stuck:
        configure_exit(timeout=1.0)
        hang()
    drain_on_signal()  # SIGTERM drains too
    for number in range(10):
        upload(number)
    print(f"main is over, {10 - len(done)} uploads are not", flush=True)
    return 3  # and the status stays 3


if __name__ == "__main__":
    sys.exit(main())
