"""A file is there whole or not at all; what killed writers leave is removed, what living ones write is not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tsm_fast.pipeline import OutOfSpace
from tsm_fast.pipeline.files import publish

WRITER = """
import sys, time
from pathlib import Path
from tsm_fast.pipeline.files import publish
with publish.publishing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "part-000001.parquet"
    with publish.publishing(path) as file:
        file.write(b"first")
        file.flush()
        assert not path.exists()
        (temporary,) = names(tmp_path)
        assert temporary.startswith(".part-000001.parquet.")
    assert path.read_bytes() == b"first"
    publish.publish_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert names(tmp_path) == [path.name]
    assert publish.sha256(path) == hashlib.sha256(b"second").hexdigest()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_an_exception(error: type[BaseException], tmp_path: Path) -> None:
    publish.publish_bytes(tmp_path / "a", b"old")

    def fail() -> None:
        with publish.publishing(tmp_path / "a") as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    publish.publish_json(tmp_path / "run.json", {"name": "café"}, replace=False)
    with pytest.raises(FileExistsError):
        publish.publish_json(tmp_path / "run.json", {}, replace=False)
    assert json.loads((tmp_path / "run.json").read_text()) == {"name": "café"}
    assert names(tmp_path) == ["run.json"]


def at_once(path: Path) -> list[int]:
    """Which of eight threads took a name: each writes a thousand times its number."""
    won, start = list[int](), threading.Barrier(8)

    def write(number: int) -> None:
        start.wait()
        try:
            publish.publish_bytes(path, bytes([number]) * 1000, replace=False)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_of_many_at_once_one_takes_the_name(tmp_path: Path) -> None:
    won = at_once(tmp_path / "run.json")
    assert (tmp_path / "run.json").read_bytes() == bytes(won) * 1000
    assert names(tmp_path) == ["run.json"]


def test_clean_removes_what_a_killed_writer_left_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "part-000007.parquet"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
        (tmp_path / ".notes.tmp").write_text("not ours")
        assert publish.clean(tmp_path) == 0  # both are at work
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        assert len(names(tmp_path)) == 3
        assert publish.clean(tmp_path, "part-000008.parquet") == 0
        assert publish.clean(tmp_path, path.name) == 1
        writers[1].send_signal(signal.SIGKILL)
        writers[1].wait()
        assert publish.clean(tmp_path) == 1
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert names(tmp_path) == [".notes.tmp"]


def test_clean_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert publish.clean(tmp_path / "none") == 0


def test_a_writer_whose_file_was_removed_before_it_was_locked_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, removed = publish._lock, []

    def slow(descriptor: int) -> bool:
        if not removed:
            removed.append(publish.clean(tmp_path))  # the moment between making a file and locking it
        return lock(descriptor)

    monkeypatch.setattr(publish, "_lock", slow)
    publish.publish_bytes(tmp_path / "a", b"whole")
    assert removed == [1]
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert names(tmp_path) == ["a"]


def test_where_there_are_no_locks_age_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(publish.fcntl, "flock", refuse)
    publish.publish_bytes(tmp_path / "a", b"whole")
    for name in (".b.0123456789ab.tmp", ".c.0123456789ab.tmp"):
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / ".b.0123456789ab.tmp", (0, 0))
    assert publish.clean(tmp_path) == 1
    assert names(tmp_path) == [".c.0123456789ab.tmp", "a"]


def test_a_taken_name_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links")

    monkeypatch.setattr(os, "link", refuse)
    publish.publish_bytes(tmp_path / "a", b"1", replace=False)
    with pytest.raises(FileExistsError):
        publish.publish_bytes(tmp_path / "a", b"2", replace=False)
    assert (tmp_path / "a").read_bytes() == b"1"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_has_its_own_error(tmp_path: Path) -> None:
    def fill() -> None:
        with publish.publishing(tmp_path / "a"), open("/dev/full", "wb") as full:
            full.write(b"x" * 100_000)

    with pytest.raises(OutOfSpace, match="the disk is full: nothing half-written is left"):
        fill()
    assert names(tmp_path) == []


# Several files, and folders


def test_files_are_written_whole(tmp_path: Path) -> None:
    paths = publish.publish_all(tmp_path, {"a.bin": bytes(9), "b.txt": b"text"})
    assert paths == [tmp_path / "a.bin", tmp_path / "b.txt"]
    assert [path.read_bytes() for path in paths] == [bytes(9), b"text"]
    assert publish.publish_all(tmp_path, {"b.txt": b"new"}) == [tmp_path / "b.txt"]
    assert (tmp_path / "b.txt").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.txt"]
    assert (tmp_path / "b.txt").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_nothing_is_replaced_when_one_file_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("old")
    (tmp_path / "second").mkdir()
    with pytest.raises(IsADirectoryError, match="second"):
        publish.publish_all(tmp_path, {"first": b"new", "second": b"new"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    assert (tmp_path / "first").read_text() == "old"


def test_nothing_is_replaced_when_the_disk_is_full(tmp_path: Path) -> None:
    """A real write error, from a process that may write no file over 4 kB."""
    (tmp_path / "small").write_text("old")
    program = (
        "import sys; from pathlib import Path; from tsm_fast.pipeline.files import publish\n"
        "publish.publish_all(Path(sys.argv[1]), {'small': b'new', 'large': bytes(100_000)})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        cwd=Path(publish.__file__).parents[3],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert (tmp_path / "small").read_text() == "old"


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    publish.make_folder(tmp_path / "a" / "b")
    publish.make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        publish.make_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        publish.make_folder(tmp_path / "file" / "below")
    with pytest.raises(OSError, match="/proc"):
        publish.make_folder(Path("/proc/tsm_fast_demo"))


def test_a_folder_is_replaced_at_the_end_and_whole(tmp_path: Path) -> None:
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "old").touch()

    def give_up_half_way() -> None:
        with publish.replacing(dest, replace=True) as folder:
            folder.mkdir()
            publish.make_folder(tmp_path)  # somebody else cleans up meanwhile
            assert folder.is_dir()
            raise RuntimeError("half-way")

    with pytest.raises(FileExistsError, match="exists already"), publish.replacing(dest, replace=False):
        pass
    with pytest.raises(RuntimeError, match="half-way"):
        give_up_half_way()
    assert [path.name for path in dest.iterdir()] == ["old"]
    with publish.replacing(dest, replace=True) as folder:
        folder.mkdir()
        (folder / "new").touch()
        assert [path.name for path in dest.iterdir()] == ["old"]
    assert [path.name for path in dest.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [dest]
