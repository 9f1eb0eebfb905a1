"""What is called in a row: our function, its peers, and how a result of theirs is judged against float64."""

from __future__ import annotations

from collections.abc import Sequence

from ..cases import Case
from .calls import WORKS as CALLS
from .contender import OURS, SPIN, WRONG, Contender, Work
from .maps import WORKS as SALIENCY
from .maps import tensorly_full
from .matrices import WORKS as MATRICES
from .steps import WORKS as STEPS
from .tensors import WORKS as TENSORS

WORKS: dict[str, Work] = {**SALIENCY, **TENSORS, **MATRICES, **STEPS, **CALLS}

__all__ = ["OURS", "SPIN", "WORKS", "WRONG", "Contender", "Work", "contenders", "precise", "tensorly_full"]


def contenders(case: Case, backends: Sequence[str | None], wanted: set[str], absent: Sequence[str]) -> list[Contender]:
    """Ours first, once for each backend, then the peers that are wanted and there."""
    work = WORKS[case.work]
    found = []
    for backend in backends:
        one = work.ours(case, backend, {})
        found.append(one._replace(name=f"{OURS} ({backend})") if backend is not None else one)
    others = [peer for peer in work.others(case) if _plain(peer.name) in wanted or not peer.judged]
    return found + [peer for peer in others if _plain(peer.name) not in absent]


def _plain(name: str) -> str:
    """The peer that a contender belongs to: torch-einsum is plain PyTorch too."""
    return "torch" if name == "torch-einsum" else name


def precise(case: Case) -> Contender | None:
    """Ours with `precision="float64"`, where something is promised for that."""
    work = WORKS[case.work]
    if not work.precise or case.dtype != "float32":
        return None
    return work.ours(case, None, {"precision": "float64"})
