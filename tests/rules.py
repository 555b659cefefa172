"""House rules that no linter knows, checked over the syntax trees of our packages: `python -m tests.rules`.

1. Transactions end where the session scope ends: nobody calls `.commit()`.
2. Weights and payloads are never unpickled.
3. No module of ours is called `utils`.
4. Commands print tables with `cli.terminal.tables`, which never cuts what the next command needs.
5. Whatever puts a URL together from host and port brackets IPv6 addresses (`wire.process.origins`).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("wire", "store", "server", "trainer", "sampler", "cli")
COMMANDS, TABLES = Path("cli"), Path("cli/terminal/tables.py")
UNPICKLERS = {"pickle", "cPickle", "dill", "joblib", "shelve"}


def violations(path: Path) -> Iterator[str]:
    if path.stem in ("utils", "helpers", "common"):
        yield f"{path}: name the module for its one concept"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr) and _puts_a_url_together(node):
            yield f"{path}:{node.lineno}: put URLs together with wire.process.origins.http_origin"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "commit":
                yield f"{path}:{node.lineno}: a session scope commits, nothing else does"
            if node.func.attr == "load" and ast.unparse(node.func.value) in ("torch", "np", "numpy"):
                yield f"{path}:{node.lineno}: load weights with safetensors"
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name == "rich.table" and COMMANDS in path.parents and path != TABLES:
                yield f"{path}:{node.lineno}: print tables with cli.terminal.tables"
            if name.split(".")[0] in UNPICKLERS:
                yield f"{path}:{node.lineno}: nothing here is pickled"


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
