"""SIGINT and SIGTERM to real processes of the command, a full disk, and a folder that cannot be written to."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tsm_fast.pipeline.engines.run import run

from ..processes import (
    SHARD,
    SHARDS,
    arguments,
    children,
    end,
    expected,
    hashes,
    leftovers,
    markers,
    needs_photos,
    photos,
    plan,
    start,
    tsm_fast,
    wait_for,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("signum", "workers", "to_all"),
    [(signal.SIGINT, 2, True), (signal.SIGTERM, 0, False)],
    ids=["Ctrl-C with workers", "SIGTERM without"],
)
def test_a_signal_stops_in_order(tmp_path: Path, signum: int, workers: int, to_all: bool) -> None:
    needs_photos()
    out = tmp_path / "a folder"
    process = start(arguments(out, "--workers", workers))
    wait_for(lambda: markers(out) > 0, process)
    own = children(process.pid)
    assert len(own) == workers
    os.killpg(process.pid, signum) if to_all else process.send_signal(signum)
    code, text, talk = end(process)
    assert code == 128 + signum
    assert f"{signal.Signals(signum).name}: stopping after the micro-batch; once more stops at once" in talk
    last = talk.splitlines()[-1]
    assert last.startswith(f"tsm-fast: go on with the same command: tsm-fast extract {photos()} --out '{out}'")
    assert "Traceback" not in talk
    assert f"of {SHARDS} shards" in text
    assert not any(Path(f"/proc/{worker}").exists() for worker in own)
    assert 1 <= markers(out) < SHARDS
    assert leftovers(out) == []
    assert run(plan(out), workers=0).code == 0
    assert hashes(out) == expected()


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    needs_photos()
    process = start(arguments(tmp_path, "--workers", 1))
    wait_for(lambda: markers(tmp_path) > 0, process)
    own = children(process.pid)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    code, _, talk = end(process)
    # Two signals that are pending together are handled in the order of their numbers.
    assert code in (130, 143)
    assert "stopped at once" in talk
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in own))
    assert run(plan(tmp_path), workers=0).code == 0
    assert hashes(tmp_path) == expected()
    assert leftovers(tmp_path) == []


def test_a_signal_before_the_first_shard(tmp_path: Path) -> None:
    needs_photos()
    process = start(arguments(tmp_path / "out", "--workers", 0))
    assert process.stderr is not None
    assert "listing" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    code, text, talk = end(process)
    assert (code, text) == (143, "")
    assert "SIGTERM: stopped while there was nothing to finish" in talk
    assert "Traceback" not in talk
    assert not (tmp_path / "out").exists() or leftovers(tmp_path / "out") == []


def test_ctrl_c_while_workers_start(tmp_path: Path) -> None:
    needs_photos()
    process = start(arguments(tmp_path, "--workers", 1))
    wait_for(lambda: len(children(process.pid)) == 1, process)
    time.sleep(0.3)  # they import
    os.killpg(process.pid, signal.SIGINT)
    code, _, talk = end(process)
    assert code == 130
    assert "Traceback" not in talk
    assert "go on with the same command" in talk
    assert leftovers(tmp_path) == []


def test_workers_do_not_outlive_the_run(tmp_path: Path) -> None:
    needs_photos()
    process = start(arguments(tmp_path, "--workers", 1))
    wait_for(lambda: len(children(process.pid)) == 1, process)
    own = children(process.pid)
    process.kill()
    end(process)
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in own))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    needs_photos()
    out = small_disk / "out"
    run_ = plan(out)
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 24_000))
    stopped = run(run_, workers=0)
    assert stopped.code == 1
    assert "the disk is full" in stopped.reason
    assert "go on with the same command" in stopped.reason
    assert leftovers(out) == []
    assert 0 < len(hashes(out)) < SHARDS
    assert (stopped.images, stopped.computed) == (markers(out) * SHARD, markers(out) * SHARD)  # what is on the disk
    (small_disk / "other").unlink()
    assert run(plan(out), workers=0).code == 0
    assert hashes(out) == expected()


def test_a_disk_that_is_too_small(small_disk: Path) -> None:
    needs_photos()
    (small_disk / "other").write_bytes(bytes(shutil.disk_usage(small_disk).free - 4_096))
    done = tsm_fast(*arguments(small_disk / "out", "--workers", 0))
    assert (done.exit_code, done.stdout) == (1, "")
    assert "MB are free: make room" in done.stderr


def test_a_read_only_folder(tmp_path: Path) -> None:
    needs_photos()
    folder = tmp_path / "folder"
    folder.mkdir()
    mounted = False
    if os.geteuid() == 0:  # root writes wherever the file system lets it
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True)
        mounted = os.path.ismount(folder)
        if not mounted:
            pytest.skip("as root, a read-only folder needs a mount, which is not allowed here")
    else:
        folder.chmod(0o555)
    try:
        done = tsm_fast(*arguments(folder / "out", "--workers", 0))
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] in {
        f"tsm-fast: {folder / 'out'}: {why}" for why in ("Read-only file system", "Permission denied")
    }
