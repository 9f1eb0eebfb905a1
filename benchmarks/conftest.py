"""Interleaved timing on top of pytest-benchmark, and what is known about the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorly
import torch

import tsm_fast


class Contender(NamedTuple):
    """Something to time; `run` handles `items` items in a call. A slow one is timed in the first `rounds` rounds."""

    name: str
    run: Callable[[], object]
    items: int
    rounds: int = 1000


class Target(NamedTuple):
    """A ratio that has to be reached: peer time over ours."""

    peer: str
    ratio: float
    stretch: float | None = None


PAUSE = 0.1  # seconds; worker threads of one contender (OpenBLAS) spin that long, on cores that the next one needs
SECONDS = 8.0  # of timing per comparison
ROUNDS = (7, 60)
START = pytest.StashKey[tuple[float, float]]()  # when the run began, and what other processes had used by then


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="two rounds of everything, and no minute-long peers")


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def compare(benchmark: Any, quick: bool) -> Callable[..., dict]:
    """Times ours and the peers in turn, round by round, so that drift of the machine hits all of them.

    Every turn begins with a pause and a call that is not timed. Stores milliseconds per item (20 %, 50 % and 80 %
    quantiles) of everyone, and the quantiles of the ratios peer / ours taken round by round.
    """

    def run(
        step: str,
        shape: str,
        ours: Contender,
        peers: Sequence[Contender] = (),
        targets: Sequence[Target] = (),
        **extra: Any,
    ) -> dict:
        first = {c.name: _seconds(c) for c in (ours, *peers)}
        once = sum(2 * first[c.name] + PAUSE for c in (ours, *peers) if c.rounds > 1)
        rounds = 2 if quick else int(min(max(SECONDS / once, ROUNDS[0]), ROUNDS[1]))
        times: dict[str, list[float]] = {c.name: [first[c.name]] if c.rounds == 1 else [] for c in peers}

        def peers_first() -> None:
            for peer in peers:
                if len(times[peer.name]) < min(peer.rounds, rounds):
                    times[peer.name].append(_seconds(peer, warm=True))
            _rest_and_warm_up(ours)

        benchmark.pedantic(ours.run, setup=peers_first, rounds=rounds, iterations=1, warmup_rounds=0)
        own = np.array(benchmark.stats.stats.data)
        record = {
            "step": step,
            "shape": shape,
            "items": ours.items,
            "rounds": rounds,
            "ms": {ours.name: _quantiles(own / ours.items * 1e3)},
            "ratio": {},
            "targets": [t._asdict() for t in targets],
            **extra,
        }
        for peer in peers:
            each = np.array(times[peer.name]) / peer.items
            record["ms"][peer.name] = _quantiles(each * 1e3)
            record["ratio"][peer.name] = _quantiles(each / (own[: len(each)] / ours.items))
        benchmark.extra_info.update(record)
        return benchmark.extra_info

    return run


def _rest_and_warm_up(contender: Contender) -> None:
    time.sleep(PAUSE)
    contender.run()


def _seconds(contender: Contender, warm: bool = False) -> float:
    if warm:
        _rest_and_warm_up(contender)
    start = time.perf_counter()
    contender.run()
    return time.perf_counter() - start


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return dict(zip(("p20", "p50", "p80"), np.quantile(values, (0.2, 0.5, 0.8)).tolist(), strict=True))


def _others() -> float:
    """Seconds that the CPUs have worked for other processes, or were taken away by a hypervisor (Linux), so far."""
    line = Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line[1:9])
    own = os.times()
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - own.user - own.system - own.children_user - own.children_system


def pytest_configure(config: pytest.Config) -> None:
    config.stash[START] = time.monotonic(), _others()


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    cpu = machine_info.get("cpu", {})
    start, others = config.stash[START]
    spent = (time.monotonic() - start) * (os.cpu_count() or 1)
    kept = {
        "cpu": cpu.get("brand_raw"),
        "cores": cpu.get("count"),
        "system": machine_info.get("system"),
        "python": machine_info.get("python_version"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "tensorly": tensorly.__version__,
        "tsm_fast": tsm_fast.__version__,
        "backend": tsm_fast.backends()["cpu"].reason,
        "threads": torch.get_num_threads(),
        "others": round((_others() - others) / spent, 4),
        "quick": config.getoption("--quick"),
    }
    machine_info.clear()
    machine_info.update(kept)
