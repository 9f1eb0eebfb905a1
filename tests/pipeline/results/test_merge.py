"""Several runs read as one, and merged into one: the rows of each, in order, and nothing that does not fit."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tsm_fast import SaliencyDataset
from tsm_fast.pipeline import FingerprintError, Run
from tsm_fast.pipeline.errors import Unfinished
from tsm_fast.pipeline.results.check import status, verify
from tsm_fast.pipeline.results.export import export
from tsm_fast.pipeline.results.merge import merge
from tsm_fast.pipeline.results.report import write_report

from ...needs import PHOTOS, needs
from ..growing import compute, files, net, write
from ..processes import end, hashes, leftovers, markers, start, tsm_fast, wait_for

pytestmark = [pytest.mark.slow, needs(*PHOTOS)]

__all__ = ["net"]  # a fixture

NAMES = ("abcdef", "ghi", "klmnopqrs")


@pytest.fixture
def three(net: Path, tmp_path: Path) -> list[Path]:
    """Three runs of other pictures, with shards of other sizes, broken pictures and labels of none."""
    outs = []
    for number, names in enumerate(NAMES):
        source = write(tmp_path / f"pictures {number}", names)
        (source / f"{names[1]}.bmp").write_bytes(b"no picture")
        outs.append(compute(source, tmp_path / f"run {number}", shard_size=4 - number, dtype="uint8").out)
    return outs


def test_joined_and_merged(three: list[Path], tmp_path: Path) -> None:
    before = [files(out) for out in three]
    joined = SaliencyDataset(three)
    assert "".join(key[0] for key in joined.keys) == "".join(NAMES)
    out = merge(three, tmp_path / "all").out
    assert [files(path) for path in three] == before
    found = verify(out)
    assert (found.problems, found.complete, found.images_checked) == ((), True, 18)
    for number in range(3):
        assert verify(out, source=str(tmp_path / f"pictures {number}")).problems == ()
    whole = SaliencyDataset(out)
    alone = [SaliencyDataset(path) for path in three]
    for ds in (joined, whole, pickle.loads(pickle.dumps(joined))):
        assert np.array_equal(ds.numpy(), np.concatenate([one.numpy() for one in alone]), equal_nan=True)
        assert [row.index for row in ds] == list(range(18))
        assert [row.sha256 for row in ds] == [row.sha256 for one in alone for row in one]
        assert ds["k.bmp"].index == 9
        assert [row.key for row in ds[["s.bmp", "a.bmp"]]] == ["s.bmp", "a.bmp"]
        assert list(ds.status).count("format") == 3
        assert ds.arrow()["index"].to_pylist() == list(range(18))
        with pytest.raises(KeyError):
            ds["z.bmp"]
    assert status(out).errors == {"format": 3}
    # The same bytes as a run to which the others were added.
    added = shutil.copytree(three[0], tmp_path / "added")
    for number in (1, 2):
        compute(tmp_path / f"pictures {number}", added, add=True, shard_size=4 - number, dtype="uint8")
    assert hashes(added) == hashes(out)
    assert Run.open(added).fingerprint == Run.open(out).fingerprint
    write_report(out)
    export(out, "npy", tmp_path / "arrays")
    # It is a run like others: more is added to it, and its broken pictures are repaired.
    write(tmp_path / "pictures 1", "h")
    write(tmp_path / "more", "xyz")
    compute(tmp_path / "more", out, add=True, dtype="uint8")
    assert verify(out).problems == ()
    again = merge([out, compute(write(tmp_path / "t", "t"), tmp_path / "t out", dtype="uint8").out], tmp_path / "again")
    assert "".join(key[0] for key in SaliencyDataset(again.out).keys) == "".join(NAMES) + "xyzt"
    assert verify(again.out).problems == ()


def test_the_command(three: list[Path], tmp_path: Path) -> None:
    done = tsm_fast("merge", *three, "--out", tmp_path / "all")
    assert done.exit_code == 0, done.stderr
    assert "merged 3 runs: 18 images in 8 shards" in done.stdout
    first = files(tmp_path / "all")
    assert tsm_fast("merge", *three, "--out", tmp_path / "all").exit_code == 0
    assert files(tmp_path / "all") == first
    for line, text in (
        ((three[0], three[1], "--out", tmp_path / "all"), "holds another run: name a new folder"),
        ((three[1], three[0], "--out", tmp_path / "all"), "holds another run: name a new folder"),
        ((three[0], three[1], "--out", three[0]), "is one of the runs"),
        ((three[0], "--out", tmp_path / "one"), "needs at least two runs, got 1"),
        ((three[0], three[0], "--out", tmp_path / "one"), "has 6 keys that are in the runs before it too"),
        ((three[0], tmp_path / "nothing", "--out", tmp_path / "one"), "holds no run"),
    ):
        refused = tsm_fast("merge", *line)
        assert refused.exit_code == 1
        assert text in refused.stderr
    assert not (tmp_path / "one").exists()


def test_killed_while_merging(net: Path, tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    runs = [compute(write(tmp_path / f"p{k}", letters[k::2]), tmp_path / f"r{k}", shard_size=1).out for k in (0, 1)]
    before = [files(run) for run in runs]
    expected, out = hashes(merge(runs, tmp_path / "expected").out), tmp_path / "all"
    moments: list[Callable[[], bool]] = [
        lambda: (out / "run.json").exists(),
        lambda: (out / "plan-000001.parquet").exists(),
        lambda: markers(out) >= 3,
        lambda: markers(out) >= 15,
    ]
    path = f"{Path(__file__).parents[3]}{os.pathsep}{net}"
    for moment in moments:
        shutil.rmtree(out, ignore_errors=True)
        process = start(["merge", *map(str, runs), "--out", str(out)], PYTHONPATH=path)
        wait_for(lambda moment=moment, process=process: moment() or process.poll() is not None)
        process.kill()
        end(process)
        if (out / "plan.parquet").exists():
            assert verify(out).ok
        merge(runs, out)
        assert hashes(out) == expected
        assert leftovers(out) == []
        assert verify(out).complete
    assert [files(run) for run in runs] == before


def test_two_merges_at_once(three: list[Path], tmp_path: Path) -> None:
    line = ["merge", *map(str, three), "--out", str(tmp_path / "all")]
    ends = [end(process) for process in [start(line) for _ in range(2)]]
    for code, _, talk in ends:
        assert code == 0 or "another run is working in" in talk
    merge(three, tmp_path / "all")
    assert verify(tmp_path / "all").complete


def test_what_does_not_fit(three: list[Path], net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "others", "uvw")
    labelled = tmp_path / "table.csv"
    labelled.write_text(f"path,label\n{source}/u.bmp,1\n")
    others: dict[str, dict[str, Any]] = {
        "dtype is 'uint8' in the first and 'float32' in the other": {"dtype": "float32"},
        "layers is ['0'] in the first and ['1'] in the other": {"layers": ("1",)},
        "methods.mtsm is new": {"methods": ("mtsm", "tsm")},
        "batch_size is 64 in the first and 3 in the other": {"batch_size": 3},
        "columns of the source differ: none there and label: int64 here": {"table": labelled},
        "model.sha256 is": {"seed": 1},
        "or of its preprocessing, gives other numbers": {"transform": True},
    }
    for number, (text, more) in enumerate(others.items()):
        table, seed, transform = more.pop("table", source), more.pop("seed", 0), more.pop("transform", False)
        import grow_net  # pyright: ignore[reportMissingImports]

        with monkeypatch.context() as patch:
            patch.setattr(grow_net, "SEED", seed)
            if transform:
                plain = grow_net.make
                patch.setattr(grow_net, "make", lambda plain=plain: _louder(plain()))
            other = compute(table, tmp_path / f"other {number}", **{"dtype": "uint8", **more}).out
        for join in (SaliencyDataset, lambda runs: merge(runs, tmp_path / "all")):
            with pytest.raises(FingerprintError) as refused:
                join([three[0], other])
            assert text in str(refused.value)
            assert "cannot be joined" in str(refused.value)
    assert not (tmp_path / "all").exists()


def _louder(network: Any) -> Any:
    """The same weights, with other code around them."""
    network[0].register_forward_hook(lambda _module, _inputs, output: 2 * output)
    return network


def test_runs_that_are_not_whole(three: list[Path], tmp_path: Path) -> None:
    (three[1] / "markers" / "000000.json").unlink()
    with pytest.raises(
        Unfinished, match=r"run 1 has 1 shard to compute: run the same `tsm-fast extract` command again"
    ):
        merge(three, tmp_path / "all")
    assert not (tmp_path / "all").exists()
    joined = SaliencyDataset(three, missing="skip")
    assert "".join(key[0] for key in joined.keys) == "abcdef" + "klmnopqrs"
    with pytest.raises(LookupError, match=r"rows 0\.\.2 of .*run 1 are not computed yet \(shard 0; 7 of 8 shards"):
        SaliencyDataset(three)["g.bmp"]
    assert SaliencyDataset(three, missing="nan")["g.bmp"].index == 6
    compute(tmp_path / "pictures 1", three[1], shard_size=3, dtype="uint8")
    shard = three[2] / "shards" / "part-000001.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(
        OSError, match=r"run 2/shards/part-000001\.parquet is damaged .* `tsm-fast verify .*run 2` tells"
    ):
        merge(three, tmp_path / "all")
    assert not verify(tmp_path / "all").complete
    (three[2] / "markers" / "000001.json").unlink()
    compute(tmp_path / "pictures 2", three[2], shard_size=2, dtype="uint8")
    merge(three, tmp_path / "all")  # goes on
    assert verify(tmp_path / "all").complete


def test_labels_are_joined(net: Path, tmp_path: Path) -> None:
    write(tmp_path, "abcd")
    outs = []
    for number, rows in enumerate(("a.bmp,1\nb.bmp,2\n", "c.bmp,3\nd.bmp,4\n")):
        (tmp_path / f"{number}.csv").write_text(f"path,label\n{rows}")
        outs.append(compute(tmp_path / f"{number}.csv", tmp_path / f"out {number}").out)
    assert SaliencyDataset(outs).carried()["label"].to_pylist() == [1, 2, 3, 4]
    merge(outs, tmp_path / "all")
    assert SaliencyDataset(tmp_path / "all").arrow()["label"].to_pylist() == [1, 2, 3, 4]
    assert verify(tmp_path / "all").problems == ()


def test_no_run_at_all() -> None:
    with pytest.raises(ValueError, match="path must name at least one run, got none"):
        SaliencyDataset([])
