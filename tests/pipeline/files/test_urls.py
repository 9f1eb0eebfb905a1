"""Runs behind URLs: the same bytes as in a folder, in the same steps, and the same ways back from what goes wrong."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from torch.utils.data import DataLoader

import tsm_fast as package
from tsm_fast import SaliencyDataset
from tsm_fast.pipeline import FingerprintError, Run, prepare
from tsm_fast.pipeline.engines import tries
from tsm_fast.pipeline.engines.run import run as run_engine
from tsm_fast.pipeline.files import publish, urls
from tsm_fast.pipeline.results.check import status, verify
from tsm_fast.pipeline.results.export import export
from tsm_fast.pipeline.results.merge import merge
from tsm_fast.pipeline.results.report import write_report

from ...needs import NETWORK, needs
from ..processes import QUICK, end, start, tsm_fast, wait_for
from ..small_run import settings, write_few
from ..stores import memory_box, s3_box
from .test_publish import at_once

pytestmark = [pytest.mark.slow, needs(*NETWORK)]

__all__ = ["memory_box", "s3_box"]  # fixtures

COUNT, SHARD = 12, 4


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few") / "pictures"
    write_few(folder, COUNT)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def local(pictures: Path) -> Path:
    """The run in a folder."""
    return compute(pictures, pictures.parent / "maps")


def plan(source: Path, out: str | Path) -> Run:
    return prepare(settings(source, shard_size=SHARD, methods=("mtsm",)), out)


def compute(source: Path, out: Any, **more: Any) -> Any:
    outcome = run_engine(plan(source, out), workers=0, resources=QUICK, **more)
    assert (outcome.code, outcome.complete) == (0, True)
    return out


def arguments(source: Path, out: str, *more: str | int) -> list[str]:
    options = ["--size", "96", "--shard-size", SHARD, "--max-errors", 1, *more]
    return ["extract", str(source), "--out", out, "--map", "mtsm", *map(str, options)]


def files(url: str) -> dict[str, bytes]:
    system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return {name.removeprefix(f"{root}/"): system.cat_file(name) for name in system.find(root)}


def shards(out: str | Path) -> dict[str, bytes]:
    if isinstance(out, Path):
        return {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    return {name[7:]: data for name, data in files(out).items() if name.startswith("shards/")}


def check(url: str, pictures: Path, local: Path, tmp_path: Path) -> None:
    """All that is done with a run."""
    assert shards(url) == shards(local)
    names = {"run.json", "plan.parquet", *(f"markers/{k:06d}.json" for k in range(4))}
    assert set(files(url)) == names | {f"shards/{name}" for name in shards(local)}
    found = status(url)
    assert (found.complete, found.ok, found.errors) == (True, COUNT, {"format": 1})
    assert (found.out, found.leftovers) == (url, ())
    checked = verify(url, source=str(pictures))
    assert (checked.ok, checked.shards_checked, checked.pictures_compared) == (True, 4, COUNT + 1)
    here, there = SaliencyDataset(local), SaliencyDataset(url)
    assert repr(there).startswith(f"SaliencyDataset('{url}', 13 rows")
    assert np.array_equal(here.numpy(), there.numpy(), equal_nan=True)
    assert there["05.png"].sha256 == here["05.png"].sha256
    assert np.array_equal(pickle.loads(pickle.dumps(there))[-1].map, here[-1].map, equal_nan=True)
    assert str(write_report(url)) == f"{url}/report.html"
    assert b"data:image/" in files(url)["report.html"]
    assert Path(export(url, "overlay", tmp_path / "overlays")).is_dir()
    assert plan(pictures, url).pending() == []


def test_memory(memory_box: str, pictures: Path, local: Path, tmp_path: Path) -> None:
    url = compute(pictures, f"{memory_box}/runs/first")
    check(url, pictures, local, tmp_path)
    with pytest.raises(FingerprintError, match=f"{url} holds a run with other settings"):
        prepare(settings(pictures, shard_size=SHARD, methods=("tsm",)), url)


def test_s3(s3_box: str, pictures: Path, local: Path, tmp_path: Path) -> None:
    check(compute(pictures, f"{s3_box}/runs/first"), pictures, local, tmp_path)


def test_the_commands(s3_box: str, pictures: Path, local: Path, tmp_path: Path) -> None:
    """Workers in processes of their own."""
    url = f"{s3_box}/commands"
    done = tsm_fast(*arguments(pictures, url, "--dry-run"))
    assert done.exit_code == 0, done.stderr
    assert "GB free" not in done.stdout
    assert urls.sizes(urls.folder(url)) == {}
    code, out, err = end(start(arguments(pictures, url, "--workers", 2)))
    assert code == 0, err
    assert f"4 of 4 shards in {url}" in out
    assert shards(url) == shards(local)
    assert "report.html" in files(url)
    for command in (("status", url), ("verify", url, pictures), ("report", url), ("export", url, tmp_path / "x.json")):
        done = tsm_fast(*command, *(["--to", "coco"] if command[0] == "export" else []))
        assert done.exit_code == 0, done.stderr
    again = tsm_fast(*arguments(pictures, url))
    assert "nothing was left to compute" in again.stdout


def test_ranks(s3_box: str, pictures: Path, local: Path) -> None:
    url = f"{s3_box}/ranks"
    ranks = [
        start(arguments(pictures, url, "--engine", "rank", "--workers", 0), RANK=str(rank), WORLD_SIZE="2")
        for rank in range(2)
    ]
    for rank in ranks:
        assert end(rank)[0] == 0
    assert shards(url) == shards(local)


def test_killed_and_taken_up(s3_box: str, pictures: Path, local: Path) -> None:
    url = f"{s3_box}/killed"
    process = start(arguments(pictures, url, "--workers", 1))
    wait_for(lambda: bool(urls.sizes(urls.folder(url) / "markers")), process)
    os.killpg(process.pid, 9)
    process.communicate()
    left = {name for name in files(url) if name.startswith("shards/")}
    assert left <= {f"shards/{name}" for name in shards(local)}
    assert verify(url).ok
    whole = SaliencyDataset(url, missing="nan")
    assert len(whole) == COUNT + 1
    compute(pictures, url)
    assert shards(url) == shards(local)
    assert verify(url).complete


@pytest.mark.parametrize("file", ["part-000002.parquet", "000002.json"])
def test_a_client_that_fails(
    memory_box: str, pictures: Path, local: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    url = f"{memory_box}/failing"
    put = MemoryFileSystem.pipe_file

    def fail(self: Any, path: str, value: bytes, **more: Any) -> None:
        if path.endswith(file):
            raise RuntimeError("token expired")
        put(self, path, value, **more)

    run = plan(pictures, url)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "pipe_file", fail)
        outcome = run_engine(run, workers=0, resources=QUICK)
        assert (outcome.code, outcome.shards_done) == (1, 3)
        (reason,) = outcome.failed.values()
        below = "shards" if "part" in file else "markers"
        assert reason == f"{url}/{below}/{file}: cannot be reached: RuntimeError: token expired"
    assert verify(url).ok
    assert verify(url).pending == (2,)
    assert status(url).pending == (2,)
    compute(pictures, url)
    assert shards(url) == shards(local)


@pytest.mark.parametrize("box", ["memory_box", "s3_box"])
def test_of_many_at_once_one_claims_the_run(box: str, request: pytest.FixtureRequest) -> None:
    path = urls.folder(request.getfixturevalue(box)) / "claimed" / "run.json"
    won = at_once(path)
    if box == "s3_box":
        assert len(won) == 1  # the store decides; memory of one process looks first, and then writes
    assert path.read_bytes()[0] in won
    with pytest.raises(FileExistsError, match=r"claimed/run\.json"):
        publish.publish_bytes(path, b"late", replace=False)
    publish.publish_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_error_rows_again(memory_box: str, pictures: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pictures, tmp_path / "pictures"))
    url = compute(source, f"{memory_box}/again")
    shutil.copy(source / "00.png", source / "broken.png")
    outcome = run_engine(plan(source, url), workers=0, resources=QUICK, retry_errors="all")
    assert (outcome.code, outcome.errors) == (0, 0)
    fresh = compute(source, tmp_path / "fresh")
    assert np.array_equal(SaliencyDataset(url).numpy(), SaliencyDataset(fresh).numpy())
    assert verify(url, source=str(source)).ok


def test_more_pictures_and_runs_as_one(memory_box: str, pictures: Path, local: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for number, path in enumerate(sorted(pictures.glob("*.png"))):
        folder = first if number < 6 else second
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    url = compute(first, f"{memory_box}/grown")
    grown = prepare(settings(second, shard_size=SHARD, methods=("mtsm",)), url, add=True)
    assert (len(grown.pending()), tries._key(grown.shards[2], 8)) == (2, "08.png")
    assert run_engine(grown, workers=0, resources=QUICK).complete
    other = compute(second, f"{memory_box}/other")
    whole = SaliencyDataset(local)
    joined = SaliencyDataset([compute(first, f"{memory_box}/part"), other])
    merge([f"{memory_box}/part", other], f"{memory_box}/merged")
    for ds in (SaliencyDataset(url), joined, SaliencyDataset(f"{memory_box}/merged")):
        assert ds.keys == whole.keys
        np.testing.assert_allclose(ds.numpy(), whole.numpy(), atol=1e-5)
    assert verify(url).ok
    assert verify(f"{memory_box}/merged").complete


def test_a_damaged_shard(memory_box: str, pictures: Path, local: Path) -> None:
    url = compute(pictures, f"{memory_box}/damaged")
    shard, marker = urls.folder(url) / "shards" / "part-000001.parquet", urls.folder(url) / "markers" / "000001.json"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    publish.publish_bytes(shard, bytes(data))
    publish.publish_bytes(urls.folder(url) / "notes.txt", b"mine")
    found = verify(url)
    assert [problem.path for problem in found.problems] == ["shards/part-000001.parquet"]
    assert "delete markers/000001.json and run the same" in found.problems[0].repair
    assert [note.path for note in found.notes] == ["notes.txt"]
    marker.unlink()
    assert status(url).leftovers == ("notes.txt", "shards/part-000001.parquet")
    compute(pictures, url)
    assert shards(url) == shards(local)


def test_a_loader_with_processes(s3_box: str, pictures: Path, local: Path) -> None:
    """Forked ones too, though fsspec's connections do not outlive a fork."""
    ds = SaliencyDataset(compute(pictures, f"{s3_box}/loader"))
    ds.numpy()  # connected already
    for context in ("fork", "spawn"):
        loaded = DataLoader(ds, batch_size=4, num_workers=2, multiprocessing_context=context)
        maps = np.concatenate([batch.maps["mtsm/features"].numpy() for batch in loaded])
        assert np.array_equal(maps, SaliencyDataset(local).numpy(), equal_nan=True)


def test_what_cannot_be_reached(s3_box: str, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (("status", "s3://box/none"), ("verify", "s3://nobox/none"), ("report", "memory://none")):
        done = tsm_fast(*command)
        assert done.exit_code == 1
        assert done.stderr == f"tsm-fast: {command[1]}: holds no run (no run.json)\n"
    done = tsm_fast(*arguments(pictures, "s3://nobox/run"))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == "tsm-fast: s3://nobox/run/run.json: The specified bucket does not exist"
    done = tsm_fast("status", "nonsense://a/b")
    assert (done.exit_code, done.stderr) == (1, "tsm-fast: 'nonsense://a/b/run.json': Protocol not known: nonsense\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()
    done = tsm_fast("status", "s3://box/run")
    assert done.exit_code == 1
    assert done.stderr.startswith("tsm-fast: s3://box/run/run.json: ")
    assert "127.0.0.1:9" in done.stderr
    fsspec.filesystem("s3").clear_instance_cache()


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert urls.folder(f"file://{tmp_path}/a b") == tmp_path / "a b"
    assert urls.folder("some/where") == Path("some/where")
    assert urls.folder(urls.folder("s3://a/b")) == urls.folder("s3://a/b/")
    with pytest.raises(ValueError, match=r"a URL must be given as text, got PosixPath\('s3:/a/b'\)"):
        urls.folder(Path("s3://a/b"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "a").mkdir(parents=True)
    assert urls.folder(Path("s3:/a/b")) == Path("s3:/a/b")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        package.SaliencyDataset("memory://nothing")
