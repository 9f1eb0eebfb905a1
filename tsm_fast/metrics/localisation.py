"""Whether maps lie on the object: metrics of maps and masks.

An item whose map holds NaN or Inf, or whose mask is missing (NaN), empty or, where a background is needed, full, gets
NaN; `status` says which. Constant maps have the value of chance, ties being exact everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as functional
from torch import Tensor

from ..steps import checks
from ._items import Pair, levels, maps_of, masks_of, nonnegative, pair

OK = "ok"


def status(
    maps: Tensor,  # [B, *positions]
    masks: Tensor | None = None,  # [B, *positions]
) -> list[str]:
    """What there is to say of each item, the first that applies of: "not-finite" (the map), "no-mask" (it is NaN),
    "no-object" (the mask is empty), "all-object" (it is full), "constant" (the map), "ok".

    A constant map has the value of chance in metrics of order, and no correlation (NaN); the others, but for
    "all-object" in `energy_in_mask`, `pointing_game` and `box_iou`, have NaN in every metric that takes masks.

    Args:
        maps: `[B, *positions]`, floating-point.
        masks: as large as the maps, non-zero on the object; None to look at the maps alone.

    Returns:
        A text for each item.

    Raises:
        TypeError, ValueError: maps or masks are no tensors of one such shape.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> maps = torch.tensor([[0.0, 1.0], [1.0, 1.0], [torch.nan, 1.0], [0.0, 1.0]])
    >>> metrics.status(maps, torch.tensor([[0, 1], [0, 1], [0, 1], [0, 0]]))
    ['ok', 'constant', 'not-finite', 'no-object']
    """
    flat = maps_of("maps", maps)
    said = [(~flat.isfinite().all(1), "not-finite")]
    if masks is not None:
        objects, present = masks_of("masks", masks)
        if masks.shape != maps.shape:
            raise ValueError(f"masks must be as large as the maps, {tuple(maps.shape)}, got {tuple(masks.shape)}")
        said += [(~present, "no-mask"), (~objects.any(1), "no-object"), (objects.all(1), "all-object")]
    said.append((flat.amax(1) == flat.amin(1), "constant"))
    words = [OK] * len(flat)
    for which, word in reversed(said):
        for item in which.nonzero().flatten().tolist():
            words[item] = word
    return words


def energy_in_mask(
    maps: Tensor,  # [B, *positions]
    masks: Tensor,  # [B, *positions]
) -> Tensor:  # [B]
    """The share of the map's sum that lies on the object (Wang et al., Score-CAM, 2020; Quantus: relevance mass).

    `sum(m[M]) / sum(m)`. A larger or sharper map scores differently at equal order, and so does a map in the middle.

    Args:
        maps: `[B, *positions]`, not negative.
        masks: as large as the maps, non-zero on the object.

    Returns:
        `[B]` in 0..1; NaN as `status` says, and for a map of zeros.

    Raises:
        TypeError, ValueError: maps or masks are no tensors of one such shape, or maps are negative somewhere.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.energy_in_mask(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[0, 1, 1]]))
    tensor([0.7500])
    """
    return _energy(pair(maps, masks))


def pointing_game(
    maps: Tensor,  # [B, *positions]
    masks: Tensor,  # [B, *positions]
    *,
    tolerance: int = 0,
) -> Tensor:  # [B]
    """Whether the map's largest value lies on the object (Zhang et al., 2016).

    Args:
        maps: `[B, *positions]`.
        masks: as large as the maps, non-zero on the object.
        tolerance: how many pixels beside the object still count; the paper takes 15 at 224 pixels. Pictures only.

    Returns:
        `[B]`: 1 or 0; where several pixels are the largest, the share of them on the object. NaN as `status` says.

    Raises:
        TypeError, ValueError: maps or masks are no tensors of one such shape, or tolerance is no number from 0.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.pointing_game(torch.tensor([[1.0, 3.0, 0.0], [2.0, 2.0, 0.0]]), torch.tensor([[0, 1, 1], [0, 1, 1]]))
    tensor([1.0000, 0.5000])
    """
    reach = checks.integer("tolerance", tolerance)
    if reach < 0 or (reach and maps.ndim != 3):
        raise ValueError(f"tolerance must be 0, or more for maps [B, H, W], got {tolerance} for {tuple(maps.shape)}")
    found = pair(maps, masks)
    target = found.masks
    if reach:
        steps = torch.arange(-reach, reach + 1, device=maps.device)
        disc = (steps[:, None] ** 2 + steps**2 <= reach**2).float()[None, None]
        target = functional.conv2d(target.view(len(maps), 1, *maps.shape[1:]).float(), disc, padding=reach) > 0.5
        target = target.flatten(1)
    return _pointing(found, target)


def roc_auc(
    maps: Tensor,  # [B, *positions]
    masks: Tensor,  # [B, *positions]
) -> Tensor:  # [B]
    """The area under the ROC curve: how often a pixel of the object has more than one of the background, half for ties.

    It reads the order of the values only. A map that always lies in the middle does well, where objects do.

    Args:
        maps: `[B, *positions]`.
        masks: as large as the maps, non-zero on the object.

    Returns:
        `[B]` in 0..1, .5 for chance; NaN as `status` says.

    Raises:
        TypeError, ValueError: maps or masks are no tensors of one such shape.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.roc_auc(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[0, 1, 1]]))
    tensor([0.5000])
    """
    return _roc_auc(pair(maps, masks))


def shuffled_auc(
    maps: Tensor,  # [B, *positions]
    masks: Tensor,  # [B, *positions]
    others: Tensor | None = None,  # [N, *positions]
    *,
    groups: Sequence[object] | Tensor | None = None,
    other_groups: Sequence[object] | Tensor | None = None,
) -> Tensor:  # [B]
    """The area under the ROC curve of the object's pixels against the pixels of other images' objects (after Zhang et
    al., 2008, and Borji et al., 2013).

    How often a pixel of the object has more than a pixel of the object of another image, put on this one, half for
    ties; every other image counts the same. Where objects lie says nothing then: over a data set, any fixed map has
    the mean .5, exactly where all images are the others of each. The mask itself has 1 less half the share of the
    others' objects that it covers.

    Args:
        maps: `[B, *positions]`.
        masks: as large as the maps, non-zero on the object.
        others: masks of other images, of the size of the maps; None takes those of the batch, where the result
            depends on what is in the batch.
        groups: a name or number for each map; masks of its own group are left out. None: each item of the batch for
            itself; with `others`, nothing is left out.
        other_groups: those of `others`.

    Returns:
        `[B]` in 0..1, .5 for chance; NaN as `status` says, and where no other mask is left.

    Raises:
        TypeError, ValueError: maps, masks or others are no tensors of one such shape, or groups are not one each.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> masks = torch.tensor([[0, 1, 1], [1, 1, 0]])
    >>> metrics.shuffled_auc(torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]), masks)
    tensor([0.8750, 0.1250])
    """
    return _shuffled_auc(pair(maps, masks), *_negatives(maps, masks, others, groups, other_groups))


def average_precision(
    maps: Tensor,  # [B, *positions]
    masks: Tensor,  # [B, *positions]
) -> Tensor:  # [B]
    """The mean precision over the pixels of the object, each at its own value as threshold (scikit-learn's).

    It reads the order only, and depends on how large the object is: chance has the object's share of the image.

    Args:
        maps: `[B, *positions]`.
        masks: as large as the maps, non-zero on the object.

    Returns:
        `[B]` in 0..1; NaN as `status` says.

    Raises:
        TypeError, ValueError: maps or masks are no tensors of one such shape.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.average_precision(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[0, 1, 1]]))
    tensor([0.8333])
    """
    return _average_precision(pair(maps, masks))


def iou_at_mask_area(
    maps: Tensor,  # [B, *positions]
    masks: Tensor,  # [B, *positions]
) -> Tensor:  # [B]
    """Intersection over union of the object and the map's largest values, as many pixels as the object has.

    No threshold has to be chosen, and the size of the map plays no role. It reads the order only; of pixels that tie
    at the edge each counts by the share of them that is taken.

    Args:
        maps: `[B, *positions]`.
        masks: as large as the maps, non-zero on the object.

    Returns:
        `[B]` in 0..1; NaN as `status` says.

    Raises:
        TypeError, ValueError: maps or masks are no tensors of one such shape.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> metrics.iou_at_mask_area(torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([[0, 1, 1]]))
    tensor([0.3333])
    """
    return _iou(pair(maps, masks))


def box_iou(
    maps: Tensor,  # [B, H, W]
    masks: Tensor,  # [B, H, W]
    threshold: float | Sequence[float] = 0.5,
) -> Tensor:  # [B] or [B, T]
    """Intersection over union of two bounding boxes: of the mask's largest part, and of the map's above a threshold
    (Choe et al., 2020).

    A pixel is above where `m > threshold * max(m)`; parts are connected over edges and corners, the largest has the
    most pixels, the first of equal ones in reading order. MaxBoxAcc is the share of images over a level at the best
    threshold for all of them: `(box_iou(maps, masks, thresholds) >= 0.5).float().mean(0).max()`; a single threshold,
    chosen by hand, favours the methods whose values it suits.

    Args:
        maps: `[B, H, W]`, not negative.
        masks: `[B, H, W]`, non-zero on the object, or filled boxes.
        threshold: a share of the map's maximum in 0..1 (1 excluded), or several.

    Returns:
        `[B]`, or `[B, T]` for T thresholds, in 0..1; NaN as `status` says, and for a map of zeros.

    Raises:
        TypeError, ValueError: maps or masks are no tensors of one such shape, maps are negative somewhere, or a
            threshold is out of range.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> maps = torch.tensor([[[0.1, 0.9, 0.0], [0.0, 1.0, 0.4]]])
    >>> metrics.box_iou(maps, torch.tensor([[[0, 1, 1], [0, 1, 1]]]), [0.2, 0.5])
    tensor([[1.0000, 0.5000]])
    """
    if maps.ndim != 3:
        raise ValueError(f"maps must be [B, H, W], got {tuple(maps.shape)}")
    levels = [threshold] if isinstance(threshold, int | float) else list(threshold)
    if not levels or not all(0 <= level < 1 for level in levels):
        raise ValueError(f"threshold must lie in 0..1, 1 excluded, got {threshold}")
    found, shape = pair(maps, masks), maps.shape[1:]
    box = _boxes(_largest_part(found.masks.view(-1, *shape)))
    ious = torch.stack([_box_iou(found, box, level, shape) for level in levels], 1)
    return ious[:, 0] if isinstance(threshold, int | float) else ious


def localise(
    maps: Mapping[str, Tensor],  # [B, H, W] each
    masks: Tensor,  # [B, H, W]
    others: Tensor | None = None,  # [N, H, W]
    *,
    groups: Sequence[object] | Tensor | None = None,
    other_groups: Sequence[object] | Tensor | None = None,
) -> dict[str, dict[str, Tensor]]:  # [B] each
    """Every metric of maps and masks, of several methods: bitwise what the functions give one by one, with what they
    share done once.

    Args:
        maps: `[B, H, W]`, not negative, by name.
        masks, others, groups, other_groups: as in `shuffled_auc`.

    Returns:
        By the names of the maps and of the functions, `[B]` each.

    Raises:
        TypeError, ValueError: as the functions.

    >>> import torch
    >>> from tsm_fast import metrics
    >>> masks = torch.tensor([[[0, 1]], [[1, 0]]])
    >>> found = metrics.localise({"right": torch.tensor([[[0.0, 1.0]]] * 2)}, masks)
    >>> found["right"]["roc_auc"], found["right"]["shuffled_auc"]
    (tensor([1., 0.]), tensor([1., 0.]))
    """
    made: dict[str, dict[str, Tensor]] = {}
    box = shared = None
    for name, values in maps.items():
        found, shape = pair(values, masks), values.shape[1:]
        if len(shape) != 2:
            raise ValueError(f"maps must be [B, H, W], got {tuple(values.shape)} for {name!r}")
        if shared is None:
            shared = _negatives(values, masks, others, groups, other_groups)
            box = _boxes(_largest_part(found.masks.view(-1, *shape)))
        assert box is not None
        made[name] = {
            "energy_in_mask": _energy(found),
            "pointing_game": _pointing(found, found.masks),
            "roc_auc": _roc_auc(found),
            "shuffled_auc": _shuffled_auc(found, *shared),
            "average_precision": _average_precision(found),
            "iou_at_mask_area": _iou(found),
            "box_iou": _box_iou(found, box, 0.5, shape),
        }
    return made


def _energy(found: Pair) -> Tensor:
    nonnegative("maps", found.maps)
    wide = found.maps.double()
    return found.of_objects((wide * found.masks).sum(1) / wide.sum(1))


def _pointing(found: Pair, target: Tensor) -> Tensor:
    largest = found.maps == found.maps.amax(1, keepdim=True)
    return found.of_objects((largest & target).sum(1) / largest.sum(1))


def _roc_auc(found: Pair) -> Tensor:
    return found.of_both(_auc(found, (~found.masks).double()))


def _shuffled_auc(found: Pair, negatives: Tensor, taken: Tensor) -> Tensor:
    return found.of_objects(torch.where(taken, _auc(found, negatives), torch.nan))


def _negatives(
    maps: Tensor,
    masks: Tensor,
    others: Tensor | None,
    groups: Sequence[object] | Tensor | None,
    other_groups: Sequence[object] | Tensor | None,
) -> tuple[Tensor, Tensor]:  # [B, P], [B]
    """How much each pixel counts as one of other images' objects, and whether any other is left."""
    if others is None:
        if other_groups is not None:
            raise ValueError("other_groups need others")
        pool, usable = masks_of("masks", masks)
        pool_groups = groups = list(range(len(maps))) if groups is None else groups
    else:
        pool, usable = masks_of("others", others)
        if others.shape[1:] != maps.shape[1:]:
            raise ValueError(f"others must be [N, *{tuple(maps.shape[1:])}], got {tuple(others.shape)}")
        pool_groups = other_groups
        if (groups is None) != (other_groups is None):
            raise ValueError("groups and other_groups must come together")
    pool, usable = pool.to(maps.device), (usable & pool.any(1)).to(maps.device)
    taken = usable.expand(len(maps), len(pool))
    if groups is not None and pool_groups is not None:
        names = _named("groups", groups, len(maps)), _named("other_groups", pool_groups, len(pool))
        taken = taken & _different(*names, pool.device)
    weights = pool.double() / pool.sum(1, keepdim=True).clamp(min=1)
    negatives = taken.double() @ weights
    return negatives, taken.any(1)


def _average_precision(found: Pair) -> Tensor:
    ranks = found.ranks
    objects = found.masks.gather(1, ranks.order)
    hits = _cumulated(objects.double())
    at_least = hits[:, -1:] - hits.gather(1, ranks.below)
    precision = at_least / (found.maps.shape[1] - ranks.below)
    return found.of_both((precision * objects).sum(1) / objects.sum(1))


def _iou(found: Pair) -> Tensor:
    area = found.masks.sum(1)
    common = (levels(found.maps, found.ranks).largest(area[:, None]).double() * found.masks).sum(1)
    return found.of_both(common / (2 * area - common))


def _box_iou(found: Pair, box: Tensor, level: float, shape: Sequence[int]) -> Tensor:
    nonnegative("maps", found.maps)
    peak = found.maps.amax(1)
    above = (found.maps > level * peak[:, None]).view(-1, *shape)
    ious = _boxes_iou(_boxes(_largest_part(above)), box)
    return found.of_objects(torch.where(peak > 0, ious, torch.nan))


def _auc(found: Pair, weights: Tensor) -> Tensor:
    """How often a pixel of the object is above one drawn by `weights` [B, P], half for ties; [B] float64."""
    ranks = found.ranks
    positives, total = found.masks.gather(1, ranks.order), _cumulated(weights.gather(1, ranks.order))
    beaten = (total.gather(1, ranks.below) + total.gather(1, ranks.upto)) / 2
    return (beaten * positives).sum(1) / (positives.sum(1) * total[:, -1])


def _cumulated(weights: Tensor) -> Tensor:  # [B, P] -> [B, P + 1]
    """Entry k: the sum of the first k."""
    return functional.pad(weights.cumsum(1), (1, 0))


def _named(name: str, groups: Sequence[object] | Tensor, count: int) -> list[object]:
    values = groups.tolist() if isinstance(groups, Tensor) else list(groups)
    if len(values) != count:
        raise ValueError(f"{name} must be one for each of {count}, got {len(values)}")
    return values


def _different(ours: list[object], theirs: list[object], device: torch.device) -> Tensor:  # [B, N] bool
    numbers: dict[object, int] = {}
    one, two = ([numbers.setdefault(name, len(numbers)) for name in names] for names in (ours, theirs))
    return torch.tensor(one, device=device)[:, None] != torch.tensor(two, device=device)


def _boxes(objects: Tensor) -> Tensor:  # [B, H, W] bool -> [B, 4]
    """Top, left, bottom, right, the last two excluded."""
    edges = []
    for flags in (objects.any(2), objects.any(1)):
        numbers = flags.to(torch.uint8)
        edges.append((numbers.argmax(1), flags.shape[1] - numbers.flip(1).argmax(1)))
    (top, bottom), (left, right) = edges
    return torch.stack([top, left, bottom, right], 1)


def _boxes_iou(one: Tensor, two: Tensor) -> Tensor:  # [B, 4], [B, 4] -> [B]
    size = (torch.minimum(one[:, 2:], two[:, 2:]) - torch.maximum(one[:, :2], two[:, :2])).clamp(min=0)
    common = size.prod(1).double()
    areas = sum((box[:, 2:] - box[:, :2]).prod(1) for box in (one, two))
    return common / (areas - common)


def _largest_part(above: Tensor) -> Tensor:  # [B, H, W] bool -> [B, H, W] bool
    """The part with the most pixels, over edges and corners, the first of equal ones."""
    starts = above.clone()
    starts[..., 1:] &= ~above[..., :-1]
    firsts = starts.flatten().nonzero()[:, 0]  # of the runs of pixels in a row, in reading order
    if len(firsts) == 0:
        return above
    runs = (starts.flatten().cumsum(0) - 1).view(above.shape)  # which run a pixel above belongs to
    parts = _joined(len(firsts), *_touching(above, runs))
    batch, pixels = len(above), above[0].numel()
    items = firsts // pixels
    lengths = runs[above].bincount(minlength=len(firsts))
    sizes = lengths.new_zeros(len(firsts)).scatter_add_(0, parts, lengths)
    most = sizes.new_zeros(batch).scatter_reduce_(0, items, sizes, "amax")
    among = torch.where(sizes == most[items], parts, len(firsts))
    best = parts.new_full((batch,), len(firsts)).scatter_reduce_(0, items, among, "amin")
    return above & (parts == best[items])[runs.clamp(min=0)]


def _touching(above: Tensor, runs: Tensor) -> tuple[Tensor, Tensor]:  # [B, H, W] -> [E], [E]
    """The pairs of runs in neighbouring rows with touching pixels, each where it begins and at its corners."""
    upper, lower = above[:, :-1], above[:, 1:]
    both = upper & lower
    begins = both.clone()
    begins[..., 1:] &= ~both[..., :-1]
    falling = upper[..., :-1] & lower[..., 1:] & ~upper[..., 1:] & ~lower[..., :-1]
    rising = upper[..., 1:] & lower[..., :-1] & ~upper[..., :-1] & ~lower[..., 1:]
    top, bottom = runs[:, :-1], runs[:, 1:]
    return (
        torch.cat([top[begins], top[..., :-1][falling], top[..., 1:][rising]]),
        torch.cat([bottom[begins], bottom[..., 1:][falling], bottom[..., :-1][rising]]),
    )


def _joined(count: int, one: Tensor, other: Tensor) -> Tensor:  # [E], [E] -> [count]
    """The smallest number of each connected part of a graph, by hooking of roots and halving of paths (Shiloach and
    Vishkin, 1982)."""
    parents = torch.arange(count, device=one.device)
    while True:
        ends = torch.cat([parents[one], parents[other]])
        least = torch.minimum(*ends.chunk(2)).repeat(2)
        made = parents.scatter_reduce(0, ends, least, "amin")
        made = made[made]
        if torch.equal(made, parents):
            return parents
        parents = made
