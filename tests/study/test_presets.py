"""Presets: several published networks in one study, from weights that lie in torch.hub's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tsm_fast.cli import app
from tsm_fast.models import published
from tsm_fast.study import presets

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_network")]


def unreachable(*_: object, **__: object) -> None:
    raise URLError("Name or service not known")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_paper() -> None:
    """The networks that the paper names, each as it is loaded and scored."""
    entries = presets.PRESETS["paper"]
    assert list(entries)[:3] == ["supervised", "moco-v2", "swav"]
    assert {"dino", "barlow-twins", "vicreg", "vicregl", "vicregl-convnext"} < set(entries)
    for name, entry in entries.items():
        assert entry.score == ("class" if name == "supervised" else "embedding")
        assert entry.layer in dict(published.PUBLISHED[name].network().named_modules())


def test_study(hub: Path, photos: dict[str, Image.Image], tmp_path: Path) -> None:
    """Two networks, with weights in the layouts of their authors: a study of each, and their contrast."""
    torch.manual_seed(0)
    torch.save(published.ResNet50(1000).state_dict(), hub / published.PUBLISHED["supervised"].file)
    encoder = {f"module.encoder_q.{name}": value for name, value in published.ResNet50().state_dict().items()}
    torch.save({"epoch": 800, "arch": "resnet50", "state_dict": encoder}, hub / published.PUBLISHED["moco-v2"].file)
    (tmp_path / "photos").mkdir()
    for name, photo in list(photos.items())[:3]:
        photo.save(tmp_path / "photos" / f"{name}.png")
    said: list[object] = []
    options: dict[str, Any] = {"maps": ["tsm"], "metrics": ["stability"], "faithful_images": 1, "size": (64, 64)}
    found = presets.study(
        "paper",
        str(tmp_path / "photos"),
        tmp_path / "out",
        networks=["supervised", "moco-v2"],
        say=said.append,
        **options,
    )
    assert list(found.studies) == ["supervised", "moco-v2"]
    assert said == ["study of ResNet-50, supervised", "study of ResNet-50, MoCo v2 (800 epochs)"]
    assert found.studies["moco-v2"].layers == ["layer4"]
    assert (tmp_path / "out" / "index.html").is_file()


def test_weights_are_looked_for_first(hub: Path, tmp_path: Path) -> None:
    """All of them, before any network is studied; the command says it in a line."""
    with pytest.raises(ConnectionError, match="published:supervised needs the weights at"):
        presets.study("paper", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, ["study", str(tmp_path), "--preset", "paper", "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert str(hub / "resnet50-0676ba61.pth") in done.output.replace("\n", "")


def test_unknown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="preset must be one of paper, got 'papers'"):
        presets.study("papers", tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match=r"network must be one of supervised, .*, got 'moco'$"):
        presets.study("paper", tmp_path, tmp_path / "out", networks=["moco", "dino"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["pictures"], "needs SOURCE and --out"),
        (["pictures", "--testbed"], "SOURCE does not go with --testbed"),
        (["--testbed", "--model", "lite0"], "--model does not go with --testbed"),
        (["pictures", "--preset", "paper", "--weights", "w.pt"], "--weights does not go with --preset"),
        (["pictures", "--preset", "papers"], "preset must be one of paper, got 'papers'"),
        (["pictures", "--preset", "paper", "--network", "moco"], "network must be one of supervised, moco-v2,"),
        (["pictures", "--network", "dino"], "--network goes with --preset only"),
        (["pictures", "--seeds", "5"], "--seeds goes with --testbed only"),
        (["pictures", "--metrics", "auc"], "metrics must be one of 'localisation', 'faithfulness'"),
        (["pictures", "--score", "logit"], "score must be one of 'class', 'embedding', got 'logit'"),
    ],
)
def test_usage_errors(arguments: list[str], text: str, tmp_path: Path) -> None:
    out = [] if arguments == ["pictures"] else ["--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["study", *arguments, *out])
    assert done.exit_code == 2
    assert text in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()
