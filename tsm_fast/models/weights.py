"""Weights of a model: read without running code from the file, and hashed."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # keys under which training scripts keep the weights


def load_weights(model: nn.Module, file: str | Path) -> None:
    """Put the weights of a file into a model; every name must match.

    Args:
        model: takes the weights, in place.
        file: .safetensors, or a state dict that `torch.load(..., weights_only=True)` reads.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else than weights (nothing of it was run), or those of another model.
    """
    put_weights(model, read_weights(file), file)


def put_weights(model: nn.Module, state: Mapping[str, Tensor], file: str | Path) -> None:
    """Put weights by name into a model; errors, which name the file, as in `load_weights`."""
    wanted = model.state_dict()
    prefix = "module."
    if state and all(name.startswith(prefix) for name in state) and not any(n.startswith(prefix) for n in wanted):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    problems = [f"{name} is missing" for name in wanted if name not in state]
    problems += [f"{name} is not in the model" for name in state if name not in wanted]
    problems += [
        f"{name} is {list(state[name].shape)} and must be {list(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"weights {str(file)!r} do not belong to {type(model).__name__}: {'; '.join(problems[:3])}{more}"
        )
    model.load_state_dict(state)


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name."""
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"weights {str(file)!r} do not exist")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"weights {str(file)!r} must be a state dict, but the file holds other pickled objects "
            f"({_first_line(error)}); nothing of it was run. Save model.state_dict(), or a .safetensors file"
        ) from None
    except Exception as error:  # the unpickler raises anything on what is no pickle
        raise ValueError(f"weights {str(file)!r} cannot be read: {_first_line(error)}") from None
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        kind = type(found).__name__
        raise ValueError(f"weights {str(file)!r} must be a state dict of tensors, got {kind}")
    return {str(name): value for name, value in found.items()}


def digest(model: nn.Module) -> str:
    """sha256 of a model: its modules' names and types, and all parameters and buffers."""
    sha = hashlib.sha256()
    for name, module in model.named_modules():
        sha.update(f"{name} {type(module).__name__} {module.extra_repr()}\n".encode())
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise ModuleNotFoundError("weights in .safetensors need the package safetensors", name="safetensors") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"weights {str(path)!r} cannot be read: {_first_line(error)}") from None


def _first_line(error: Any) -> str:
    """The first sentence of a message: torch's go on for a page."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
