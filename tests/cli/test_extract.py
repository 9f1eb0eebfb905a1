"""`tsm-fast extract` and the commands about its folder: options, files of options, what they print, and exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tsm_fast import SaliencyDataset

from ..pipeline.processes import (
    SHARD,
    SHARDS,
    arguments,
    expected,
    hashes,
    needs_photos,
    photos,
    tsm_fast,
)

pytestmark = pytest.mark.slow


def test_from_nothing_to_the_maps_and_again(tmp_path: Path) -> None:
    needs_photos()
    out = tmp_path / "out"
    planned = tsm_fast(*arguments(out, "--dry-run", "--json"))
    assert planned.exit_code == 0, planned.stderr
    facts = json.loads(planned.stdout)
    assert not out.exists()
    assert (facts["images"], facts["shards"], facts["shards_done"]) == (SHARDS * SHARD, SHARDS, 0)
    assert facts["columns"] == {"tsm/features": [7, 7], "mtsm/features": [7, 7]}
    assert facts["layers_reason"].startswith("the last module before the global pooling")
    assert facts["seconds"] > 0
    assert facts["bytes"] < facts["bytes_free"]

    done = tsm_fast(*arguments(out, "--workers", 0, "--json"))
    assert done.exit_code == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["code"], outcome["complete"], outcome["errors"]) == (0, True, 0)
    assert (outcome["computed"], outcome["shards_done"]) == (SHARDS * SHARD, SHARDS)
    assert outcome["fingerprint"] == facts["fingerprint"]
    assert set(outcome["stages"]) >= {"read", "forward", "decomposition"}
    assert hashes(out) == expected()
    size = sum(path.stat().st_size for path in (out / "shards").iterdir())
    assert 0.3 < size / facts["bytes"] < 3 * SHARDS  # tiny shards are mostly their own frame

    again = tsm_fast(*arguments(out, "--workers", 0))
    assert (again.exit_code, "nothing was left to compute" in again.stdout) == (0, True)
    assert "already complete" in again.stderr
    refused = tsm_fast(*arguments(out, "--workers", 0, "--no-resume"))
    assert (refused.exit_code, "holds a run already" in refused.stderr) == (1, True)
    planned = tsm_fast(*arguments(out, "--dry-run"))
    assert f"{SHARDS} of them done" in planned.stdout
    assert "about 0s for 0 images" in planned.stdout

    check_reading(out, tmp_path)
    other = tsm_fast(*arguments(out, "--workers", 0, "--rank", "8,4,4"))
    assert other.exit_code == 1
    assert "holds a run with other settings" in other.stderr
    assert "rank" in other.stderr


def check_reading(out: Path, folder: Path) -> None:
    """status, verify, report and export of a finished run; then with a bit flipped in a shard."""
    status = tsm_fast("status", out)
    assert (status.exit_code, "complete" in status.stdout, f"{SHARDS} of {SHARDS}" in status.stdout) == (0, True, True)
    assert json.loads(tsm_fast("status", out, "--json").stdout)["complete"] is True
    verified = tsm_fast("verify", out)
    assert (verified.exit_code, "right" in verified.stdout) == (0, True)
    report = tsm_fast("report", out)
    assert (report.exit_code, report.stdout) == (0, f"wrote {out / 'report.html'}\n")
    exported = tsm_fast("export", out, folder / "maps", "--to", "npy", "--size", "14x14", "--column", "tsm/*")
    assert exported.exit_code == 0, exported.stderr
    assert (folder / "maps" / "tsm-features.npy").exists()
    again = tsm_fast("export", out, folder / "maps", "--to", "npy")
    assert again.exit_code == 1
    assert again.stderr == f"tsm-fast: {folder / 'maps'}: exists already; give another name, or --overwrite\n"
    assert tsm_fast("export", out, folder / "x", "--to", "csv").exit_code == 1

    shard = out / "shards" / "part-000001.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    damaged = tsm_fast("verify", out)
    assert damaged.exit_code == 1
    assert "part-000001.parquet SHA-256 must be" in damaged.stderr
    shard.write_bytes(whole)
    (out / "markers" / "000001.json").unlink()
    assert "1 shard is not computed yet" in tsm_fast("verify", out).stderr
    assert tsm_fast("verify", out, "--json").exit_code == 1
    unfinished = tsm_fast("export", out, folder / "half", "--to", "npy")
    assert unfinished.exit_code == 1
    assert unfinished.stderr == (
        f"tsm-fast: rows {SHARD}..{2 * SHARD - 1} of {out} are not computed yet (shard 1; {SHARDS - 1} of {SHARDS} "
        "shards are done): run the same `tsm-fast extract` command again, or leave them out with --missing skip, or "
        "take maps of NaN with --missing nan\n"
    )
    assert not (folder / "half").exists()
    assert tsm_fast("export", out, folder / "half", "--to", "npy", "--missing", "skip").exit_code == 0


def test_options_from_a_file(tmp_path: Path) -> None:
    needs_photos()
    config = tmp_path / "run.yaml"
    config.write_text(
        f"source: {photos()}\nout: {tmp_path / 'out'}\nmethod: [tsm, mtsm]\nlayer: features\nrank: [8, 4, 4]\n"
        "shard_size: 4\nbatch-size: 4\nworkers: 0\nlimit: 8\nmax-errors: 2%\n"
    )
    done = tsm_fast("extract", "--config", config, "--limit", 4, "--method", "mtsm", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 4
    record = json.loads((tmp_path / "out" / "run.json").read_text())["record"]
    assert (list(record["methods"]), record["layers"]) == (["mtsm"], ["features"])
    assert record["methods"]["mtsm"]["rank"] == [8, 4, 4]
    assert (record["shard_size"], record["source"]["items"]) == (4, 4)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("shard-sise: 4", "has an option 'shard-sise' that `extract` has not; close names: shard-size"),
        ("nonsense: 4", "has an option 'nonsense' that `extract` has not; it has add, autocast, backend, "),
        ("shard-size: many", "Invalid value for '--shard-size'"),
        ("max-errors: 2", "must be a share such as 0.01 or 1%, got '2'"),
        ("- a list", "must hold names and values, got list"),
        ("a: [", "is no YAML"),
        ("config: other.yaml", "has an option 'config'"),
    ],
)
def test_bad_files_of_options(tmp_path: Path, text: str, complaint: str) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(text)
    done = tsm_fast("extract", "source", "--out", tmp_path / "out", "--config", config)
    assert (done.exit_code, done.stdout) == (2, "")
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--method", "gradcam"], "methods must be one of"),
        (["--rank", "8,x"], "must be a number, or one for each mode"),
        (["--size", "7x7x7"], "must be a number of pixels, or HEIGHTxWIDTH"),
        (["--engine", "spark"], "must be one of local, rank, ray, got 'spark'"),
        (["--dtype", "int3"], "dtype must be one of"),
        (["--max-errors", "101%"], "must be a share"),
        (["--workers", "-1"], "Invalid value for '--workers'"),
        (["--center", "--method", "tsm"], "center is an option of eigencam"),
        (["--shard-timeout", "0"], "shard_timeout must be a positive number"),
        (["--config", "missing.yaml"], "does not exist"),
    ],
)
def test_wrong_options_are_2(tmp_path: Path, options: list[str], complaint: str) -> None:
    done = tsm_fast("extract", "source", "--out", tmp_path / "out", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_1(tmp_path: Path) -> None:
    needs_photos()
    (tmp_path / "empty").mkdir()
    pickled = tmp_path / "model.pt"
    pickled.touch()
    out = tmp_path / "out"
    for command, complaint in (
        (["extract", tmp_path / "nowhere", "--out", out], "nowhere"),
        (["extract", tmp_path / "empty", "--out", out], "empty"),
        (["extract", photos(), "--out", out, "--layer", "featurs"], "close names: 'features'"),
        (["extract", photos(), "--out", out, "--model", "lite1"], "model must be lite0"),
        (["status", tmp_path], "holds no run"),
        (["layers", "resnet"], "model must be lite0"),
        (["layers", pickled], "pass --trust-model-code if you know where it comes from"),
    ):
        done = tsm_fast(*command)
        assert (done.exit_code, done.stdout) == (1, ""), command
        assert complaint in done.stderr.splitlines()[-1]
        assert not out.exists()


def test_some_of_a_source_and_what_is_left_out_of_it(tmp_path: Path) -> None:
    needs_photos()
    source = tmp_path / "source"
    source.mkdir()
    for number, path in enumerate(sorted(photos().rglob("*.jpg"))[:8]):
        (source / f"{number}.jpg").write_bytes(path.read_bytes())
    (source / "notes.txt").write_text("none")
    (tmp_path / "keys.txt").write_text("1.jpg\n3.jpg\n5.jpg\n7.jpg\n")
    command = ("extract", source, "--out", tmp_path / "out", "--filter", "[0-5].jpg", "--keys", tmp_path / "keys.txt")
    done = tsm_fast(*command, "--workers", 0, "--json")
    assert (done.exit_code, json.loads(done.stdout)["rows"]) == (0, 3), done.stderr
    assert "tsm-fast: left out: 1 of another kind (such as 'notes.txt')\n" in done.stderr
    assert SaliencyDataset(tmp_path / "out").keys == ["1.jpg", "3.jpg", "5.jpg"]
    planned = tsm_fast(*command, "--dry-run", "--json", "--sample", 2, "--seed", 1, "--out", tmp_path / "other")
    facts = json.loads(planned.stdout)
    assert (facts["images"], facts["left_out"]) == (2, {"of another kind": 1})
    for options, complaint in (
        (("--filter", "a b/*"), "tsm-fast: --filter 'a b/*' leaves none of 8 images, such as '0.jpg'"),
        (("--keys", source / "notes.txt"), "notes.txt names 1 key that the source does not have, such as 'none'"),
        (("--keys", tmp_path / "none.txt"), f"tsm-fast: {tmp_path / 'none.txt'}: No such file or directory"),
    ):
        refused = tsm_fast("extract", source, "--out", tmp_path / "none", *options)
        assert refused.exit_code == 1
        assert complaint in refused.stderr.splitlines()[-1]


def test_model_and_dataset_from_a_file_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_photos()
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from pathlib import Path\n"
        "def network():\n"
        "    torch.manual_seed(0)\n"
        "    end = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 2)]\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 32, 9, 8), torch.nn.ReLU(), *end)\n"
        "class Pictures(list):\n"
        "    targets = [1, 0, 1, 0]\n"
        f"def pictures(): return Pictures(p.read_bytes() for p in sorted(Path({str(photos())!r}).rglob('*.jpg'))[:4])\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ("extract", "mine.py:pictures", "--model", "mine.py:network", "--out", "out", "--shard-size", 2)
    done = tsm_fast(*command, "--workers", 2)
    assert done.exit_code == 0, done.stderr
    assert SaliencyDataset("out").arrow()["label"].to_pylist() == [1, 0, 1, 0]


def test_more_errors_than_allowed_are_3(tmp_path: Path) -> None:
    needs_photos()
    source = tmp_path / "source"
    source.mkdir()
    for number, path in enumerate(sorted(photos().rglob("*.jpg"))[:8]):
        (source / f"{number}.jpg").write_bytes(path.read_bytes() if number else b"no picture")
    command = ("extract", source, "--out", tmp_path / "out", "--workers", 0, "--shard-size", 4, "--batch-size", 2)
    stopped = tsm_fast(*command)
    assert stopped.exit_code == 3
    assert "--max-errors allows 0 of 8" in stopped.stderr
    assert "go on with the same command" in stopped.stderr
    done = tsm_fast(*command, "--max-errors", "20%", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["error_kinds"] == {"format": 1}
    finished = tsm_fast(*command)
    assert finished.exit_code == 3
    assert "1 error rows are more than --max-errors allows" in finished.stderr


def test_a_failed_shard_is_told_once(tmp_path: Path) -> None:
    needs_photos()
    source = tmp_path / "source"
    source.mkdir()
    (source / "1.jpg").write_bytes(next(photos().rglob("*.jpg")).read_bytes())
    failed = tsm_fast("extract", source, "--out", tmp_path / "out", "--workers", 0, "--shard-timeout", "1e-9")
    assert failed.exit_code == 1
    assert failed.stderr.count("failed: ") == 1
    assert "tsm-fast: 1 image in 1 shard, starting" in failed.stderr
    assert "tsm-fast: 1 shard failed, for the reason above: 0\n" in failed.stderr


def test_layers() -> None:
    needs_photos()
    done = tsm_fast("layers", "lite0")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    chosen = [line.split() for line in lines if line.startswith("* ")]
    assert chosen[0] == ["*", "features", "_Features", "1280x7x7"]
    assert "is read where no layer is named: the last module before the global pooling" in lines[-1]
    found = json.loads(tsm_fast("layers", "lite0", "--json").stdout)
    assert found["chosen"] == "features"
    assert {"name": "features", "kind": "_Features", "shape": [1280, 7, 7]} in found["layers"]


def test_error_rows_are_named_reported_and_computed_again(tmp_path: Path) -> None:
    needs_photos()
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for path in sorted(photos().rglob("*.jpg"))[:12]:
        (source / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    names = sorted(path.name for path in source.iterdir())
    whole = {name: (source / name).read_bytes() for name in (names[1], names[6])}
    for name, data in whole.items():
        (source / name).write_bytes(data[:500])
    command = arguments(out, "--workers", 0, source=source)
    done = tsm_fast(*command)
    assert done.exit_code == 3
    assert f"tsm-fast: '{names[1]}': truncated: " in done.stderr
    assert "the same command with --retry-errors computes these rows again" in done.stderr
    assert names[1] in (out / "report.html").read_text()  # also of a run that stopped before its end

    again = tsm_fast(*command, "--max-errors", "20%", "--json")
    assert (again.exit_code, json.loads(again.stdout)["errors"]) == (0, 2)
    for name, data in whole.items():
        (source / name).write_bytes(data)
    other = tsm_fast(*command, "--retry-errors", "crash", "--max-errors", "20%", "--json")
    assert (other.exit_code, json.loads(other.stdout)["computed"]) == (0, 0)
    assert names[1] in other.stderr  # named, though nothing was computed
    repaired = tsm_fast(*command, "--retry-errors", "--json")
    outcome = json.loads(repaired.stdout)
    assert (repaired.exit_code, outcome["computed"], outcome["errors"]) == (0, 2, 0), repaired.stderr
    assert re.search(r"computing error rows of \d+ shards? again", repaired.stderr)
    assert tsm_fast("verify", out).exit_code == 0
    assert "truncated" not in (out / "report.html").read_text()
    assert tsm_fast(*arguments(tmp_path / "whole", "--workers", 0, source=source)).exit_code == 0
    assert hashes(out) == hashes(tmp_path / "whole")


def test_wrong_kinds_of_errors_are_2(tmp_path: Path) -> None:
    done = tsm_fast("extract", "source", "--out", tmp_path / "out", "--retry-errors=crsh")
    assert (done.exit_code, "must be one of all, missing" in done.stderr) == (2, True)


def test_shards_of_their_own_size(tmp_path: Path) -> None:
    """Chosen for the workers, kept when the run goes on, and said by --dry-run."""
    needs_photos()
    command = ["extract", photos(), "--out", tmp_path / "out", "--method", "tsm", "--size", "512"]
    planned = json.loads(tsm_fast(*command, "--limit", 40, "--workers", 2, "--dry-run", "--json").stdout)
    assert (planned["shard_size"], planned["shards"], planned["workers"]) == (32, 2, 2)
    alone = json.loads(tsm_fast(*command, "--limit", 40, "--workers", 0, "--dry-run", "--json").stdout)
    assert (alone["shard_size"], alone["shards"], alone["workers"]) == (48, 1, 1)
    done = tsm_fast(*command, "--limit", 6, "--workers", 0, "--json")
    assert (done.exit_code, json.loads(done.stdout)["shards"]) == (0, 1)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["record"]["shard_size"] == 16
    again = tsm_fast(*command, "--limit", 6, "--workers", 3, "--json")
    assert (again.exit_code, json.loads(again.stdout)["computed"]) == (0, 0)
