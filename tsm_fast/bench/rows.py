"""A run of the benchmark: row after row, checked and timed, kept as it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from functools import partial
from importlib.util import find_spec
from math import prod
from time import perf_counter
from typing import Any, NamedTuple

import torch

from . import clock, found, limits, machine, memory, works
from .cases import Case, cost
from .works import Contender, Work

SCHEMA = 1
SECONDS = 2.0  # of timing a row
ROUNDS = (5, 60)
FEW_ROUNDS = 3  # of those that are not warmed up again in each
ITEMS = 0.15  # seconds that a turn of somebody who works item by item should last
SLOW = 0.3  # seconds of a call of a peer after which few items have to be enough
WARMED = 0.1  # seconds of a call up to which one that is not timed comes before
SHARE = 0.3  # of the time of a row that one contender may take, if three rounds take no longer
TRUTH = 7e9  # float64 operations that the truth of a row may take
FULL = "tsm 2048x7x7, batch 128"  # where TensorLy is called as published code does
MOST_TEXT = 300  # characters of an error

Row = dict[str, Any]


class Options(NamedTuple):
    """How a run is made."""

    backends: tuple[str | None, ...] = (None,)
    peers: frozenset[str] = frozenset(found.PEERS)
    seconds: float = SECONDS
    rounds: tuple[int, int] = ROUNDS
    full: bool = False  # with TensorLy at the ranks of the shape, which takes seconds an item


class Run:
    """What is measured, as the result file has it, from its first row on."""

    def __init__(
        self, device: str, command: str, on_row: Callable[[Run], None] = lambda _: None, *, quick: bool = False
    ) -> None:
        self.device: str = device
        self.on_row: Callable[[Run], None] = on_row
        self._load, self._begin = machine.Load(), perf_counter()
        self.value: dict[str, Any] = {
            "schema": SCHEMA,
            "command": command,
            "quick": quick,
            "date": date.today().isoformat(),
            "machine": machine.facts(device),
            "limits": {},  # by the number of threads, 0 for that of torch
            "absent": found.absent(device),
            "load": machine.load(),
            "others": None,
            "seconds": 0.0,
            "complete": False,
            "rows": [],
        }

    def limits_of(self, threads: int) -> limits.Limits:
        """With the threads that are set now; measured once."""
        if str(threads) not in self.value["limits"]:
            self.value["limits"][str(threads)] = limits.measure(self.device)._asdict()
        return limits.Limits(**self.value["limits"][str(threads)])

    def add(self, row: Row) -> None:
        self.value["rows"].append(row)
        self._note()

    def finish(self) -> None:
        self.value["complete"] = True
        self._note()

    def _note(self) -> None:
        self.value["others"] = self._load.share()
        self.value["seconds"] = round(perf_counter() - self._begin, 1)
        self.on_row(self)


def measure(run: Run, cases: Iterable[Case], options: Options, say: Callable[[str], None] = lambda _: None) -> None:
    """Add a row for every case; what goes wrong in a row is in the row."""
    for case in cases:
        say(case.label)
        begin = perf_counter()
        with machine.threads(case.threads):
            row = measured(case, options, run.value["absent"], run.limits_of(case.threads))
        run.add({**case.as_json(), **row, "seconds": round(perf_counter() - begin, 1)})
    run.finish()


def measured(case: Case, options: Options, absent: Sequence[str], most: limits.Limits) -> Row:
    """The fields of a row beside those of its case."""
    work = works.WORKS[case.work]
    missing = [module for module in work.needs if find_spec(module) is None]
    if missing:
        return {"left_out": f"needs {', '.join(missing)}"}
    try:
        _has_room(case)
        inputs, origin = work.inputs(case)
        checked = min(case.batch, _checked(case))
        truth = work.truth(case, first(inputs, checked))
        wanted = set(options.peers)
        those = works.contenders(case, options.backends, wanted, absent)
        if options.full and case.label.startswith(FULL) and "tensorly-full" in wanted - set(absent):
            those.append(works.tensorly_full(case))
    except (RuntimeError, MemoryError, ValueError, ImportError) as error:
        return {"failed": _text(error)}
    load = machine.Load()
    table = _Table(case, work, inputs, truth, checked, options)
    for contender in those:
        table.check(contender)
    table.time()
    row: Row = {"origin": origin, "checked": checked, "contenders": table.rows, "others": load.share()}
    exact = works.precise(case)
    if exact is not None:
        row["errors64"] = table.errors_of(exact, first(inputs, checked))
    return {**row, **_share(case, table, most)}


def first(inputs: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    return tuple(part[:count] for part in inputs)


def _has_room(case: Case) -> None:
    """
    Raises:
        MemoryError: a batch with what peers need for it is more than what is free.
    """
    needed = 4 * prod(case.sides) * case.batch * (3 if case.device == "cpu" else 1)
    free = memory.available() if case.device == "cpu" else torch.cuda.mem_get_info(case.device)[0]
    if needed > free:
        batch = f"a batch of {case.batch} of {case.shape}"
        raise MemoryError(f"{batch} needs about {needed / 1e9:,.3g} GB with its peers, {free / 1e9:,.3g} GB are free")


def _checked(case: Case) -> int:
    """How many items are compared with float64."""
    if case.work in ("tucker", "hosvd"):
        return 4 if prod(case.sides) < 500_000 else 1
    if case.work in ("eigh", "eigenpairs"):
        return 64
    n, k = sorted((case.sides[0], prod(case.sides[1:])))
    return max(2, min(64, int(TRUTH / (20 * k * n * n))))


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MOST_TEXT]


class _Timed(NamedTuple):
    contender: Contender
    arguments: tuple[Any, ...]
    items: int
    once: float  # seconds of a call


class _Table:
    """The contenders of a row: each checked when it comes, all timed together."""

    def __init__(
        self, case: Case, work: Work, inputs: tuple[Any, ...], truth: Any, checked: int, options: Options
    ) -> None:
        self.case, self.work, self.options = case, work, options
        self.inputs, self.truth, self.checked = inputs, truth, checked
        self.rows: dict[str, Row] = {}
        self.sweeps = 0.0
        self._timed: list[_Timed] = []

    def check(self, contender: Contender) -> None:
        """Run it once and judge what it gives; it is timed later if it gives anything."""
        if contender.instead_of is not None and not self._missed(contender.instead_of):
            return
        try:
            row, timed = self._checked(contender)
        except Exception as error:  # whatever a peer raises, it is what it has to show
            self.rows[contender.name] = {"failed": _text(error)}
            return
        self.rows[contender.name] = row
        self._timed.append(timed)

    def _missed(self, name: str) -> bool:
        row = self.rows.get(name, {})
        return row.get("verdict", "") not in ("", "same") or "failed" in row

    def _checked(self, contender: Contender) -> tuple[Row, _Timed]:
        device, batch = self.case.device, self.case.batch
        few = 1 if contender.each else min(self.checked, batch)
        arguments = contender.prepare(*first(self.inputs, few))
        result, once = self._call(contender, arguments)
        seldom = contender.rounds <= FEW_ROUNDS
        if once < 1 and not seldom:
            result, once = self._call(contender, arguments)  # warm
        items = few
        if contender.each and not seldom:
            items = max(1, min(batch, int(ITEMS / once)))
        elif not contender.each:
            quick = contender.ours or once / few * batch < SLOW
            items = batch if quick else min(batch, max(few, int(SLOW / once * few)))
        extra = None
        if items != few or not (contender.each or seldom):
            arguments = contender.prepare(*first(self.inputs, items))
            begin = perf_counter()
            result, extra = memory.extra(lambda: self._run(contender, arguments), device)
            once = perf_counter() - begin
            if once < WARMED and not seldom:
                once = self._call(contender, arguments)[1]  # freed memory comes back slowly
        row: Row = {"items": items, "few": items < batch, "megabytes": extra}
        if contender.judged:
            row |= self._judged(contender, result, min(items, self.checked))
        if contender.ours and hasattr(result, "n_sweeps"):
            self.sweeps = float(result.n_sweeps.double().mean())
        return row, _Timed(contender, arguments, items, once)

    def _call(self, contender: Contender, arguments: tuple[Any, ...]) -> tuple[Any, float]:
        begin = perf_counter()
        result = self._run(contender, arguments)
        return result, perf_counter() - begin

    def _run(self, contender: Contender, arguments: tuple[Any, ...]) -> Any:
        result = contender.run(*arguments)
        limits.synchronize(self.case.device)
        return result

    def _judged(self, contender: Contender, result: Any, count: int) -> Row:
        errors = self._errors(contender, result, count)
        allowed = self.work.allowed(self.case)
        worst = max(errors, key=lambda name: errors[name] / allowed[name])
        error = errors[worst]
        verdict = "same" if error <= allowed[worst] else "less" if error <= works.WRONG else "wrong"
        return {"error": error, "of": worst, "errors": errors, "verdict": verdict}

    def _errors(self, contender: Contender, result: Any, count: int) -> dict[str, float]:
        shown = _head(contender.shown(result), count)
        truth = _head(self.truth, count)
        return self.work.errors(self.case, shown, truth, first(self.inputs, count), contender.ours)

    def errors_of(self, contender: Contender, inputs: tuple[Any, ...]) -> dict[str, float] | str:
        """Of one that is not timed."""
        try:
            result = contender.run(*contender.prepare(*inputs))
            return self._errors(contender, result, len(inputs[0]))
        except Exception as error:  # as in `check`
            return _text(error)

    def time(self) -> None:
        """Everyone in turn; ours in every round, so that a ratio is of calls that were close."""
        if not self._timed:
            return
        turns = [_turn(timed, self.options.seconds) for timed in self._timed]
        times = clock.take_turns(turns, self.options.seconds, self.options.rounds, self._wait)
        times = [each or [timed.once] for timed, each in zip(self._timed, times, strict=True)]
        own = times[0]
        for timed, each in zip(self._timed, times, strict=True):
            milliseconds = [1e3 * seconds / timed.items for seconds in each]
            row = self.rows[timed.contender.name]
            row |= {"ms": clock.quantiles(milliseconds), "rounds": len(each)}
            if not timed.contender.ours and self._timed[0].contender.ours:
                mine = [1e3 * seconds / self._timed[0].items for seconds in own]
                row["ratio"] = clock.quantiles([a / b for a, b in zip(milliseconds, mine, strict=False)])

    def _wait(self) -> None:
        limits.synchronize(self.case.device)


def _turn(timed: _Timed, seconds: float) -> clock.Turn:
    """One that is run once has had its turn when it was checked."""
    most = timed.contender.rounds
    if not timed.contender.ours:
        most = min(most, max(FEW_ROUNDS, int(SHARE * seconds / timed.once)))
    pause = works.SPIN if timed.contender.spins else clock.PAUSE
    run = partial(timed.contender.run, *timed.arguments)
    warm = timed.once < WARMED and timed.contender.rounds > FEW_ROUNDS
    return clock.Turn(run, clock.calls_of(timed.once), most if most > 1 else 0, pause, warm)


def _head(value: Any, count: int) -> Any:
    """The first items of arrays, lists of them, and results."""
    if isinstance(value, (list, tuple)):
        parts = [_head(part, count) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value[:count] if hasattr(value, "shape") else value


def _share(case: Case, table: _Table, most: limits.Limits) -> Row:
    """What ours makes of the machine: operations and bytes a second, and the share of what is possible."""
    ours = next((row for row in table.rows.values() if "ms" in row), None)
    least = cost(case, table.sweeps)
    if ours is None or not least.bytes:
        return {}
    seconds = ours["ms"]["p50"] / 1e3
    by = "flops" if least.flop / most.flops >= least.bytes / most.bandwidth else "bandwidth"
    return {
        "flop": least.flop,
        "bytes": least.bytes,
        "sweeps": table.sweeps or None,
        "limit": {"share": most.seconds(least.flop, least.bytes) / seconds, "by": by},
    }
