"""What users name in text: `path/to/file.py:NAME` or `package.module:NAME`.

Naming imports nothing; resolving a name runs the code that it names. So nothing that
was found in a file is resolved unless the user asked for it.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from jaxrobust.arguments import require

__all__ = [
    "MODULES",
    "Reference",
    "function_of",
    "importable_from",
    "is_reference",
    "name_of",
    "require_function",
    "resolve",
    "run",
]

MODULES = "_jaxrobust_files"
"""The package in which modules made of files are, by name only."""


_names: dict[Any, str] = {}


class Reference(NamedTuple):
    """Something of the user's own, with what it was made from.

    Attributes:
        name: as it was given.
        value: what has that name.
        sha256: of the file in which it stands, 64 hexadecimal digits; None where a
            module has no file.
    """

    name: str
    value: Any
    sha256: str | None


def is_reference(name: str) -> bool:
    """Whether a name has the form of a reference, `file.py:NAME` or `module:NAME`."""
    place, separator, inner = name.rpartition(":")
    return bool(separator and place and inner.isidentifier())


def resolve(name: str, *, what: str) -> Reference:
    """Import what a reference names.

    Args:
        name: `path/to/file.py:NAME`, or `package.module:NAME` for what is installed or
            lies below the current directory.
        what: it is needed for, as the user calls it, such as `model`.

    Raises:
        ValueError: if there is no such file, module or name.
    """
    place, _, inner = name.rpartition(":")
    require(
        is_reference(name),
        what,
        "path/to/file.py:NAME or package.module:NAME",
        name,
        "name the file and what it defines",
    )
    module = run(Path(place), what=what) if place.endswith(".py") else _module(place)
    if module is None:
        raise ValueError(
            f"`{what}` must name a module that can be imported, got {place!r}; go to "
            "the directory in which it lies, install it, or name its file "
            "(path/to/file.py:NAME)."
        )
    if not hasattr(module, inner):
        known = [each for each in vars(module) if not each.startswith("_")]
        close = difflib.get_close_matches(inner, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "correct the name."
        raise ValueError(
            f"`{what}` must name something that {place} defines, got {inner!r}; {hint}"
        )
    path = getattr(module, "__file__", None)
    content = Path(path).read_bytes() if path else None
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    value = getattr(module, inner)
    if callable(value):
        _names[value] = name
    return Reference(name, value, sha256)


def name_of(value: Any) -> str:
    """The reference by which a class or function was resolved; or its module and name.

    The latter resolves where the module can be imported and the name is at its top. A
    name is its own.
    """
    if isinstance(value, str):
        return value
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", type(value).__name__)
    return _names.get(value, f"{module}:{name}")


def require_function(value: Any, table: Mapping[str, Any], *, what: str) -> None:
    """Refuse what `function_of` cannot find again, without running anything.

    Args:
        value: a name in the table, a reference, or a function that has a name at the
            top of its module: a run that is resumed finds it by this name.
        table: functions of ours, by name.
        what: it is, as the user calls it, such as `optimizer.name`.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, str):
        if value in table or is_reference(value):
            return
        close = difflib.get_close_matches(value, table, n=1)
        raise ValueError(
            f"`{what}` must be one of {', '.join(table)}, got {value!r}; "
            + (f"did you mean {close[0]!r}?" if close else "use one of these")
            + ", or name your own as path/to/file.py:NAME."
        )
    if not callable(value) or not is_reference(name_of(value)):
        raise ValueError(
            f"`{what}` must be a name, or a function at the top of a module, by which "
            f"a run that is resumed finds it again, got {value!r}; define it by `def` "
            "outside of other functions."
        )


def function_of(
    value: Any, table: Mapping[str, Callable[..., Any]], *, what: str
) -> Callable[..., Any]:
    """The function that is meant: the value itself, that of the table, or one's own.

    A reference runs the code that it names.

    Raises:
        ValueError: if a reference names nothing.
    """
    if callable(value):
        return value
    return table[value] if value in table else resolve(value, what=what).value


def run(path: Path, *, what: str) -> ModuleType:
    """The module that a Python file makes; the same one until the file changes.

    It can import what lies beside it or in the current directory.

    Raises:
        ValueError: if it is no Python file.
    """
    if not path.is_file() or path.suffix != ".py":
        raise ValueError(
            f"`{what}` must name a Python file, got {str(path)!r}, which is no Python "
            "file here; correct the path."
        )
    path = path.resolve()
    found = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()
    name = f"{MODULES}.{path.stem}_{found[:10]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Known before it runs, as dataclasses and pickling want it.
    sys.modules[name] = module
    try:
        with importable_from(path.parent), importable_from(Path.cwd()):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module(name: str) -> ModuleType | None:
    with importable_from(Path.cwd()):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A module that is there, and misses another one, says so itself.
            if error.name and (name == error.name or name.startswith(error.name + ".")):
                return None
            raise


@contextmanager
def importable_from(directory: Path) -> Iterator[None]:
    """What is in a directory can be imported, as by `python -m` from there."""
    is_added = str(directory) not in sys.path
    if is_added:
        sys.path.insert(0, str(directory))
        importlib.invalidate_caches()
    try:
        yield
    finally:
        if is_added:
            sys.path.remove(str(directory))
