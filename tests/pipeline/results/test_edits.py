"""Two hundred random edits of run.json, of the plan and of markers: refused, harmless, or found by `verify`."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsm_fast import SaliencyDataset
from tsm_fast.pipeline.files.record import seal

from ..processes import tsm_fast
from ..small_run import extract, write_few

pytestmark = pytest.mark.slow

EDITS = 200
SPITE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 10**15, 10**40, 1.5, -0.0, "", "x", "trap:make", "../..", "/", "\0", "0" * 64),
    *([], {}, [1], [[]], ["trap:make"], {"trap:make": {}}, {"kind": "factory", "root": "trap:make"}, "hf:trap", "é\n"),
)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of twelve pictures in three shards, the last of which is not computed."""
    base = tmp_path_factory.mktemp("edits")
    write_few(base / "pictures", 12)
    (base / "edit_net.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(base)
        extract(base / "whole", base / "pictures", **OPTIONS)
        shutil.copytree(base / "whole", base / "maps")
        (base / "maps" / "markers" / "000002.json").unlink()
        (base / "maps" / "shards" / "part-000002.parquet").unlink()
        yield base


OPTIONS: dict[str, Any] = {"model": "edit_net:make", "methods": ("mtsm",), "layers": ("stem",), "size": (64, 64)}
OPTIONS |= {"shard_size": 4, "batch_size": 4}
COMMAND = ("--model", "edit_net:make", "--layer", "stem", "--size", "64", "--shard-size", 4, "--batch-size", 4)
COMMAND += ("--workers", 0, "--max-errors", 1, "--no-report")
NET = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    parts = {"stem": nn.Conv2d(3, 32, 3, stride=16), "pool": nn.AdaptiveAvgPool2d(1)}
    net = nn.Sequential()
    for name, part in parts.items():
        net.add_module(name, part)
    return net
"""


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that a file may name, and that nobody may import."""
    (tmp_path / "trap.py").write_text("raise SystemError('code that a file named was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert "trap" not in sys.modules


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to everything in a JSON value."""
    if path:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield from places(entry, (*path, key))


def edit_json(path: Path, draw: random.Random, *, forge: bool = False) -> str:
    """Change, remove, rename or add one thing; `forge` makes the hashes of a run.json right again."""
    values = json.loads(path.read_bytes())
    way = draw.choice(list(places(values)))
    above = values
    for key in way[:-1]:
        above = above[key]
    what = draw.choice(("change", "change", "change", "remove", "add", "other number"))
    old = above[way[-1]]
    if what == "remove":
        del above[way[-1]]
    elif what == "add" and isinstance(above, dict):
        above[draw.choice(("more", "version", "fingerprint", "trap:make"))] = draw.choice(SPITE)
    elif what == "other number" and type(old) in (int, float):
        above[way[-1]] = old + draw.choice((-1, 1, 1000))
    else:
        above[way[-1]] = draw.choice(SPITE)
    if forge and "record" in values:
        values.update(seal(values))
    path.write_text(json.dumps(values))
    return f"{path.name} {way} {what}{' forged' * forge}"


def edit_plan(path: Path, draw: random.Random) -> str:
    """Change values of a column, its type or its name, leave rows or columns out, or flip a byte."""
    plan = pq.read_table(path)
    name, row = draw.choice(plan.schema.names), draw.randrange(plan.num_rows)
    place, values = plan.schema.names.index(name), plan[name].to_pylist()
    what = draw.choice(("value", "value", "value", "type", "name", "rows", "order", "column", "byte"))
    if what == "value":
        values[row] = draw.choice(("x", "../x", "0")) if plan.schema.field(name).type == pa.string() else row + 5
        plan = plan.set_column(place, plan.schema.field(name), pa.array(values, plan.schema.field(name).type))
    elif what == "type":
        plan = plan.set_column(place, name, pa.array([[1]] * plan.num_rows))
    elif what == "name":
        plan = plan.rename_columns([other if other != name else "else" for other in plan.schema.names])
    elif what == "rows":
        plan = plan.slice(1)
    elif what == "order":
        plan = plan.take(pa.array(draw.sample(range(plan.num_rows), plan.num_rows)))
    elif what == "column":
        plan = plan.drop_columns(name)
    if what == "byte":
        data = bytearray(path.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    else:
        pq.write_table(plan, path, row_group_size=4)
    return f"plan {name} {what}"


def edits(out: Path) -> list[Callable[[random.Random], str]]:
    return [
        lambda draw: edit_json(out / "run.json", draw),
        lambda draw: edit_json(out / "run.json", draw, forge=True),
        lambda draw: edit_json(out / "markers" / f"00000{draw.randrange(2)}.json", draw),
        lambda draw: edit_plan(out / "plan.parquet", draw),
    ]


def run(*command: object) -> Any:
    """A command that may fail, in a line and not with a traceback."""
    done = tsm_fast(*map(str, command))
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    if done.exit_code:
        assert done.stderr.startswith("tsm-fast: ")
    return done


@pytest.mark.usefixtures("trap")
@pytest.mark.parametrize("part", range(4))
def test_edits(part: int, computed: Path, tmp_path: Path) -> None:
    right = SaliencyDataset(computed / "whole")
    counts = {"refused": 0, "found": 0, "harmless": 0}
    for number in range(EDITS // 4):
        draw = random.Random(1000 * part + number)
        out = tmp_path / f"out {number}"
        shutil.copytree(computed / "maps", out)
        told = edits(out)[part](draw)
        status, found = run("status", out), run("verify", out, "--json")
        problems = found.stdout and json.loads(found.stdout)["problems"]
        run("report", out)
        run("export", out, tmp_path / f"npy {number}", "--to", "npy", "--missing", "nan")
        gone_on = run("extract", computed / "pictures", "--out", out, *COMMAND)
        if gone_on.exit_code or status.exit_code:
            counts["refused"] += 1
            continue
        if problems:
            counts["found"] += 1
        else:
            counts["harmless"] += 1
        after = run("verify", out, "--json", computed / "pictures")
        if not json.loads(after.stdout)["problems"]:  # else it is still found
            again = SaliencyDataset(out)
            assert again.keys == right.keys, told
            np.testing.assert_array_equal(again.numpy(), right.numpy(), err_msg=told)
        shutil.rmtree(out)
    assert counts["refused"] + counts["found"] > 10, counts
