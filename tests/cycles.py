"""Cycles between our packages, with bounds that only go down: `python -m tests.cycles`.

A node is a folder that holds modules; an edge, an import between modules of two folders, those for types included.
Folders of one strongly connected group reach one another by imports: none can be read, tested or moved alone. Folders
of more than 20 files and files that import FastAPI are printed beside them, as figures without a bound.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import grimp

PACKAGES = ("wire", "store", "server", "trainer", "sampler", "runner", "cli")
MAX_LARGEST_GROUP = 8
MAX_PACKAGES_IN_CYCLES = 18
MANY_FILES = 20


def import_graph(roots: Sequence[str]) -> grimp.ImportGraph:
    """Who imports whom, for the modules of `roots` in the working directory, imports for types included."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        return grimp.build_graph(
            *roots, include_external_packages=True, exclude_type_checking_imports=False, cache_dir=None
        )
    finally:
        sys.path.remove(str(Path.cwd()))


def package_imports(graph: grimp.ImportGraph, roots: AbstractSet[str]) -> dict[str, set[str]]:
    """The folders under `roots`, each with the other folders that its modules import."""
    ours = {module for module in graph.modules if module.split(".")[0] in roots}
    packages = {module for module in ours if Path(*module.split(".")).is_dir()}

    def folder(module: str) -> str:
        return module if module in packages else module.rpartition(".")[0]

    imports: dict[str, set[str]] = {package: set() for package in packages}
    for module in ours:
        for imported in graph.find_modules_directly_imported_by(module) & ours:
            if folder(imported) != folder(module):
                imports[folder(module)].add(folder(imported))
    return imports


def cyclic_groups(imports: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of two or more nodes that all reach one another, the largest first."""
    reached = {node: _reachable(imports, node) for node in imports}
    groups = {frozenset(other for other in reached[node] if node in reached[other]) for node in imports}
    return sorted((sorted(group) for group in groups if len(group) > 1), key=lambda group: (-len(group), group))


def broken_bounds(groups: Sequence[Sequence[str]], largest: int, in_cycles: int) -> list[str]:
    """What exceeds its bound, in words."""
    sizes = [len(group) for group in groups]
    broken: list[str] = []
    if max(sizes, default=0) > largest:
        broken.append(f"the largest group has {max(sizes)} packages, {largest} at most may import one another")
    if sum(sizes) > in_cycles:
        broken.append(f"{sum(sizes)} packages are in cycles, {in_cycles} at most may be")
    return broken


def _reachable(imports: Mapping[str, Iterable[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for imported in imports[waiting.pop()]:
            if imported not in seen:
                seen.add(imported)
                waiting.append(imported)
    return seen


def crowded_folders(roots: Iterable[str]) -> list[tuple[Path, int]]:
    """Folders that hold more than `MANY_FILES` files, the largest first."""
    found: dict[Path, int] = {}
    for root in roots:
        for path in Path(root).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[path.parent] = found.get(path.parent, 0) + 1
    return sorted(((f, n) for f, n in found.items() if n > MANY_FILES), key=lambda entry: -entry[1])


def main() -> int:
    roots = [package for package in PACKAGES if Path(package).is_dir()]
    assert roots, "run from the repository root"
    graph = import_graph(roots)
    imports = package_imports(graph, set(roots))
    groups = cyclic_groups(imports)
    in_cycles = sum(map(len, groups))
    print(f"{len(imports)} packages, {in_cycles} of them in {len(groups)} cyclic groups")
    for group in groups:
        print(f"  {len(group)}: {', '.join(group)}")
    print(f"folders with more than {MANY_FILES} files:")
    for folder, num_files in crowded_folders(roots):
        print(f"  {num_files}: {folder}")
    print(f"files that import fastapi: {len(graph.find_modules_that_directly_import('fastapi'))}")
    broken = broken_bounds(groups, MAX_LARGEST_GROUP, MAX_PACKAGES_IN_CYCLES)
    print("\n".join(broken) if broken else "cycles are within their bounds")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
