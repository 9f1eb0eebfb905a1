"""Which share of a run this process has, where a scheduler started several of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Place(NamedTuple):
    """Process `rank` of `world`; `local` counts the processes of this machine, `source` says how it was found."""

    rank: int
    world: int
    local: int
    source: str


def place(environment: Mapping[str, str] | None = None) -> Place:
    """Rank and number of processes from the environment.

    In this order: RANK and WORLD_SIZE (torchrun, or set by hand); SLURM: the array index, times the tasks of each
    array element (srun), plus the task's number; JOB_COMPLETION_INDEX of a Kubernetes Job in Indexed mode, which does
    not tell the number of pods: set WORLD_SIZE to the Job's `completions`.

    Raises:
        ValueError: nothing of the kind is there, a part is missing, or the rank is not in 0..world-1.

    >>> place({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"})
    Place(rank=1, world=4, local=0, source='SLURM_PROCID, SLURM_NTASKS')
    """
    env = os.environ if environment is None else environment
    if "RANK" in env:
        found = _number(env, "RANK"), _world(env, "RANK"), "RANK, WORLD_SIZE"
    elif "SLURM_ARRAY_TASK_ID" in env or "SLURM_PROCID" in env:
        found = _slurm(env)
    elif "JOB_COMPLETION_INDEX" in env:
        found = (_number(env, "JOB_COMPLETION_INDEX"), _world(env, "JOB_COMPLETION_INDEX"))
        found = (*found, "JOB_COMPLETION_INDEX, WORLD_SIZE")
    else:
        raise ValueError(
            "engine 'rank' needs its place in the environment: RANK and WORLD_SIZE, or those of SLURM "
            "(SLURM_PROCID, SLURM_ARRAY_TASK_ID), or JOB_COMPLETION_INDEX and WORLD_SIZE of a Kubernetes Job"
        )
    rank, world, source = found
    if not 0 <= rank < world:
        raise ValueError(f"the rank must lie in 0..{world - 1}, got {rank} (from {source}); set RANK and WORLD_SIZE")
    local = next((_number(env, name) for name in ("LOCAL_RANK", "SLURM_LOCALID") if env.get(name)), 0)
    return Place(rank, world, local, source)


def share(shards: Sequence[T], where: Place) -> Sequence[T]:
    """What is this rank's of all shards in order: every `world`-th, from number `rank` on."""
    return shards[where.rank :: where.world]


def _slurm(env: Mapping[str, str]) -> tuple[int, int, str]:
    tasks = _number(env, "SLURM_NTASKS", default=1) if "SLURM_PROCID" in env else 1
    task = _number(env, "SLURM_PROCID", default=0)
    if "SLURM_ARRAY_TASK_ID" not in env:
        return task, tasks, "SLURM_PROCID, SLURM_NTASKS"
    first, step = _number(env, "SLURM_ARRAY_TASK_MIN", default=0), _number(env, "SLURM_ARRAY_TASK_STEP", default=1)
    element = (_number(env, "SLURM_ARRAY_TASK_ID") - first) // max(step, 1)
    elements = _number(env, "SLURM_ARRAY_TASK_COUNT")
    return element * tasks + task, elements * tasks, "SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_COUNT"


def _world(env: Mapping[str, str], beside: str) -> int:
    if "WORLD_SIZE" not in env:
        raise ValueError(f"{beside} is set but WORLD_SIZE is not: set it to the number of processes")
    return _number(env, "WORLD_SIZE")


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = env.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.strip().isdecimal():
        raise ValueError(f"{name} must be a number in the environment, got {text!r}")
    return int(text)
