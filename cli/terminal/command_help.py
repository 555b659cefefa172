"""What a command's help says, read from its source: to list all commands, none has to be imported."""

from __future__ import annotations

import ast
import inspect
from importlib.util import find_spec
from pathlib import Path


def help_in_source(module: str, name: str) -> str:
    """The docstring of the function of that name at the top of a module, or the `help` that is given to the typer.
    Raises LookupError where there is neither."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"there is no module {module}")
    for statement in ast.parse(Path(spec.origin).read_bytes()).body:
        match statement:
            case ast.FunctionDef(name=called) if called == name:
                return inspect.cleandoc(ast.get_docstring(statement) or "")
            case ast.Assign(targets=[ast.Name(id=called)], value=ast.Call(keywords=keywords)) if called == name:
                return next(str(ast.literal_eval(one.value)) for one in keywords if one.arg == "help")
            case _:
                pass
    raise LookupError(f"{module} has no {name}")
