"""What only the compiled CPU backend promises: SIMD levels, threads, bitwise batches, bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import tsm_fast
from tsm_fast.steps.backend import Backend, Method
from tsm_fast.steps.choice import load

from ..helpers import NATIVE, feature_maps, randn
from ..helpers import STEPS as PROTOCOL

pytestmark = pytest.mark.skipif(not NATIVE, reason="needs the compiled backend, which this install was built without")

HOOI = {"n_iter_max": 100, "tol": 1e-4, "sign": "u"}
SALIENCY = {"center": True, "combine": "signed", "sign": "u"}

FEATURES = feature_maps(37, 61, 7, 6, relu=False)
WIDE = feature_maps(5, 20, 14, 13)


@pytest.fixture
def cpu() -> Backend:
    return load("cpu")


@pytest.fixture(autouse=True)
def _threads_restored(cpu):
    before = torch.get_num_threads()
    cpu._cpu.share_all_work(True)
    yield
    cpu._cpu.share_all_work(False)
    torch.set_num_threads(before)


def saliency(method: Method, rank: tuple[int, ...] | None = None) -> Callable[[Backend, Tensor], tuple[Tensor, ...]]:
    return lambda cpu, x: cpu.saliency(x, method, rank, **SALIENCY)


def hooi(rank: tuple[int, ...]) -> Callable[[Backend, Tensor], tuple[Tensor, ...]]:
    def run(cpu: Backend, x: Tensor) -> tuple[Tensor, ...]:
        result = cpu.hooi(x, rank, **HOOI)
        errors = result.errors.nan_to_num(nan=-1.0)
        return (result.core, *result.factors, *result.singular_values, errors, result.n_sweeps)

    return run


STEPS: dict[str, Callable[[Backend, Tensor], tuple[Tensor, ...]]] = {
    "mode_gram": lambda cpu, x: (cpu.mode_gram(x, 0), cpu.mode_gram(x.flatten(2), 1, center=True)),
    "truncated_svd": lambda cpu, x: cpu.truncated_svd(cpu.mode_gram(x.flatten(2), 1), 5),
    "truncated_svd, all": lambda cpu, x: cpu.truncated_svd(cpu.mode_gram(x.flatten(2), 1), x[0, 0].numel()),
    "core_contraction": lambda cpu, x: (cpu.core_contraction(x, [x.flatten(2)[..., :5]], [0]),),
    "hooi": hooi((6, 3, 3)),
    "hooi, full in height and width": hooi((20, 7, 6)),
    "eigencam": saliency("eigencam"),
    "tsm": saliency("tsm"),
    "tsm at a rank": saliency("tsm", (6, 3, 3)),
    "multivec_eigencam": saliency("multivec_eigencam"),
    "mtsm": saliency("mtsm"),
    "mtsm at a rank": saliency("mtsm", (6, 3, 3)),
    "finish": lambda cpu, x: (cpu.finish(x[:, 0].float(), (31, 90), normalize=True),),
}


def equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("x", [FEATURES, WIDE], ids=["more channels", "more positions"])
def test_batch_size_order_and_threads_do_not_change_a_bit(cpu, step, dtype, x):
    x = x.to(dtype)
    torch.set_num_threads(1)
    expected = STEPS[step](cpu, x)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        assert equal(STEPS[step](cpu, x), expected)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(threads))
        assert equal(STEPS[step](cpu, x[order]), tuple(result[order] for result in expected))
        for part in (slice(0, 1), slice(2, 4), slice(1, len(x))):
            assert equal(STEPS[step](cpu, x[part]), tuple(result[part] for result in expected))


LARGE = {  # enough of one item for its own work to be divided
    "hooi": ((96, 90, 100), lambda cpu, x: cpu.hooi(x, (9, 8, 7), n_iter_max=3, tol=0.0, sign="u").core),
    "hooi, right signs": ((96, 90, 100), lambda cpu, x: cpu.hooi(x, (9, 8, 7), n_iter_max=2, tol=0.0, sign="v").core),
    "hooi, small modes": (
        (12, 40, 10, 300),
        lambda cpu, x: cpu.hooi(x, (5, 7, 3, 17), n_iter_max=2, tol=0.0, sign="u").core,
    ),
    "hosvd": ((96, 90, 100), lambda cpu, x: cpu.hosvd(x, (9, 8, 7), sign="u").core),
    "core_contraction": (
        (96, 90, 100),
        lambda cpu, x: cpu.core_contraction(x, [x[:, :, 0, :32].contiguous(), x[:, 0, 0, :, None]], [0, 2]),
    ),
    "core_contraction, two modes at once": (
        (600, 30, 60),
        lambda cpu, x: cpu.core_contraction(x, [x[:, :, 0, :9].contiguous(), x[:, 0, :, :4].contiguous()], [0, 1]),
    ),
    "mode_gram": ((96, 90, 100), lambda cpu, x: cpu.mode_gram(x, 1)),
    "eigencam": ((200, 30, 40), lambda cpu, x: saliency("eigencam")(cpu, x)[0]),
    "mtsm": ((260, 30, 40), lambda cpu, x: saliency("mtsm")(cpu, x)[0]),
    "mtsm at a rank": ((200, 30, 40), lambda cpu, x: saliency("mtsm", (6, 3, 3))(cpu, x)[0]),
}


@pytest.mark.parametrize("step", LARGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_threads_that_share_an_item_do_not_change_a_bit(cpu, step, dtype):
    shape, run = LARGE[step]
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    x[1] **= 8  # a spread spectrum
    torch.set_num_threads(1)
    expected = run(cpu, x)
    for threads in (2, 3, 8):
        torch.set_num_threads(threads)
        for part in (slice(0, 1), slice(1, 3), slice(0, 3)):
            assert torch.equal(run(cpu, x[part]), expected[part])


def test_the_neighbours_of_bad_items_do_not_change_a_bit(cpu):
    x = FEATURES.clone()
    bad = [0, 7, 8, 20, 36]
    x[bad, 3, 2, 1] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan, torch.inf])
    good = [i for i in range(len(x)) if i not in bad]
    for step in ("hooi", "eigencam", "tsm", "tsm at a rank", "mtsm", "mtsm at a rank"):
        expected = tuple(result[good] for result in STEPS[step](cpu, FEATURES))
        assert equal(tuple(result[good] for result in STEPS[step](cpu, x)), expected)


def test_several_python_threads_at_once(cpu):
    """Each thread runs every step on its own data, many at a time, and gets what it gets alone."""
    torch.set_num_threads(2)
    batches = [feature_maps(9, 61, 7, 6, seed=seed) for seed in range(6)]
    expected = [{name: step(cpu, x) for name, step in STEPS.items()} for x in batches]
    wrong: list[str] = []

    def work(i: int) -> None:
        try:
            for _ in range(3):
                for name, step in STEPS.items():
                    if not equal(step(cpu, batches[i]), expected[i][name]):
                        wrong.append(f"{name} in thread {i}")
        except Exception as error:
            wrong.append(f"{error!r} in thread {i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


@pytest.mark.skipif(sys.platform != "linux", reason="threads are placed on Linux only")
def test_short_calls_leave_the_caller_where_it_may_run(cpu):
    """Its helpers are placed while it goes on."""
    torch.set_num_threads(2)
    before, gram = os.sched_getaffinity(0), torch.eye(3).repeat(2, 1, 1)
    for _ in range(5000):
        cpu.truncated_svd(gram, 1)
    assert os.sched_getaffinity(0) == before


MEMORY = r"""
import json, re
import torch, tsm_fast
def memory(field):  # MB, by the kernel
    with open("/proc/self/status") as status:
        return int(re.search(field + r":\s+(\d+) kB", status.read())[1]) / 1024
def megabytes(*arrays):
    return sum(a.numel() * a.element_size() for a in arrays) / 2**20
x = torch.rand(3000, 128, 7, 7, generator=torch.Generator().manual_seed(0))
def tucker(x):
    r = tsm_fast.tucker(x, (8, 4, 4))
    return r.core, *r.factors, *r.singular_values, r.errors
def hosvd(x):
    r = tsm_fast.hosvd(x, (8, 4, 4))
    return r.core, *r.factors, *r.singular_values, r.errors
calls = {
    "eigencam": lambda x: (tsm_fast.eigencam(x),),
    "tsm": lambda x: (tsm_fast.tsm(x, size=(64, 64)),),
    "tsm at a rank": lambda x: (tsm_fast.tsm(x, (8, 4, 4)),),
    "multivec_eigencam": lambda x: (tsm_fast.multivec_eigencam(x),),
    "mtsm": lambda x: (tsm_fast.mtsm(x),),
    "tucker": tucker,
    "hosvd": hosvd,
    "truncated_svd": lambda x: tsm_fast.truncated_svd(x[:, :, 2], 5),
}
extra = {}
channels_last = x.contiguous(memory_format=torch.channels_last)
for kind, batch in {"": x, ", channels_last": channels_last, ", float16": x.half()}.items():
    for name, call in calls.items():
        call(batch[:16])  # what a first call loads is not part of the bound
        with open("/proc/self/clear_refs", "w") as reset:
            reset.write("5")  # the peak starts again from here
        before = memory("VmRSS")
        results = call(batch)
        extra[name + kind] = memory("VmHWM") - before - megabytes(*results)
        del results
print(json.dumps(extra))
"""


HERE = Path(__file__).parent  # as working directory it leaves the choice of the installed tsm_fast to PYTHONPATH


def python(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps freed memory")
def test_memory_does_not_grow_with_the_batch():
    """At most 64 MB beyond the input (75 MB here) and the output, whatever the batch."""
    done = python(MEMORY)
    assert done.returncode == 0, done.stderr
    extra = json.loads(done.stdout)
    assert len(extra) == 3 * 8
    assert {name: megabytes for name, megabytes in extra.items() if megabytes > 64} == {}


def levels() -> list[str]:
    return load("cpu").simd_levels() if NATIVE else []  # type: ignore[attr-defined]


def test_levels_agree(tmp_path):
    """Not bitwise: the order of a sum depends on the width of a vector."""
    script = (
        "import sys, torch, tsm_fast; x = torch.rand(3, 61, 7, 6, generator=torch.Generator().manual_seed(0));"
        "torch.save([tsm_fast.tsm(x), tsm_fast.mtsm(x, combine='absolute')], sys.argv[1])"
    )
    results = []
    for level in levels():
        path = tmp_path / f"{level}.pt"
        assert python(script, str(path), TSM_FAST_SIMD=level).returncode == 0
        results.append(torch.load(path))
    for maps in results[1:]:
        for mine, first in zip(maps, results[0], strict=True):
            assert (mine - first).abs().max() <= 2e-5


def test_an_unknown_level_is_an_error_and_no_fallback():
    done = python("import torch, tsm_fast; tsm_fast.tsm(torch.rand(1, 2, 3, 3))", TSM_FAST_SIMD="mmx")
    assert done.returncode != 0
    assert "TSM_FAST_SIMD" in done.stderr
    assert "mmx" in done.stderr
    kept = python(
        "import torch, tsm_fast; tsm_fast.tsm(torch.rand(1, 2, 3, 3), backend='reference')", TSM_FAST_SIMD="mmx"
    )
    assert kept.returncode == 0, kept.stderr


def test_the_level_is_the_best_supported_one_by_default():
    native = load("cpu")
    known = native.simd_levels()  # type: ignore[attr-defined]
    assert known[0] == "scalar"
    if "TSM_FAST_SIMD" not in os.environ:
        assert native.simd_level() == known[-1]  # type: ignore[attr-defined]


def test_inputs_are_not_written_to(cpu):
    x = randn(3, 61, 7, 6, dtype=torch.float32)
    copy = x.clone()
    for step in STEPS.values():
        step(cpu, x)
    assert torch.equal(x, copy)
    assert tsm_fast.tsm(x).data_ptr() != x.data_ptr()


def without_addresses(value: Any) -> Iterator[Any]:
    """An argument of the compiled module with each of its addresses replaced, one at a time, by none."""
    if isinstance(value, dict):
        for name, part in value.items():
            for other in without_addresses(part):
                yield {**value, name: other}
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            for other in without_addresses(part):
                yield type(value)([*value[:i], other, *value[i + 1 :]])
    elif isinstance(value, int) and value > 2**20:
        yield 0


def test_no_entry_takes_an_address_that_is_none(cpu, monkeypatch):
    """Behind the checks in Python, whatever goes around them."""
    from tsm_fast import _cpu

    class Spy:
        calls: ClassVar[list[Any]] = []  # name, arguments, those by name

        def __getattr__(self, name: str) -> Callable[..., None]:
            def call(*args: Any, **named: Any) -> None:
                self.calls.append((name, args, named))
                getattr(_cpu, name)(*args, **named)

            return call if name in PROTOCOL else getattr(_cpu, name)

    monkeypatch.setattr(cpu, "_cpu", Spy())
    x = FEATURES[:2]
    for step in STEPS.values():
        step(cpu, x)
    assert {name for name, *_ in Spy.calls} == set(PROTOCOL)
    for name, *call in Spy.calls:
        replaced = list(without_addresses(call))
        assert len(replaced) >= 2
        for args, named in replaced:
            with pytest.raises(ValueError, match=r"^an array (that is not empty )?must have memory$"):
                getattr(_cpu, name)(*args, **named)
    (((address, *rest), mode), named), *_ = [call for name, *call in Spy.calls if name == "mode_gram"]
    with pytest.raises(ValueError, match=r"^the numbers of an array must be aligned$"):
        _cpu.mode_gram((address + 1, *rest), mode, **named)
