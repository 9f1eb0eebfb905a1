"""Runs of networks whose layers give tokens or `[B, H, W, C]`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import tsm_fast
from tsm_fast import SaliencyExtractor, cli
from tsm_fast.models.forward import Forward
from tsm_fast.models.preprocessing import Resize
from tsm_fast.pipeline import Settings

from ..test_extractor import Patches

SIZE = (64, 96)


def vit() -> nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs the extra dev")
    torch.manual_seed(0)
    small = {"num_hidden_layers": 1, "hidden_size": 48, "num_attention_heads": 2, "intermediate_size": 48}
    return transformers.ViTModel(transformers.ViTConfig(**small, image_size=SIZE)).eval()


def patches() -> nn.Module:
    torch.manual_seed(0)
    return Patches().eval()


def to_maps(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].mT.unflatten(2, (4, 6))


def expected(model: nn.Module, folder: Path, reshape: str | None = None) -> np.ndarray:
    paths = sorted(path for path in folder.rglob("*.*") if path.suffix in (".jpg", ".png") and path.name[0] != ".")
    extract = SaliencyExtractor(model, transform=Resize(SIZE), reshape_transform=reshape, normalize=False)  # type: ignore[arg-type]
    return extract(paths).numpy()


def test_a_vision_transformer_is_read_by_itself(folder: Path, tmp_path: Path) -> None:
    found = tsm_fast.extract(folder, tmp_path / "out", model=vit(), maps="tsm", size=SIZE)
    assert found.columns == ["tsm/layernorm"]
    maps = found.numpy("tsm/layernorm")
    np.testing.assert_allclose(maps, expected(vit(), folder), rtol=1e-3, atol=1e-4)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["record"]["reshape"] == "auto"
    assert "read as 1 + 4 x 6 tokens" in record["about"]["reason"]


def test_declared_tokens_and_a_function(folder: Path, tmp_path: Path) -> None:
    wanted = expected(patches(), folder, "tokens")
    for name, reshape in (("one", "tokens"), ("two", f"{__name__}:to_maps")):
        options = {"model": patches(), "layers": ["block"], "maps": "tsm", "size": SIZE, "reshape": reshape}
        found = tsm_fast.extract(folder, tmp_path / name, **options)
        np.testing.assert_allclose(found.numpy("tsm/block"), wanted, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="other settings: reshape"):
        tsm_fast.extract(folder, tmp_path / "one", **options)


def test_a_function_in_a_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        f"from {__name__} import patches\n\ndef to_maps(tokens):\n    return tokens[:, 1:].mT.unflatten(2, (4, 6))\n"
    )
    options = ["--model", "own.py:patches", "--layer", "block", "--size", "64x96", "--map", "tsm", "--workers", "0"]
    command = ["extract", str(folder), "--out", "out", *options, "--reshape"]
    done = CliRunner().invoke(cli.app, [*command, "own.py:to_maps"])
    assert done.exit_code == 0, done.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["record"]["reshape"] == "own.py:to_maps"
    assert tsm_fast.SaliencyDataset(tmp_path / "out").numpy("tsm/block").shape == (20, 4, 6)
    for wrong, text in (
        ("own.py:to_map", "reshape 'own.py:to_map': file 'own.py' has no function 'to_map'; did you mean 'to_maps'?"),
        ("token", "reshape must be auto, tokens, nhwc, package.module:function or file.py:function, got 'token'"),
    ):
        failed = CliRunner().invoke(cli.app, [*command, wrong])
        assert failed.exit_code in (1, 2)
        assert failed.stderr.splitlines()[-1] == f"tsm-fast: {text}"


def test_layers_of_a_vision_transformer_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vit()
    done = CliRunner().invoke(cli.app, ["layers", f"{__name__}:vit", "--size", "64x96"])
    assert done.exit_code == 0, done.stderr
    rows = [line.split(None, 3) for line in done.stdout.splitlines() if line.startswith("* ")]
    assert rows[0] == ["*", "layernorm", "LayerNorm", "48x4x6 (1 + 4 x 6 tokens)"]
    listed = CliRunner().invoke(cli.app, ["layers", f"{__name__}:vit", "--size", "64x96", "--json"])
    found = json.loads(listed.stdout)
    assert {"name": "layernorm", "kind": "LayerNorm", "shape": [48, 4, 6], "layout": "1 + 4 x 6 tokens"} in found[
        "layers"
    ]


def test_compiled_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled(function, backend="eager"))
    model, images = vit(), torch.rand(3, 3, *SIZE)
    wanted = SaliencyExtractor(vit(), "layernorm").features(images)
    made = Forward(SaliencyExtractor(model, "layernorm"), model, compile=True)(images, 4)
    torch.testing.assert_close(dict(made), wanted)


def test_bad_reshapes() -> None:
    for wrong in ("token", 3, ""):
        with pytest.raises(ValueError, match=r"reshape must be auto, tokens, nhwc, .* got"):
            Settings("photos", reshape=wrong)  # type: ignore[arg-type]
