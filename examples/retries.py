"""Retries are composed, not built in: offload over a decorator that retries.

A queue's worker makes all the attempts of a call, one after the other, waits between them included. What
fails in the end is logged once, with its traceback and the place of the call. This takes tenacity; stamina
works just so.
"""

import itertools
import sys

from offload import flush, offload

try:
    from tenacity import retry, stop_after_attempt, wait_random_exponential
except ImportError:
    print("skipped: this example needs tenacity")
    sys.exit()

attempts = itertools.count(1)


@offload(queue="uploads")
@retry(stop=stop_after_attempt(4), wait=wait_random_exponential(multiplier=0.01, max=0.1), reraise=True)
def upload(name: str, refusals: int) -> str:
    """The service refuses the first calls, as a busy one does."""
    attempt = next(attempts)
    if attempt <= refusals:
        raise ConnectionError(f"the service is busy (attempt {attempt})")
    return f"{name} is there after {attempt} attempts"


task = upload("weights.npz", refusals=2)
print("the caller goes on at once")
print(task.result())

upload("plots.zip", refusals=99)  # this one gives up: the log tells its last error, once
flush("uploads")
