"""The networks of the testbed, trained from nothing, kept by what they were trained on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...pipeline.worker.network import keeping_memory
from .composites import Pictures, generator
from .networks import CHANNELS, SmallResNet, made, normalised, read

VERSION = 1  # of what a recipe means; another one trains anew
SAVED_EVERY = 20.0  # seconds


@dataclass(frozen=True)
class Recipe:
    """What a network learns, and for how long."""

    task: str  # "objects", "views" or "grounds"; "none" leaves it untrained
    steps: int
    batch: int = 128
    rate: float = 4e-3  # of AdamW, at its peak
    decay: float = 0.02


RECIPES = {
    "supervised": Recipe("objects", 1000),
    "self-supervised": Recipe("views", 800, rate=2e-3),
    "scene": Recipe("grounds", 250),
    "untrained": Recipe("none", 0),
}


@dataclass(frozen=True)
class Trained:
    """A network in its file, with what is known of it."""

    name: str
    seed: int
    file: Path
    facts: dict[str, Any]

    def network(self) -> SmallResNet:
        return read(self.file)[0]


Progress = Callable[[str, int, int, float, float], object]  # network, step, steps, loss, seconds to go


def train(
    name: str,
    recipe: Recipe,
    seed: int,
    pictures: Pictures,
    cache: Path,
    progress: Progress | None = None,
) -> Trained:
    """The network of a recipe, from the cache where it is there.

    Args:
        name: for people.
        recipe: what to learn.
        seed: of the first weights and of the composites.
        pictures: those to learn from.
        cache: where weights are kept, under the hash of the recipe, the seed, the pictures and `VERSION`. An
            interrupted training goes on from there.
        progress: called after every step.
    """
    key = json.dumps([VERSION, asdict(recipe), seed, pictures.digest], sort_keys=True)
    stem = f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    file, facts = cache / f"{stem}.pt", cache / f"{stem}.json"
    if not (file.is_file() and facts.is_file()):
        cache.mkdir(parents=True, exist_ok=True)
        with keeping_memory(True):
            network, found = _trained(name, recipe, seed, pictures, cache / f"{stem}.part", progress)
        _saved({key: value.contiguous() for key, value in network.state_dict().items()}, file)
        facts.write_text(json.dumps({"recipe": asdict(recipe), "seed": seed, **found}, indent=1) + "\n")
        (cache / f"{stem}.part").unlink(missing_ok=True)
    return Trained(name, seed, file, json.loads(facts.read_text()))


def _trained(
    name: str, recipe: Recipe, seed: int, pictures: Pictures, part: Path, progress: Progress | None
) -> tuple[SmallResNet, dict[str, Any]]:
    outputs = len(pictures.ground_names if recipe.task == "grounds" else pictures.names)
    network = made(outputs, seed).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    network.train()
    if recipe.task == "none":
        _calibrate(network, pictures, seed)
        return network.eval(), {"losses": [], "seconds": 0.0}
    task = _TASKS[recipe.task](network, seed)
    fast = torch.optim.AdamW(task.parameters(), recipe.rate, weight_decay=recipe.decay)
    plan = torch.optim.lr_scheduler.OneCycleLR(fast, recipe.rate, recipe.steps, pct_start=0.2)
    losses: list[float] = []
    before = 0.0
    if part.is_file():
        state = torch.load(part, map_location="cpu", weights_only=True)
        task.load_state_dict(state["task"])
        fast.load_state_dict(state["fast"])
        plan.load_state_dict(state["plan"])
        losses, before = state["losses"], state["seconds"]
    start = saved = time.monotonic()
    for step in range(len(losses), recipe.steps):
        loss = task(pictures, recipe.batch, generator(recipe.task, seed, step))
        fast.zero_grad()
        loss.backward()
        fast.step()
        plan.step()
        losses.append(float(loss.detach()))
        now = time.monotonic()
        if now - saved > SAVED_EVERY:
            states = {"task": task.state_dict(), "fast": fast.state_dict(), "plan": plan.state_dict()}
            _saved({**states, "losses": losses, "seconds": before + now - start}, part)
            saved = now
        if progress is not None:
            seconds = before + now - start
            progress(name, step + 1, recipe.steps, losses[-1], seconds / (step + 1) * (recipe.steps - step - 1))
    return network.eval(), {"losses": losses, "seconds": before + time.monotonic() - start}


class _Objects(nn.Module):
    """Which cut-out is it?"""

    def __init__(self, network: SmallResNet, _seed: int) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Pictures, count: int, draws: torch.Generator) -> Tensor:
        made = pictures.batch(count, draws)
        return functional.cross_entropy(self.network(_inputs(made.images)), made.objects)


class _Grounds(_Objects):
    """Which picture is the ground of?"""

    def forward(self, pictures: Pictures, count: int, draws: torch.Generator) -> Tensor:
        made = pictures.batch(count, draws)
        return functional.cross_entropy(self.network(_inputs(made.images)), made.grounds)


class _Views(nn.Module):
    """Which two pictures are of one object? (SimCLR, arXiv 2002.05709.) Poses, light, colours and grounds differ."""

    def __init__(self, network: SmallResNet, seed: int) -> None:
        super().__init__()
        self.network = network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.project = nn.Sequential(
                nn.Linear(CHANNELS, CHANNELS, bias=False), nn.BatchNorm1d(CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, 64)
            )

    def forward(self, pictures: Pictures, count: int, draws: torch.Generator) -> Tensor:
        count = min(count, len(pictures.names))
        objects = torch.randperm(len(pictures.names), generator=draws)[:count]  # no object twice
        grounds = torch.randint(len(pictures.ground_names), (2, count), generator=draws)
        views = [pictures.draw(objects, ground, draws).images for ground in grounds]
        images = _colours(torch.cat(views), draws)
        z = functional.normalize(self.project(self.network.pooled(_inputs(images))))  # [2 B, 64]
        alike = (z @ z.T / 0.2).fill_diagonal_(-torch.inf)
        return functional.cross_entropy(alike, torch.arange(2 * count).roll(count))


_TASKS: dict[str, type[_Objects] | type[_Views]] = {"objects": _Objects, "grounds": _Grounds, "views": _Views}


def _inputs(images: Tensor) -> Tensor:
    return normalised(images).contiguous(memory_format=torch.channels_last)


def _colours(images: Tensor, draws: torch.Generator) -> Tensor:
    """Brightness, contrast and the three colours changed, a tenth of the pictures grey."""
    random = torch.rand(len(images), 6, 1, 1, generator=draws)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (0.7 + 0.6 * random[:, :1]) + mean * (0.7 + 0.6 * random[:, 1:2])
    images = images * (0.9 + 0.2 * random[:, 2:5])
    return torch.where(random[:, 5:] < 0.1, images.mean(1, keepdim=True), images).clamp(0, 1)


def _calibrate(network: SmallResNet, pictures: Pictures, seed: int) -> None:
    """Set the batch norms of an untrained network by pictures, so that its maps have a usual size."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean of all batches
    with torch.no_grad():
        for step in range(10):
            network(_inputs(pictures.batch(128, generator("none", seed, step)).images))
    for norm in norms:
        norm.momentum = 0.1


def _saved(state: dict[str, Any], file: Path) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}")
    torch.save(state, part)
    os.replace(part, file)
