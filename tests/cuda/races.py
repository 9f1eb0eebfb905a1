"""The search for races itself: `make races` names this file, whose tests need the build that watches every access."""

from __future__ import annotations

import re

import pytest

from .emulation.load import emulated

FAULTS = {
    "no barrier before a read": "of shared memory",
    "no barrier after a read": "of shared memory",
    "a warp barrier for two warps": "of shared memory",
    "a shuffle for a barrier": "of shared memory",
    "a product for a barrier": "of shared memory",
    "one reader among many": "of shared memory at 0 ",
    "the same number from two threads": "in global memory",
    "two blocks write a word": "block 1 writes 8 bytes in global memory .* thread 0 of block 0 wrote",
    "a block reads what another writes": "block 1 reads 8 bytes in global memory .* thread 0 of block 0 wrote",
    "a block writes what two others read": "block 2 writes 8 bytes in global memory .* of block [01] read",
    "a copy without a wait": "that a copy by thread [0-9]+ of block 0 is still to write",
    "a wait that leaves the newest copies out": "that a copy by thread [0-9]+ of block 0 is still to write",
    "a wait without a barrier": "of shared memory",
    "a copy over what is being read": "of shared memory",
}
SOUND = ("barriers", "warp barriers", "copies in turn", "blocks with a byte each")


@pytest.fixture(params=["forward", "reverse"], autouse=True)
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSM_EMULATION_ORDER", request.param)


@pytest.mark.parametrize("kernel", FAULTS)
def test_a_race_is_found(kernel):
    with pytest.raises(RuntimeError, match=FAULTS[kernel]) as error:
        emulated()._cuda.run_planted(kernel)
    count, *races = str(error.value).splitlines()
    assert count == f"races between threads: {len(races)}"
    assert all(len(re.findall(r"\([a-z]+\.(?:cpp|cuh):\d+", race)) == 2 for race in races)  # where either access is


@pytest.mark.parametrize("kernel", SOUND)
def test_a_sound_kernel_passes(kernel):
    emulated()._cuda.run_planted(f"sound: {kernel}")
