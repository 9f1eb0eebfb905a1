"""What is told of a run while it runs."""

from __future__ import annotations

import io

from rich.console import Console

from tsm_fast.pipeline import Event, ShardSpec
from tsm_fast.pipeline.engines.progress import Lines
from tsm_fast.pipeline.engines.tally import Tally


def test_a_line_where_something_has_changed() -> None:
    text = io.StringIO()
    lines, tally = Lines(Console(file=text, width=200), every=0), Tally([ShardSpec("out", 0, 0, 8, "")], {}, 1.0)
    lines.show(tally)
    for images in (4, 0, 4, 0):
        if images:
            tally.event(Event(0, images, 0, {}))
        lines.show(tally)
        lines.show(tally)
    told = text.getvalue().splitlines()
    assert [line.split(" images")[0] for line in told] == ["tsm-fast: 4/8", "tsm-fast: 8/8"]
    assert [line.split(", ")[1] for line in told] == ["the first images", "finishing"]
