"""How names become code: a room's table, a package's entry point, or the user's own file."""

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NotRequired, get_type_hints

from typing_extensions import TypedDict

from kshot.core.call import parse_call
from kshot.core.errors import SettingError, UserError, did_you_mean, in_short
from kshot.core.fields import setting_names
from kshot.core.paths import path_of
from kshot.core.schema import shaped


def resolve(reference: str) -> Any:
    """Import "package.module:Name"; nothing of the module is loaded before this call."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Origin:
    """Where a method comes from.

    Attributes:
        name: As it is written in a recipe; of a user's own the class alone.
        file: The user's own file.
        sha256: Of that file.
    """

    name: str
    file: Path | None = None
    sha256: str | None = None

    def record(self) -> dict[str, str]:
        """Return it as JSON."""
        if self.file is None:
            return {"name": self.name}
        return {"name": self.name, "file": str(self.file), "sha256": str(self.sha256)}


class PartRecord(TypedDict):
    """A method with its settings, as `Part.record` writes it; a method may write more."""

    name: str
    version: int
    settings: dict[str, Any]
    file: NotRequired[str]
    sha256: NotRequired[str]


@dataclass(frozen=True)
class OwnFiles:
    """The users' own files that came with what is read.

    Attributes:
        folder: Where they are, each called by its sha256.
        may_run: Whether they, and modules that were imported in Python, may be run. That a record names them does not
            allow it.
    """

    folder: Path
    may_run: bool


_LARGEST = 2**63  # whole numbers beyond it are none of ours, and no number of NumPy's or torch's
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_NAMES: dict[str, str] = {}  # "module:Class" -> its name in a table
_OWN: dict[type, Origin] = {}  # classes of users' files
_ROOMS: dict[type, "Room"] = {}
_SOURCES: dict[str, str] = {}  # sha256 -> what users' files were when they were run
_MODULES: dict[str, Any] = {}  # sha256 -> what became of them: the same text is the same classes, wherever it stands


def origin_of(cls: type) -> Origin:
    """Return where a class comes from."""
    reference = f"{cls.__module__}:{cls.__qualname__}"
    return _OWN.get(cls) or Origin(_NAMES.get(reference, reference))


def own_sources(record: Any) -> dict[str, str]:
    """Return the users' own files that a record names, by their sha256, as they were when they were run."""
    if isinstance(record, Mapping):
        named = {str(record["sha256"])} if "sha256" in record else set()
        found = {sha256: _SOURCES[sha256] for sha256 in named}
        for value in record.values():
            found |= own_sources(value)
        return found
    return {k: v for item in record for k, v in own_sources(item).items()} if isinstance(record, list) else {}


class Room(Mapping[str, str]):
    """The methods of one kind: name -> "package.module:Class".

    Args:
        what: What one is called, "selector".
        contract: What each must be: an abstract dataclass.
        table: The room's own methods.
        on_request: Those that are run only when they are named.
    """

    def __init__(self, what: str, contract: type, table: Mapping[str, str], *, on_request: tuple[str, ...] = ()):
        self.what, self.contract, self.on_request = what, contract, on_request
        self._table = dict(table)
        _NAMES.update((reference, name) for name, reference in table.items())
        _ROOMS[contract] = self

    def __getitem__(self, name: str) -> str:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def group(self) -> str:
        """The entry-point group in which packages register more methods."""
        return f"kshot.{self.what.removesuffix('y')}ies" if self.what.endswith("y") else f"kshot.{self.what}s"

    def knows(self, name: str) -> bool:
        """Return whether `name` is in the table, or registered by a package."""
        return name in self._table or name in {e.name for e in entry_points(group=self.group)}

    def find(self, name: str) -> Any:
        """Return the class that `name` stands for, which fulfils the room's contract.

        Args:
            name: A name of the table, of an installed package's entry point, or "./file.py:Class".

        Raises:
            UserError: Nobody knows the name, the file has no such class, or the class lacks something.
        """
        if name in self._table:
            return resolve(self._table[name])
        if is_own(name):
            cls = own_class(name)
        else:
            more = {e.name: e for e in entry_points(group=self.group)}
            if name not in more:
                raise UserError(f"there is no {self.what} '{name}'.{did_you_mean(name, [*self._table, *more])}")
            cls = more[name].load()
            _NAMES.setdefault(f"{cls.__module__}:{cls.__qualname__}", name)
        self.check(cls, name)
        return cls

    def check(self, cls: Any, name: str) -> None:
        """Raise a UserError that says what is missing unless a class fulfils the room's contract."""
        base, article = self.contract.__name__, "an" if self.what[0] in "aeiou" else "a"
        if not (inspect.isclass(cls) and issubclass(cls, self.contract)):
            methods = ", ".join(sorted(getattr(self.contract, "__abstractmethods__", ())))
            raise UserError(
                f"'{name}' must be {article} {self.what}: a class that inherits from kshot.{base} and has {methods}; "
                f"{cls!r} does not inherit from it."
            )
        lacking = sorted(getattr(cls, "__abstractmethods__", ()))
        lacking += [trait for trait in getattr(self.contract, "traits", ()) if not hasattr(cls, trait)]
        if lacking:
            raise UserError(
                f"'{name}' must be {article} {self.what}; it lacks {', '.join(lacking)} (see kshot.{base})."
            )
        is_frozen = dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # pyright: ignore
        if not is_frozen or "__dataclass_fields__" not in vars(cls):
            raise UserError(
                f"'{name}' must be a frozen dataclass, whose fields are its settings; put @dataclass(frozen=True) "
                "before the class."
            )
        fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType] - it is a dataclass, as was looked at
        without = [f.name for f in fields if f.init and _has_no_default(f)]
        if without:
            raise UserError(f"'{name}' must have a default for each setting; {', '.join(without)} has none.")
        hints = get_type_hints(cls)
        for field in fields:
            kind = hints[field.name]
            if field.init and not field.name.startswith("_") and kind not in _KINDS and room_of(kind) is None:
                said = getattr(kind, "__name__", None) if inspect.isclass(kind) else str(kind)
                raise UserError(
                    f"'{name}' must have settings that are numbers, texts, true or false, or methods; "
                    f"'{field.name}' is {said}. Start its name with an underscore if it is no setting."
                )

    def build(self, text: str, *, also: tuple[str, ...] = ()) -> Any:
        """Return the method that a text such as "bm25(k1=1.2)" stands for.

        Raises:
            UserError: As `find` and `configure`, or brackets that are not balanced.
        """
        call = parse_call(text)
        if call.members:
            raise UserError(f"'{call.name}' takes settings alone, such as name(key=value); got '{call.members[0]}'.")
        return configure(self.find(call.name), call.settings, owner=call.name, also=also)

    def rebuild(self, record: Any, folder: Path, own: OwnFiles) -> Any:
        """Return the method that a record stands for (`Part.record`).

        Args:
            record: Name, version and settings; of a user's own the file's sha256 too.
            folder: Where `Part.save` has written what it has learnt; what a method among its settings has learnt is in
                a folder of the setting's name inside.
            own: The users' own files that came with it.

        Raises:
            UserError: There is no such method now, it has another version or other settings, or it is a user's own,
                which may not be run.
        """
        said = record
        if isinstance(record, Mapping):
            said = {key: record[key] for key in PartRecord.__annotations__ if key in record}
        about = shaped(PartRecord, said, f"The record of a {self.what}", "Adapt again.")
        name, cls = about["name"], self._recorded(about, own)
        if cls.version != about["version"]:
            raise UserError(
                f"'{name}' must have version {about['version']}, with which the model was adapted; this kshot has "
                f"version {cls.version}. Adapt again, or use the kshot that made it."
            )
        known, hints, settings = setting_names(cls), get_type_hints(cls), {}
        for key, value in about["settings"].items():
            if key not in known:
                raise UserError(f"'{name}' has no setting '{key}', which its record tells of. Adapt again.")
            room = room_of(hints[key])
            if room is None and not _is(value, hints[key]):
                said = repr(value)[:80]
                raise UserError(f"{name}:{key} must be {_KINDS[hints[key]]}; its record has {said}. Adapt again.")
            settings[key] = value if room is None else room.rebuild(value, folder / key, own)
        try:
            found = cls.rebuilt(settings, folder)
        except SettingError as error:
            raise UserError(f"{name}:{error} Its record says so; adapt again.") from None
        found.check_record(record)
        return found

    def _recorded(self, about: PartRecord, own: OwnFiles) -> Any:
        """Return the class that a record names: of the table, of a package, or, where it may be run, a user's own."""
        name, sha256 = about["name"], about.get("sha256")
        if sha256 is None and ":" not in name:
            return self.find(name)
        if sha256 is None and not all(map(str.isidentifier, re.split("[.:]", name))):
            raise UserError(f"The record of a {self.what} must name one; got {name[:80]!r}. Adapt again.")
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise UserError(f"The record of '{name}' must name a file by its sha256; got {sha256!r}. Adapt again.")
        place = own.folder / f"{sha256}.py"
        if not own.may_run:
            what = "a Python module of this name" if sha256 is None else f"the Python file {place}"
            raise UserError(
                f"'{name}' is a user's own method, and {what} would be run. Read it, and if you trust it give "
                "--allow-code (in Python allow_code=True)."
            )
        try:
            cls = resolve(name) if sha256 is None else own_class(f"{place}:{name}", about.get("file"), sha256=sha256)
        except UserError:
            raise
        except Exception as error:  # whatever a user's module does when it is imported
            raise UserError(
                f"'{name}' must be a class that can be imported, as when the model was adapted; {in_short(error)}. Put "
                "it back, or adapt again."
            ) from error
        self.check(cls, name)
        return cls


def _is(value: Any, kind: type) -> bool:
    """Return whether a recorded value is one of a kind of `_KINDS`."""
    if kind is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is kind and (kind is not int or abs(value) < _LARGEST)


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def room_of(hint: Any) -> Room | None:
    """Return the room whose methods a setting of this type can be; None for other types."""
    return _ROOMS.get(hint) if inspect.isclass(hint) else None


def is_own(name: str) -> bool:
    """Return whether a name stands for a class in a user's own file."""
    return ".py:" in name


def own_class(name: str, file: str | None = None, *, sha256: str | None = None) -> Any:
    """Return a class of a user's own file, "./file.py:Class"; the same text is run once.

    Args:
        name: The file and the class.
        file: What the record calls the file, if it is a copy.
        sha256: What the file must be; None takes it as it is.

    Raises:
        UserError: There is no such file or class, or the file is not what it was.
    """
    path, _, what = name.rpartition(":")
    place = path_of(path)
    if not place.is_file():
        raise UserError(f"'{name}' must name a Python file; {path} does not exist.")
    try:
        source = place.read_bytes()
    except OSError as error:
        raise UserError(f"{path} must be a readable Python file; the system says: {error.strerror}.") from None
    found = hashlib.sha256(source).hexdigest()
    if sha256 and found != sha256:
        raise UserError(f"{path} must be the file with which '{what}' was used; it has changed. Adapt again.")
    try:
        _SOURCES.setdefault(found, source.decode("utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path} must be Python in UTF-8; it is in another encoding. Save it as UTF-8.") from None
    module = _MODULES.get(found) or _module(place.resolve(), found)
    if not hasattr(module, what):
        raise UserError(f"{path} must define '{what}'; it defines no such class.")
    cls = getattr(module, what)
    if inspect.isclass(cls):
        _OWN[cls] = Origin(what, Path(file) if file else place, found)
    return cls


def _module(file: Path, sha256: str) -> Any:
    """Run a user's file: what was read and is called by its hash, never what Python has compiled of it before."""
    name = f"kshot_own_{file.stem}_{sha256[:8]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up annotations there
    try:
        exec(compile(_SOURCES[sha256], file, "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        raise UserError(
            f"{file} must be Python that can be run; {type(error).__name__}: {error}{_line(error, file)}."
        ) from error
    _MODULES[sha256] = module
    return module


def _line(error: Exception, file: Path) -> str:
    """Return the last line of a file that an error has passed, in words."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    at = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f" (line {at})" if at else ""


def configure(cls: type, settings: Mapping[str, str], *, owner: str, also: tuple[str, ...] = ()) -> Any:
    """Build the frozen dataclass `cls` from settings written as text; `also` are settings that its owner takes.

    Raises:
        UserError: An unknown setting, or a value of the wrong type.
    """
    fields = {f.name for f in dataclasses.fields(cls) if f.init and not f.name.startswith("_")}
    hints = get_type_hints(cls)
    values = {}
    for key, text in settings.items():
        if key not in fields:
            remedy = did_you_mean(key, [*fields, *also]) if fields or also else " It has none; leave it out."
            why = getattr(cls, "absent", {}).get(key)
            raise UserError(f"'{owner}' has no setting '{key}'.{f' {why}. Leave it out.' if why else remedy}")
        values[key] = _parse(text, hints[key], f"{owner}:{key}")
    try:
        return cls(**values)
    except SettingError as error:
        raise UserError(f"{owner}:{error}") from None


def _parse(text: str, kind: Any, where: str) -> Any:
    room = room_of(kind)
    if room is not None:
        return room.build(text)
    words = {"true": True, "false": False}
    try:
        return words[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise UserError(f"{where} must be {_KINDS.get(kind, kind.__name__)}; got '{text}'.") from None
