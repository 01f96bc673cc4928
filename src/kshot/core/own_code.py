"""What code that does not come with kshot consists of: so edited code never meets what the code that it was has left.

Of a class it is the code of its methods and, on and on, of all that these name: functions, classes, modules and
constants, as they are in memory, in notebooks and helper modules as well; and the files of the modules. What comes with
Python, or is installed beside the package of the class, counts by its name.
"""

import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterator
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_OURS, _MAIN = __name__.partition(".")[0], "__main__"
_PLAIN = (int, float, complex, str, bytes, type(None), type(...))


def code_of(cls: type) -> str | None:
    """Return what identifies the code of a class; None for one that comes with kshot."""
    package = _package(cls.__module__)
    if package == _OURS:
        return None
    found = hashlib.sha256(_version(package).encode())
    for piece in _Walk(package).through(cls):
        found.update(f"{piece}\n".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


class _Walk:
    """Goes through what code consists of, each thing once; a thing that was met before is told by its number.

    Args:
        package: That of the class, which may be an installed one.
    """

    def __init__(self, package: str):
        self._package = package
        self._met: list[Any] = []
        self._numbers: dict[int, int] = {}

    def through(self, cls: type) -> Iterator[str]:
        """Return pieces of text that are equal for equal code."""
        self._told(cls)
        for value in self._met:  # which grows on the way
            yield f"{type(value).__qualname__}:"
            yield from self._inside(value)

    def _told(self, value: Any) -> str:
        """Return a text for a value; what can be shared or can change is only met here, and told later."""
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, tuple):
            return f"({','.join(map(self._told, value))})"
        if isinstance(value, frozenset):
            return f"frozen {sorted(map(self._told, value))}"
        if isinstance(value, CodeType):
            return f"{value.co_code.hex()} {value.co_names} {self._told(value.co_consts)}"
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._met)
            self._met.append(value)
        return f"#{self._numbers[id(value)]}"

    def _inside(self, value: Any) -> Iterator[str]:
        match value:
            case FunctionType():
                yield from self._function(value)
            case ModuleType():
                yield from self._module(value)
            case type():
                yield from self._class(value)
            case dict():
                yield from sorted(f"{key!r} {self._told(item)}" for key, item in value.items())
            case set():
                yield from sorted(map(self._told, value))
            case list():
                yield from map(self._told, value)
            case _:
                yield from self._object(value)

    def _object(self, value: Any) -> Iterator[str]:
        match value:
            case property():
                yield self._told((value.fget, value.fset))
            case classmethod() | staticmethod() | MethodType():
                yield self._told(value.__func__)
            case cached_property():
                yield self._told(value.func)
            case partial():
                yield self._told((value.func, value.args, value.keywords))
            case re.Pattern():
                yield repr((value.pattern, value.flags))
            case np.ndarray() if not value.dtype.hasobject:
                yield f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
            case _ if isinstance(getattr(value, "__wrapped__", None), FunctionType):
                yield self._told(value.__wrapped__)
            case _ if self._is_own(type(value).__module__):
                yield self._told((type(value), getattr(value, "__dict__", None)))

    def _function(self, function: FunctionType) -> Iterator[str]:
        yield function.__qualname__
        if not self._is_own(function.__module__):
            yield function.__module__
            return
        yield self._told((sys.modules.get(function.__module__), function.__code__))
        yield self._told((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            yield self._told(_content(cell))
        for name in sorted(_names(function.__code__) & function.__globals__.keys()):
            yield f"{name} {self._told(function.__globals__[name])}"

    def _class(self, cls: type) -> Iterator[str]:
        yield cls.__qualname__
        if not self._is_own(cls.__module__):
            yield cls.__module__
            return
        yield self._told((sys.modules.get(cls.__module__), cls.__bases__))
        for name, value in sorted(vars(cls).items()):
            if isinstance(value, FunctionType) or not (name.startswith("__") and name.endswith("__")):
                yield f"{name} {self._told(value)}"

    def _module(self, module: ModuleType) -> Iterator[str]:
        """Return a module's file, what it defines and which modules it imports; of a script only what is named."""
        name = module.__name__
        if name == _MAIN or not self._is_own(name):
            yield name
            return
        file = Path(getattr(module, "__file__", None) or "")
        yield hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else name
        for key, value in sorted(vars(module).items()):
            if isinstance(value, ModuleType) or (isinstance(value, FunctionType | type) and value.__module__ == name):
                yield f"{key} {self._told(value)}"

    def _is_own(self, module: str | None) -> bool:
        """Return whether a module is neither Python's, nor kshot's, nor installed beside the package of the class."""
        package = _package(module or "")
        if package in (_MAIN, self._package):
            return True
        return bool(package) and package not in {_OURS, *sys.stdlib_module_names} and not _is_installed(package)


def _package(module: str) -> str:
    return module.partition(".")[0]


def _is_installed(package: str) -> bool:
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    return any(file.startswith(sysconfig.get_path(name)) for name in ("purelib", "platlib"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _names(code: CodeType) -> set[str]:
    """Return the names that code uses, that of functions within it included."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is filled later
        return None
