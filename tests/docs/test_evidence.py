"""The page on the evidence says what the kept rows say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.study import KEPT, PAGE, Evidence, difference, number, page, says
from tsm_fast.metrics import Paired


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return Evidence()


@pytest.mark.slow
def test_page(evidence: Evidence) -> None:
    """Every number and every verdict; `python -m benchmarks.study` writes it anew."""
    assert PAGE.read_text() == page(evidence)


def test_rows(evidence: Evidence) -> None:
    """A row an image and map; the mask and the uniform map have what they must have."""
    for network in evidence.networks:
        images = evidence.about["studies"][network]["images"]
        assert len(evidence.part(network, "tsm")) == images
        assert np.nanmax(np.abs(evidence.values(network, "roc_auc", "mask") - 1)) < 1e-3
        assert np.nanmax(np.abs(evidence.values(network, "roc_auc", "uniform") - 0.5)) < 1e-3
        drop = evidence.values(network, "drop", "uniform")
        assert np.abs(drop[np.isfinite(drop)]).max(initial=0) < 1e-3
        faithful = evidence.about["studies"][network]["faithful_images"]
        assert np.count_nonzero(np.isfinite(drop)) in (0, faithful)
    assert set(KEPT) <= set(evidence.rows.column_names)


def test_verdicts() -> None:
    assert says(Paired(0.1, 0.05, 0.15, 0.001, 20, 0)) == "better"
    assert says(Paired(0.1, 0.05, 0.15, 0.001, 20, 0), high=False) == "worse"
    assert says(Paired(0.1, -0.05, 0.15, 0.2, 20, 0)) == "no difference seen"
    assert difference(Paired(0.1, -0.05, 1.15, 0.2, 20, 0)) == "+.100 (-.050 to +1.150)"
    assert number(-0.0004) == "-.000"


def test_the_command_is_named() -> None:
    assert re.search(r"tsm-fast study --testbed --out testbed", PAGE.read_text())
