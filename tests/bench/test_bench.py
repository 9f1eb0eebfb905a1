"""What the benchmark measures with: turns, judgement, costs, noise. Times themselves are asserted nowhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tsm_fast
from tsm_fast import saliency
from tsm_fast.bench import clock, found, limits, memory, page, peers, rows, sets, shapes, tables, works
from tsm_fast.bench.cases import Case, case_of, cost
from tsm_fast.bench.compare import compare, read

from ..pipeline.results.test_report import CHROMIUM, browse

SHORT = rows.Options(seconds=0.01, rounds=(2, 2))
MOST = limits.Limits(1e11, 1e10, "a test", "a test")
TSM = sets.of("tsm", "32x5x5", 4)


def measured(case: Case, **options: Any) -> dict[str, Any]:
    row = rows.measured(case, SHORT._replace(**options), list(found.absent()), MOST)
    return {**case.as_json(), **row}


def fake(times: dict[str, tuple[float, float, float]], label: Case = TSM, **more: Any) -> dict[str, Any]:
    """A row of these quantiles."""
    contenders = {
        name: {"ms": dict(zip(("p20", "p50", "p80"), ms, strict=True)), "verdict": "same", "few": False, "rounds": 9}
        for name, ms in times.items()
    }
    return {**label.as_json(), "contenders": contenders, **more}


def run_of(*made: dict[str, Any]) -> dict[str, Any]:
    return {"schema": rows.SCHEMA, "rows": list(made)}


# ---- the clock ----


def test_calls_take_turns_and_each_round_begins_with_another() -> None:
    seen: list[str] = []
    turns = [clock.Turn(lambda name=name: seen.append(name), pause=0, warm=False) for name in "abc"]
    times = clock.take_turns(turns, 0, (4, 4))
    assert "".join(seen) == "abc" + "bca" + "cab" + "abc"
    assert [len(each) for each in times] == [4, 4, 4]


def test_a_turn_has_a_call_that_is_not_timed_and_as_many_as_it_says() -> None:
    seen: list[str] = []
    turns = [
        clock.Turn(lambda: seen.append("many"), calls=3, pause=0),
        clock.Turn(lambda: seen.append("seldom"), rounds=2, pause=0, warm=False),
    ]
    times = clock.take_turns(turns, 0, (5, 5))
    assert (seen.count("many"), seen.count("seldom")) == (5 * 4, 2)
    assert [len(each) for each in times] == [5, 2]
    assert clock.calls_of(1.0) == 1
    assert clock.calls_of(clock.SHORTEST / 10) == pytest.approx(10, abs=1)


def test_quantiles_are_those_of_numpy() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0, 9.0]
    assert list(clock.quantiles(values).values()) == np.quantile(values, [0.2, 0.5, 0.8]).tolist()


# ---- rows ----


@pytest.mark.slow
@pytest.mark.parametrize("case", list(sets.quick()), ids=lambda case: case.work)
def test_every_work_is_right_beside_every_peer_that_is_there(case: Case) -> None:
    row = measured(case)
    assert "failed" not in row, row
    ours, *others = row["contenders"].items()
    assert ours[0] == works.OURS
    assert ours[1]["verdict"] == "same", ours
    assert {name: one["failed"] for name, one in others if "failed" in one} == {}
    assert {name for name, one in others if one["verdict"] == "wrong"} <= {"torch-power", "torch-lowrank"}
    assert any(one["verdict"] == "same" for _, one in others)
    assert all(one["ms"]["p20"] <= one["ms"]["p50"] <= one["ms"]["p80"] for one in row["contenders"].values())
    assert all(error < 1e-8 for error in row.get("errors64", {}).values()), row["errors64"]


def test_a_wrong_peer_is_timed_and_shown_as_wrong_and_beats_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PYTORCH, "tsm", lambda x, eigh: x.mean(1))
    row = measured(TSM, peers=frozenset({"torch"}))
    assert row["contenders"]["torch"]["verdict"] == "wrong"
    assert row["contenders"]["torch"]["ms"]["p50"] > 0
    assert tables.best_peer(row) is None
    assert "WRONG" in tables.text(row)
    assert tables.faults([row]) == []


def test_a_peer_that_raises_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(gram: torch.Tensor) -> Any:
        raise ArithmeticError("no convergence")

    monkeypatch.setattr(peers, "eigh_split", broken)
    row = measured(TSM, peers=frozenset({"torch", "torch-split"}))
    assert row["contenders"]["torch-split"] == {"failed": "ArithmeticError: no convergence"}
    assert row["contenders"]["torch"]["verdict"] == "same"
    assert "failed: ArithmeticError: no convergence" in tables.text(row)


def test_a_result_of_another_shape_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PYTORCH, "tsm", lambda x, eigh: x[:, 0, 1:])
    row = measured(TSM, peers=frozenset({"torch"}))
    assert "gave a result of shape (4, 4, 5), not (4, 5, 5)" in row["contenders"]["torch"]["failed"]


def test_ours_being_wrong_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = saliency.tsm
    monkeypatch.setattr(saliency, "tsm", lambda x, **options: exact(x, **options) + 1e-3)
    row = measured(TSM, peers=frozenset({"torch"}))
    assert row["contenders"]["tsm_fast"]["verdict"] == "less"
    (fault,) = tables.faults([row])
    assert "an error of 1.0e-03 (map), more than allowed" in fault


def test_nan_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.PYTORCH, "tsm", lambda x, eigh: x.mean(1) * torch.nan)
    row = measured(TSM, peers=frozenset({"torch"}))
    assert row["contenders"]["torch"]["verdict"] == "wrong"


def test_float64_comes_where_float32_misses_our_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    both = frozenset({"torch", "torch-float64"})
    assert "torch-float64" not in measured(TSM, peers=both)["contenders"]
    exact = peers.PYTORCH["tsm"]
    noise = {torch.float32: 1e-3, torch.float64: 0.0}
    monkeypatch.setitem(peers.PYTORCH, "tsm", lambda x, eigh: exact(x, eigh) * (1 + noise[x.dtype] * torch.rand(5, 5)))
    row = measured(TSM, peers=both)
    assert row["contenders"]["torch"]["verdict"] == "less"
    assert row["contenders"]["torch-float64"]["verdict"] == "same"
    assert tables.best_peer(row) == ("torch-float64", row["contenders"]["torch-float64"]["ratio"]["p50"])


def test_slow_peers_work_on_few_items_and_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy", reason="the peer")
    monkeypatch.setattr(rows, "ITEMS", 0.0)
    row = measured(TSM, peers=frozenset({"scipy"}))
    assert row["contenders"]["scipy"]["items"] == 1
    assert "on 1 of 4" in tables.text(row)
    monkeypatch.setattr(rows, "ITEMS", 100.0)
    assert measured(TSM, peers=frozenset({"scipy"}))["contenders"]["scipy"]["few"] is False


def test_a_batch_without_room_is_told() -> None:
    row = measured(sets.of("tsm", "2048x7x7", 10**9))
    assert "MemoryError: a batch of 1000000000 of 2048x7x7 needs about" in row["failed"]
    assert tables.faults([row]) == [f"{tables.label(row)}: {row['failed']}"]


def test_works_that_need_what_is_not_there_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "find_spec", lambda name: None)
    row = measured(sets.of("tensorly tucker", "8x4x4"))
    assert tables.outcome(row) == "left out: needs tensorly"
    assert tables.faults([row]) == []


def test_a_backend_that_cannot_run_fails_and_says_why() -> None:
    row = measured(TSM, backends=("reference", "triton" if not tsm_fast.backends()["triton"].available else "none"))
    first, second = (one for name, one in row["contenders"].items() if name.startswith(works.OURS))
    assert first["verdict"] == "same"
    assert "failed" in second


def test_absent_peers_have_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found.absent()["cusolver"] == "is for cuda"
    assert found.absent("cuda:1")["scipy"] == "is for cpu"
    assert "torch" not in found.absent("cuda:1")
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert [name for name in found.PEERS if f"`{name}`" not in page] == []
    monkeypatch.setattr(found, "find_spec", lambda name: None if name == "scipy" else object())
    assert found.absent()["scipy"] == "scipy is not installed: pip install scipy"
    with pytest.raises(ValueError, match=r"peer must be none, or one of torch, .* got 'eigen'"):
        found.chosen(["eigen"])
    assert found.chosen([]) == set(found.PEERS)
    assert not found.chosen(["none"]) & set(found.PEERS)


def test_shares_are_of_the_machines_limits() -> None:
    row = measured(sets.of("mode_gram", "32x5x5", 4), peers=frozenset())
    seconds = row["contenders"]["tsm_fast"]["ms"]["p50"] / 1e3
    assert row["flop"] == 32 * 25 * 26
    assert row["limit"]["share"] == pytest.approx(max(row["flop"] / 1e11, row["bytes"] / 1e10) / seconds)


# ---- inputs and costs ----


def test_shapes_and_sets() -> None:
    assert shapes.named("resnet50")[0] == "2048x7x7"
    assert shapes.named("12x3") == ("12x3",)
    with pytest.raises(ValueError, match=r"got 'resnet5'; did you mean resnet50\?"):
        shapes.named("resnet5")
    for shape in (shape for names in shapes.SETS.values() for shape in names):
        assert len(shapes.default_rank(shape)) == len(sets.sides_of(shape))
        assert shapes.default_batch(shape, "tsm", "cuda") >= shapes.default_batch(shape, "tsm", "cpu") >= 1


def test_inputs_have_the_layout_dtype_and_numbers_that_the_case_says() -> None:
    plain = shapes.filled(TSM).x
    last = shapes.filled(TSM._replace(layout="channels_last")).x
    sliced = shapes.filled(TSM._replace(layout="sliced")).x
    half = shapes.filled(TSM._replace(dtype="bfloat16")).x
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert not sliced.is_contiguous()
    assert torch.equal(plain, last)
    assert torch.equal(plain, sliced)
    assert half.dtype == torch.bfloat16
    gram = shapes.filled(sets.of("eigh", "25x25", 3)).x
    assert gram.shape == (3, 25, 25)
    assert torch.allclose(gram, gram.mT)


def test_what_cannot_be_cut_from_real_maps_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shapes.features("8x40x50", 2).origin.startswith("made up")
    monkeypatch.setattr(shapes, "find_spec", lambda name: None)
    x, origin = shapes.features("64x7x7", 5)
    assert origin.startswith("made up")
    assert x.shape == (5, 64, 7, 7)
    assert float(x.min()) == 0
    values = torch.linalg.svdvals(x.flatten(2))
    assert bool((values[:, 1] < 0.95 * values[:, 0]).all())


def test_costs() -> None:
    assert cost(sets.of("mode_gram", "64x7x7", 1)).flop == 64 * 49 * 50
    assert cost(sets.of("core_contraction", "64x7x7", 1, (16, 4, 4))).flop == 2 * (
        16 * 64 * 49 + 4 * 16 * 49 + 4 * 64 * 7
    )
    assert cost(sets.of("eigh", "100x100", 1)).flop == pytest.approx(10 / 3 * 1e6)
    for work in works.WORKS:
        if work != "eigencam call":
            assert cost(sets.of(work, "64x8x8" if work not in sets._MATRICES else "64x64", 1)).bytes > 0, work


def test_the_standard_set_has_the_rows_that_claims_rest_on() -> None:
    cases = list(sets.standard())
    labels = [case.label for case in cases]
    assert len(set(cases)) == len(cases)
    for start in (
        "mtsm 512x28x28",
        "mtsm 256x56x56",
        "mtsm 1024x14x14",
        "mtsm 512x14x14",
        "multivec_eigencam 2048x7x7",
        "eigh 49x49",
        "eigh 512x512",
        "eigencam 1024x14x14",
        "truncated_svd 256x256, batch",
        "truncated_svd 1024x196, rank 8",
        "hosvd 2048x7x7, rank 16, 4, 4",
        "core_contraction 1024x14x14",
        "multi_mode_dot 1024x14x14",
        "tucker 1280x7x7 signed",
        "tucker 32x4x8x8x8, rank 8, 3, 4, 4, 4, batch 1",
        "tucker 64x8x14x14, rank 16, 4, 7, 7, batch 32",
        "tensorly tucker",
        "tsm 2048x7x7, batch 1",
        "tsm 1024x14x14, batch 64, bfloat16",
        "tsm 2048x7x7, batch 128, sliced",
        "compiled tsm",
        "first call",
        "eigencam call",
    ):
        assert any(label.startswith(start) for label in labels), start


def test_asked_for() -> None:
    cases = list(sets.asked(["tsm", "eigh"], ["64x7x7"], batches=[1, 8], dtypes=["float32", "float64"]))
    assert len(cases) == 8
    assert {case.shape for case in cases} == {"64x7x7", "49x49"}
    (one,) = sets.asked(["tucker"], ["64x7x7"], [8])
    assert one.rank == (8, 7, 7)
    with pytest.raises(ValueError, match=r"rank of tucker must be 3 numbers, at most 64x7x7, got \(8, 9, 1\)"):
        list(sets.asked(["tucker"], ["64x7x7"], [(8, 9, 1)]))
    with pytest.raises(ValueError, match="tsm needs a shape with channels and positions"):
        list(sets.asked(["tsm"], ["64x7"]))


@pytest.mark.parametrize("dimension", sets.SCALING)
def test_one_thing_grows(dimension: str) -> None:
    work = "truncated_svd" if dimension == "rank" else "tsm"
    cases = list(sets.scaling(work, dimension))
    sizes = [tables.extent(case, dimension) for case in cases]
    assert sizes == sorted(set(sizes))
    with pytest.raises(ValueError, match="eigh does not grow with rank"):
        list(sets.scaling("eigh", "rank"))


def test_growth_is_a_power_beside_that_of_the_operations() -> None:
    grown = [fake({"tsm_fast": (ms, ms, ms)}, sets.of("eigh", f"{n}x{n}", 1)) for n, ms in ((50, 1.0), (100, 4.0))]
    first, second = tables.growth(grown, "S")
    assert first[3:] == ("", "")
    assert second[3:] == ("2.00", "3.00")
    assert tables.powers(grown, "S") == (pytest.approx(2), pytest.approx(3))
    assert tables.powers(grown[:1], "S") is None


# ---- what the machine can do ----


def test_limits_without_a_compiler_are_by_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.02)
    monkeypatch.setattr(limits, "LARGE", 2**22)
    monkeypatch.setenv("CC", "no-such-compiler")
    limits._library.cache_clear()
    most = limits.measure("cpu")
    assert "no C compiler" in most.flops_by
    assert min(most.flops, most.bandwidth) > 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's high-water mark")
def test_extra_memory_is_what_comes_and_goes() -> None:
    def run() -> torch.Tensor:
        return torch.ones(20_000_000)[:100].clone()

    result, megabytes = memory.extra(run, "cpu")
    assert result.shape == (100,)
    if megabytes is None:
        pytest.skip("the kernel does not let this process reset its mark")
    assert 60 < megabytes < 100
    _, kept = memory.extra(lambda: torch.ones(20_000_000), "cpu")
    assert kept is not None
    assert kept < 20  # the output is not extra


# ---- two runs ----


def test_a_run_is_like_itself_and_a_change_is_found() -> None:
    same = {"tsm_fast": (0.9, 1.0, 1.1), "torch": (4.0, 4.1, 4.2)}
    old = run_of(fake(same))
    assert not any(change.changed for change in compare(old, old).changes)
    slower = compare(old, run_of(fake({**same, "tsm_fast": (1.9, 2.0, 2.1)})))
    first = slower.changes[0]
    assert (first.name, first.changed, first.factor) == ("tsm_fast", True, pytest.approx(2))
    assert not slower.changes[1].changed
    within = compare(old, run_of(fake({**same, "tsm_fast": (1.05, 1.12, 1.2)})))
    assert not any(change.changed for change in within.changes)


def test_what_the_machine_did_to_all_is_taken_out() -> None:
    old = {"tsm_fast": (0.99, 1.0, 1.01), "torch": (4.0, 4.1, 4.2), "numpy": (7.0, 7.1, 7.2)}
    busy = {name: (2 * a, 2 * b, 2 * c) for name, (a, b, c) in old.items()}
    compared = compare(run_of(fake(old)), run_of(fake(busy)))
    assert compared.drift == pytest.approx(2)
    assert not any(change.changed for change in compared.changes)


def test_what_peers_do_not_keep_to_is_no_change() -> None:
    names = [f"peer {i}" for i in range(40)]
    old = run_of(fake(dict.fromkeys((*names, "tsm_fast"), (0.99, 1.0, 1.01))))
    for ours, is_change in ((1.4, False), (5.0, True)):
        new = {name: 1.5 if i % 2 else 1 / 1.5 for i, name in enumerate(names)} | {"tsm_fast": ours}
        compared = compare(old, run_of(fake({name: (0.99 * x, x, 1.01 * x) for name, x in new.items()})))
        assert compared.wander == pytest.approx(1.5)
        assert [change.changed for change in compared.changes if change.name == "tsm_fast"] == [is_change]


def test_a_busy_machine_is_told() -> None:
    quiet, busy = {**run_of(), "others": 0.01}, {**run_of(), "others": 0.4}
    assert not compare(quiet, quiet).busy
    assert compare(quiet, busy).busy
    assert not compare({**run_of(), "others": None}, quiet).busy


def test_rows_that_come_and_go_and_results_that_turn() -> None:
    old = run_of(fake({"tsm_fast": (1, 1, 1), "jax": (1, 1, 1)}))
    new = run_of(fake({"tsm_fast": (1, 1, 1), "scipy": (1, 1, 1)}))
    new["rows"][0]["contenders"]["tsm_fast"]["verdict"] = "wrong"
    compared = compare(old, new)
    assert compared.gone == [f"{TSM.label}, jax"]
    assert compared.added == [f"{TSM.label}, scipy"]
    assert compared.verdicts == [f"{TSM.label}, tsm_fast: same before, wrong now"]


def test_files_that_are_no_result(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, said in (
        ("[]", "no result file"),
        ("{", "no result file"),
        ('{"schema": 0, "rows": []}', "has schema 0"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            read(path)


# ---- shown ----


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(limits, "measure", lambda device: MOST)
    run = rows.Run("cpu", "tsm-fast bench <b>")
    cases = [sets.of("tsm", "32x5x5", batch) for batch in (1, 2, 4)]
    rows.measure(run, cases, SHORT._replace(peers=frozenset({"torch", "torch-power"})))
    return run.value


def test_a_page_needs_nothing_else(small: dict[str, Any], tmp_path: Path) -> None:
    text = page.html(small)
    assert "tsm-fast bench &lt;b&gt;" in text
    assert "Throughput by batch: tsm 32x5x5" in text
    assert text.count("<svg") == 3
    assert "http" not in text.replace("http-equiv", "")
    assert "was interrupted" not in text
    assert "was interrupted" in page.html({**small, "complete": False})
    if CHROMIUM is not None:
        (tmp_path / "page.html").write_text(text)
        shown, asked = browse(tmp_path / "page.html", tmp_path / "seen")
        assert "Accuracy against speed" in shown
        assert asked == set()


def test_markdown_and_summary_hold_every_row(small: dict[str, Any]) -> None:
    text = tables.markdown(small)
    assert all(f"**{tables.label(row)}**" in text for row in small["rows"])
    assert text.count("\n| torch |") == 3
    assert case_of(json.loads(json.dumps(small["rows"][0]))) == sets.of("tsm", "32x5x5", 1)
    slower = fake({"tsm_fast": (2, 2, 2), "torch": (1, 1, 1)})
    slower["contenders"]["torch"]["ratio"] = {"p50": 0.5}
    said = tables.summary({**small, "rows": [slower], "complete": False})
    assert f"  {TSM.label}: torch takes 0.5x our time" in said
    assert "this run was interrupted: rows are missing" in said


def test_times_that_are_not_to_be_quoted_say_so(small: dict[str, Any]) -> None:
    assert tables.doubts({**small, "quick": False, "others": 0.01}) == []
    assert tables.doubts({**small, "quick": False, "others": None}) == []
    both = {**small, "quick": True, "others": 0.4}
    assert all(doubt in tables.summary(both) and doubt in page.html(both) for doubt in tables.doubts(both))
    assert len(tables.doubts(both)) == 2


def test_every_size_of_a_dimension_has_a_chart() -> None:
    grown = [
        fake({"tsm_fast": (1, c / 64, 9), "torch": (1, c, 9)}, sets.of("tsm", f"{c}x5x5", 4), flop=1, bytes=1)
        for c in (64, 128, 256)
    ]
    (drawn,) = page.growth(grown)
    assert drawn.title == "tsm against C"
    assert "as the operations grow" in drawn.svg
