"""An SDK that reports events in the background: its own Registry keeps it from the application's queues."""

import time

from offload import Registry, flush, offload, queues

# ---- the SDK: it drops rather than delays its host, and holds up its end for two seconds at most ----
registry = Registry("telemetry", maxsize=100, on_full="drop_oldest", exit_timeout=2.0)
delivered: list[str] = []


@registry.offload(queue="events")
def track(event: str) -> None:
    time.sleep(0.01)  # stands for a request to the SDK's server
    delivered.append(event)


# ---- an application that uses offload too ----
@offload(queue="reports")
def write_report(number: int) -> None:
    time.sleep(0.05)
    print(f"report {number} is written")


def main() -> None:
    for number in range(3):
        track(f"report {number} ordered")
        write_report(number)
    flush()  # the application's queues alone
    print(f"the application's queues: {', '.join(queues())}")
    registry.flush(timeout=10)
    print(f"the SDK's queues: {', '.join(registry.queues())}")
    print(f"delivered: {', '.join(delivered)}")


if __name__ == "__main__":
    main()
