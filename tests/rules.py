"""House rules that no linter knows, checked over the syntax trees of our packages: `python -m tests.rules`.

1. Transactions end where the session scope ends: nobody calls `.commit()`.
2. Weights and payloads are never unpickled.
3. No module of ours is called `utils`.
4. Commands print tables with `cli.terminal.tables`, which never cuts what the next command needs.
5. Whatever puts a URL together from host and port brackets IPv6 addresses (`wire.process.origins`).
6. Kinds of operation are named in their table (`store.operation_kinds`), by protocols, and by engines, whose phases
   have the same names; everything else derives from the table.
7. Tar files are read by what checks each member (`store.unpacking`), never by `.extractall()`: its filters are younger
   than the oldest Python that is served.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from store.operation_kinds import KINDS

PACKAGES = ("wire", "store", "server", "trainer", "sampler", "runner", "cli")
COMMANDS, TABLES = Path("cli"), Path("cli/terminal/tables.py")
NAME_KINDS = Path("store/operation_kinds.py"), Path("server/protocols"), Path("trainer/engine")
UNPICKLERS = {"pickle", "cPickle", "dill", "joblib", "shelve"}


def violations(path: Path) -> Iterator[str]:
    if path.stem in ("utils", "helpers", "common"):
        yield f"{path}: name the module for its one concept"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and _names_a_kind(node.value) and not _may_name_kinds(path):
            yield f"{path}:{node.lineno}: take the kind of operation from store.operation_kinds"
        if isinstance(node, ast.JoinedStr) and _puts_a_url_together(node):
            yield f"{path}:{node.lineno}: put URLs together with wire.process.origins.http_origin"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "commit":
                yield f"{path}:{node.lineno}: a session scope commits, nothing else does"
            if node.func.attr == "extractall":
                yield f"{path}:{node.lineno}: unpack with store.unpacking"
            if node.func.attr == "load" and ast.unparse(node.func.value) in ("torch", "np", "numpy"):
                yield f"{path}:{node.lineno}: load weights with safetensors"
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name == "rich.table" and COMMANDS in path.parents and path != TABLES:
                yield f"{path}:{node.lineno}: print tables with cli.terminal.tables"
            if name.split(".")[0] in UNPICKLERS:
                yield f"{path}:{node.lineno}: nothing here is pickled"


def _names_a_kind(value: object) -> bool:
    """Whether a constant is the name of a kind, or SQL that holds one."""
    return isinstance(value, str) and (value in KINDS or any(f"'{name}'" in value for name in KINDS))


def _may_name_kinds(path: Path) -> bool:
    return any(path == allowed or allowed in path.parents for allowed in NAME_KINDS)


def _puts_a_url_together(text: ast.JoinedStr) -> bool:
    """Whether a port follows a host that is not `bracketed(...)`."""
    for scheme, host, port in zip(text.values, text.values[1:], text.values[2:], strict=False):
        if not (isinstance(scheme, ast.Constant) and str(scheme.value).endswith(("http://", "https://"))):
            continue
        if not (isinstance(port, ast.Constant) and str(port.value).startswith(":")):
            continue
        if isinstance(host, ast.FormattedValue) and not ast.unparse(host.value).startswith("bracketed("):
            return True
    return False


def main() -> int:
    files = [p for package in PACKAGES for p in sorted(Path(package).rglob("*.py"))]
    assert len(files) > 20, "run from the repository root"
    found = [line for path in files for line in violations(path)]
    print("\n".join(found) if found else f"house rules hold in {len(files)} files")  # noqa: T201
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
