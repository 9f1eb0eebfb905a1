from collections.abc import Sequence

_Array = tuple[int, int, Sequence[int], Sequence[int]]  # address, dtype code, shape with the batch, strides in elements
_Shared = tuple[int, int]  # address of contiguous float64, stride between items

dtypes: dict[str, int]
methods: dict[str, int]
signs: dict[str, int]
combinations: dict[str, int]

def simd_level() -> str: ...
def simd_levels() -> list[str]: ...
def guard_workspaces(on: bool) -> None: ...
def share_all_work(on: bool) -> None: ...
def prefer_large_pages(address: int, bytes: int) -> None: ...
def mode_gram(x: _Array, mode: int, *, center: bool, wide: bool, out: int, wide_out: bool, threads: int) -> None: ...
def truncated_svd(
    gram: _Array, rank: int, *, roots: bool, wide: bool, values: int, vectors: int, wide_out: bool, threads: int
) -> None: ...
def singular_triplets(
    x: _Array,  # [B, M, N], M >= N
    rank: int,
    *,
    turned: bool,  # left [B, rank, M] and right [B, N, rank], else [B, M, rank] and [B, rank, N]
    sign_right: bool,
    left: int,
    values: int,
    right: int,
    finite: int,
    threads: int,
) -> None: ...
def core_contraction(x: _Array, factors: Sequence[_Array | None], *, out: int, wide: bool, threads: int) -> None: ...
def hooi(
    x: _Array,
    rank: Sequence[int],
    *,
    modes: Sequence[int],
    start: Sequence[_Shared],
    padding: _Shared,
    n_iter_max: int,  # 0 for the HOSVD, whose errors are those of one sweep
    tol: float,
    sign_v: bool,
    refine: bool,
    guard: bool,
    wide: bool,
    core: int,
    factors: Sequence[int],
    singular_values: Sequence[int],
    errors: int,
    n_sweeps: int,
    converged: int,
    finite: int,
    wide_out: bool,
    threads: int,
) -> None: ...
def saliency(
    x: _Array,
    method: int,
    rank: Sequence[int],
    *,
    center: bool,
    absolute: bool,
    sign: int,
    relu: bool,
    n_iter_max: int,
    tol: float,
    refine: bool,
    guard: bool,
    wide: bool,
    maps: int,
    finite: int,
    wide_out: bool,
    threads: int,
) -> None: ...

class FinishedMaps:
    def __init__(
        self,
        method: int,
        shape: Sequence[int],
        rank: Sequence[int],
        *,
        center: bool,
        absolute: bool,
        sign: int,
        relu: bool,
        n_iter_max: int,
        tol: float,
        refine: bool,
        guard: bool,
        wide: bool,
        rows: int,
        columns: int,
        normalize: bool,
        ordinary: tuple[float, float, float, float],
        wide_out: bool,
    ) -> None: ...
    def __call__(self, x: _Array, maps: int, out: int, threads: int, /) -> list[bool] | None: ...

def finish(
    maps: int,
    out: int,
    *,
    batch: int,
    height: int,
    width: int,
    rows: int,
    columns: int,
    normalize: bool,
    noise: float,
    wide: bool,
    threads: int,
) -> None: ...
def are_ordinary(
    maps: int,
    *,
    batch: int,
    size: int,
    smallest: float,
    largest: float,
    faint: float,
    noise: float,
    nan: bool,
    wide: bool,
    threads: int,
) -> bool: ...
