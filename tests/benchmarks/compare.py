"""offload against its peers, all in one process and one run, interleaved round by round.

    pip install 'offload[bench]'
    python tests/benchmarks/compare.py --json result.json --chart chart.svg

Prints medians with their quartiles and, for each goal, whether it is met; a ratio is taken within each
round, so that a machine that is slow for a while is slow for both sides. A peer that is not installed is left
out.
"""

from __future__ import annotations

import argparse
import contextvars
import dataclasses
import sys
from pathlib import Path

import measures
import report


def size_from(arguments: argparse.Namespace) -> measures.Size:
    size = measures.QUICK if arguments.quick else measures.Size()
    if arguments.calls is not None:
        share = arguments.calls / size.calls
        size = dataclasses.replace(
            size,
            calls=arguments.calls,
            latencies=max(2, int(size.latencies * share)),
            depths=tuple(dict.fromkeys(max(10, int(depth * share)) for depth in size.depths)),
            queues=tuple(dict.fromkeys(max(1, int(count * share)) for count in size.queues)),
            steps=max(2, int(size.steps * share)),
        )
    if arguments.rounds is not None:
        rounds = arguments.rounds
        size = dataclasses.replace(
            size,
            rounds=rounds,
            growth_rounds=min(rounds, size.growth_rounds),
            training_rounds=min(rounds, size.training_rounds),
        )
    return size


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and calls: half a minute, wider spread")
    parser.add_argument("--rounds", type=positive, help="rounds over all peers")
    parser.add_argument("--calls", type=positive, help="calls in a sample (at most 10,000: the default bound)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples here")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw a chart here (.svg or .png; needs matplotlib)")
    arguments = parser.parse_args()
    size = size_from(arguments)
    # In a fresh context, as a plain script has: importing some of the peers leaves their variables behind.
    context = contextvars.Context()
    results = context.run(measures.everything, size, lambda line: print(line, file=sys.stderr))
    about = report.about_run(rounds=size.rounds, calls=size.calls)
    print(report.text(results, about))
    if arguments.json is not None:
        report.write_json(arguments.json, results, about)
    if arguments.chart is not None:
        report.draw_chart(arguments.chart, results, about)


if __name__ == "__main__":
    main()
