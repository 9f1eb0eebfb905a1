"""The picture of imports: who imports whom in the package, by its sources: `python -m tests.packaging.imports`."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"tsm_fast": ROOT / "tsm_fast", "tsm_fast.kernels": ROOT / "kernels"}

# From the ground up. A room imports itself and the floors below it; rooms of one floor do not know each other.
FLOORS = (
    ("_cpu", "_cuda", "_lazy", "_turns", "_version", "factory", "readable", "reshape", "steps.capture"),
    ("_graphs", "layers"),
    ("steps.backend", "steps.checks", "steps.gradients", "steps.memory", "steps.scaling"),
    ("steps.arrays", "steps.choice", "steps.cusolver"),
    ("steps.cpu", "steps.cuda", "steps.reference", "kernels"),
    ("steps.hosvd",),
    ("steps",),
    ("modes",),
    ("decomposition",),
    ("nn", "saliency"),
    ("methods", "operators"),
    ("variants",),
    ("models", "pictures"),
    ("extractor",),
    ("metrics", "models.forward"),
    ("pipeline.errors", "pipeline.settings", "pipeline.sources"),
    ("pipeline.files",),
    ("pipeline.computation",),
    ("pipeline.planning", "pipeline.results", "pipeline.worker"),
    ("pipeline.engines",),
    ("pipeline",),  # the names that it hands on
    ("study",),
    ("integrations",),
    ("bench",),
    ("demo",),
    ("cli",),
    ("__main__", ""),  # "" is the package itself, which hands names on
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

Graph = Mapping[str, frozenset[str]]  # module -> the modules of ours that it imports, anywhere in it


@cache
def graph() -> Graph:
    """Every module of the package, the compiled ones by their stubs, `__init__` under the name of its folder."""
    files = {
        ".".join([package, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): path
        for package, folder in FOLDERS.items()
        for path in folder.rglob("*.py*")
        if path.suffix in (".py", ".pyi")
    }
    return {name: frozenset(_imported(name, path, files)) for name, path in sorted(files.items())}


def _imported(name: str, path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                found = f"{module}.{alias.name}" if f"{module}.{alias.name}" in files else module
                if found in files and found != name:
                    yield found


def room_of(module: str) -> str:
    """The longest name of `FLOORS` that a module has."""
    name = module.removeprefix("tsm_fast").removeprefix(".")
    while name not in FLOOR:
        name = name.rpartition(".")[0]
        assert name, f"{module} has no floor"
    return name


def upwards(edges: Graph) -> list[tuple[str, str]]:
    """The imports that do not lead to a floor below, or stay in their room."""
    rooms = {name: room_of(name) for name in edges}
    return [
        (name, other)
        for name, names in edges.items()
        for other in sorted(names)
        if rooms[name] != rooms[other] and FLOOR[rooms[name]] <= FLOOR[rooms[other]]
    ]


def reached(edges: Graph, start: str) -> set[str]:
    """Every module that importing one brings, itself only where it lies on a circle."""
    found: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting.extend(edges[name])
    return found


def circles(edges: Graph) -> list[list[str]]:
    """Groups of modules that import each other, each in order of names."""
    below = {name: reached(edges, name) for name in edges}
    found = {frozenset(other for other in names if name in below[other]) for name, names in below.items()}
    return sorted(sorted(group) for group in found if group)


def floors(edges: Graph) -> dict[str, int]:
    """The floor of each module: 0 imports none of ours, others stand one above the highest that they import.

    The modules of a circle stand on one floor.
    """
    group = {name: tuple(names) for names in circles(edges) for name in names}

    @cache
    def floor(names: tuple[str, ...]) -> int:
        below = {other for name in names for other in edges[name]} - set(names)
        return 1 + max((floor(group.get(other, (other,))) for other in below), default=-1)

    return {name: floor(group.get(name, (name,))) for name in edges}


def main() -> None:
    edges = graph()
    count = Counter(map(room_of, edges))
    print(f"{len(count)} rooms on {len(FLOORS)} floors, {len(edges)} modules, {sum(map(len, edges.values()))} imports")
    for number, rooms in reversed(list(enumerate(FLOORS))):
        told = ", ".join(f"{room or 'tsm_fast'} ({count[room]})" for room in rooms)
        print(f"  {number:2d}  {told}")
    print(f"upwards: {', '.join(f'{name} -> {other}' for name, other in upwards(edges)) or 'none'}")
    print(f"circles: {'; '.join(', '.join(names) for names in circles(edges)) or 'none'}")
    level = floors(edges)
    print(f"module by module, {1 + max(level.values())} floors:")
    for number in range(max(level.values()), -1, -1):
        print(f"  {number:2d}  {', '.join(name for name in edges if level[name] == number)}")


if __name__ == "__main__":
    main()
