"""A Queue where the ecosystem takes an executor: it keeps the promises of the standard library's, and works in other people's hands."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, CancelledError, as_completed, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from conftest import WAIT, Gate
from scenario import installed

from offload import Queue, QueueClosed, Registry


def needs(module: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not installed(module), reason=f"needs {package}: pip install {package}")


def here() -> str:
    return threading.current_thread().name


@pytest.fixture
def queue(registry: Registry) -> Queue:
    return registry.configure("work", workers=2)


# --- The promises of concurrent.futures


def test_map_waits_no_longer_than_its_timeout(queue: Queue) -> None:
    with Gate(queue), Gate(queue), pytest.raises(TimeoutError):
        next(queue.map(int, "12", timeout=0.01))


def test_map_takes_chunks_and_ends_with_the_shortest(queue: Queue) -> None:
    assert list(queue.map(pow, range(5), [2, 2, 2], chunksize=10)) == [0, 1, 4]


def test_closing_the_iterator_of_map_cancels_what_is_left(queue: Queue) -> None:
    hold, started = threading.Event(), threading.Semaphore(0)

    def slow(n: int) -> int:
        if n:
            started.release()
            assert hold.wait(WAIT)
        return n

    results = queue.map(slow, range(10))
    assert next(results) == 0
    assert started.acquire(timeout=WAIT)
    assert started.acquire(timeout=WAIT)
    results.close()  # type: ignore[attr-defined]
    hold.set()
    queue.flush(WAIT)
    stats = queue.stats()
    assert (stats.succeeded, stats.cancelled) == (3, 7)


def test_leaving_the_with_block_waits_and_shuts_down(registry: Registry) -> None:
    with registry.queue("work") as queue:
        tasks = [queue.submit(int, n) for n in range(5)]
    assert all(task.done() for task in tasks)
    with pytest.raises(RuntimeError, match="shut down"):
        queue.submit(int, 1)
    with pytest.raises(QueueClosed):
        queue.map(int, "1")
    queue.shutdown()  # twice is once


def test_shutdown_can_cancel_what_waits(queue: Queue) -> None:
    with Gate(queue) as first, Gate(queue):
        waiting = [queue.submit(int, n) for n in range(3)]
        queue.shutdown(wait=False, cancel_futures=True)
        assert all(task.cancelled() for task in waiting)
    assert first.task.result(WAIT) is None
    with pytest.raises(CancelledError):
        waiting[0].result(WAIT)


def test_wait_and_as_completed(queue: Queue) -> None:
    tasks = [queue.submit(int, word) for word in ("1", "2", "three", "4")]
    assert wait(tasks, WAIT, FIRST_EXCEPTION).done
    assert wait(tasks, WAIT, ALL_COMPLETED).not_done == set()
    assert set(as_completed(tasks, WAIT)) == set(tasks)


def test_nothing_of_a_task_is_kept(queue: Queue) -> None:
    class Big:
        def method(self) -> Big:
            return self

    big = Big()
    gone = threading.Event()
    weakref.finalize(big, gone.set)
    assert queue.submit(big.method).result(WAIT) is big
    queue.flush(WAIT)
    del big
    gc.collect()
    assert gone.wait(WAIT)


# --- In other hands


def test_asyncio_run_in_executor(queue: Queue) -> None:
    async def main() -> tuple[str, list[int]]:
        loop = asyncio.get_running_loop()
        names = await loop.run_in_executor(queue, here)
        many = await asyncio.gather(*(loop.run_in_executor(queue, int, n) for n in range(20)))
        return names, many

    name, many = asyncio.run(main())
    assert name.startswith("offload-work-")
    assert many == list(range(20))


def test_asyncio_run_in_executor_raises_what_the_call_raised(queue: Queue) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(queue, int, "word")

    with pytest.raises(ValueError, match="word"):
        asyncio.run(main())


class Greeter(BaseHTTPRequestHandler):
    """Answers every GET."""

    def do_GET(self) -> None:
        body = f"hello {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(thread_guard: None) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Greeter) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(WAIT)


@needs("requests_futures", "requests-futures")
def test_requests_futures(queue: Queue, site: str) -> None:
    from requests_futures.sessions import FuturesSession

    with FuturesSession(executor=queue) as session:
        responses = [session.get(f"{site}/{n}") for n in range(5)]
        assert [response.result(WAIT).text for response in responses] == [f"hello /{n}" for n in range(5)]
    assert queue.stats().succeeded == 5


@needs("dask", "dask")
def test_dask_computes_on_a_queue(queue: Queue) -> None:
    import dask

    parts = [dask.delayed(pow)(n, 2) for n in range(10)]
    names = [dask.delayed(here)() for _ in range(3)]
    total, *where = dask.compute(dask.delayed(sum)(parts), *names, scheduler=queue)
    assert total == 285
    assert all(name.startswith("offload-work-") for name in where)


@needs("tornado", "tornado")
def test_tornado_runs_methods_on_a_queue(queue: Queue) -> None:
    from tornado.concurrent import run_on_executor

    class Service:
        executor = queue

        @run_on_executor
        def name(self) -> str:
            return here()

    async def main() -> str:
        return await Service().name()  # type: ignore[no-any-return]

    assert asyncio.run(main()).startswith("offload-work-")


@needs("grpc", "grpcio")
def test_grpc_serves_from_a_queue(registry: Registry) -> None:
    import grpc

    def shout(request: bytes, context: Any) -> bytes:
        return request.upper() + here().encode()

    handlers = {"Shout": grpc.unary_unary_rpc_method_handler(shout)}
    queue = registry.configure("grpc", workers=2)
    server = grpc.server(queue)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/Test/Shout")
            assert call(b"hello ", timeout=WAIT).startswith(b"HELLO offload-grpc-")
    finally:
        assert server.stop(None).wait(WAIT)
    queue.flush(WAIT)
