from collections.abc import Sequence

_Array = tuple[int, int, Sequence[int], Sequence[int]]  # address, dtype code, shape with the batch, strides in elements
_Shared = tuple[int, int]  # address of contiguous float64, stride between items

small: int
largest: int
dtypes: dict[str, int]
methods: dict[str, int]
signs: dict[str, int]
combinations: dict[str, int]

def mode_gram(x: _Array, mode: int, *, center: bool, out: int, wide: bool, skip: int, stream: int) -> None: ...
def truncated_svd_workspace(n: int, batch: int, wide: bool) -> int: ...
def truncated_svd(
    gram: int,
    *,
    wide_gram: bool,
    batch: int,
    n: int,
    rank: int,
    wide: bool,
    values: int,
    vectors: int,
    wide_out: bool,
    skip: int,
    workspace: int,
    bytes: int,
    stream: int,
) -> None: ...
def core_contraction(x: _Array, mode: int, *, factor: int, rank: int, out: int, wide: bool, stream: int) -> None: ...
def hooi_needs(
    shape: Sequence[int], rank: Sequence[int], *, modes: Sequence[int], given: bool, pads: bool
) -> tuple[int, int]: ...
def hooi(
    x: _Array,
    rank: Sequence[int],
    *,
    modes: Sequence[int],
    start: Sequence[_Shared],
    padding: _Shared,
    n_iter_max: int,
    tol: float,
    sign_v: bool,
    gram: int,
    core: int,
    factors: Sequence[int],
    singular_values: Sequence[int],
    responses: int,
    wide: bool,
    errors: int,
    n_sweeps: int,
    converged: int,
    finite: int,
    workspace: int,
    bytes: int,
    stream: int,
) -> None: ...
def leading_small(
    x: _Array, *, center: bool, maps: int, wide: bool, settled: int, finite: int, stream: int
) -> None: ...
def leading_workspace(channels: int, positions: int) -> int: ...
def leading_large(
    x: _Array,
    *,
    center: bool,
    maps: int,
    wide: bool,
    settled: int,
    finite: int,
    workspace: int,
    bytes: int,
    stream: int,
) -> None: ...
def extremes(
    x: _Array, *, transposed: bool, center: bool, vectors: int, n: int, out: int, skip: int, stream: int
) -> None: ...
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
    stream: int,
) -> None: ...
def sign_single(x: _Array, *, center: bool, sign: int, relu: bool, maps: int, wide: bool, stream: int) -> None: ...
def combine_positions(
    *,
    values: int,
    vectors: int,
    signs: int,
    batch: int,
    positions: int,
    n: int,
    how: int,
    maps: int,
    wide: bool,
    finite: int,
    skip: int,
    stream: int,
) -> None: ...
def combine_channels(
    x: _Array,
    *,
    values: int,
    vectors: int,
    signs: int,
    n: int,
    how: int,
    maps: int,
    wide: bool,
    finite: int,
    skip: int,
    stream: int,
) -> None: ...
