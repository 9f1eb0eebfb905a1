"""`--config run.yaml`: options of a command from a file, under the names they have on the command line."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import typer
import yaml


def read_config(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """Take the values of a YAML file as defaults of the command's options; what the command line says wins."""
    if path is None or context.resilient_parsing:
        return path
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is no YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise typer.BadParameter(f"{path} must hold names and values, got {type(values).__name__}")
    options = _options(context, skip=parameter.name)
    defaults = {}
    for name, value in values.items():
        option = options.get(str(name).replace("_", "-"))
        if option is None:
            close = difflib.get_close_matches(str(name).replace("_", "-"), options, n=3)
            hint = f"; close names: {', '.join(close)}" if close else f"; it has {', '.join(sorted(options))}"
            raise typer.BadParameter(f"{path} has an option {str(name)!r} that `{context.info_name}` has not{hint}")
        defaults[option.name] = _value(option, value)
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def _options(context: typer.Context, skip: str | None) -> dict[str, Any]:
    """The parameters of a command by the names used in files: `shard-size` for --shard-size, `source` for SOURCE."""
    names: dict[str, Any] = {}
    for parameter in context.command.params:
        if parameter.name in (skip, "help"):
            continue
        for name in parameter.opts:
            if name.startswith("--") or not name.startswith("-"):
                names[name.lstrip("-").lower()] = parameter
    return names


def _value(option: Any, value: Any) -> Any:
    """What YAML gave as the command line would: one value of a repeatable option is a list of one, a list for
    another option is joined by commas."""
    repeatable = getattr(option, "multiple", False) or getattr(option, "nargs", 1) != 1
    if repeatable:
        return list(map(str, value)) if isinstance(value, list) else [str(value)]
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, bool) or value is None else str(value)
