"""Finds settings in the environment and says clearly what is wrong with them.

Why apart from `settings`: that page lists what can be set, this one holds how a name
is looked up and how an error reads. It knows no setting by name.

Promises: pure functions over mappings; a secret's value appears in no message and no
`repr`; every message names the variable as the operator wrote it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

PREFIX = "THREADMILL_"

#: Names of ours that are no settings and are never reported as misspelt.
_RESERVED = re.compile(r"THREADMILL_(FAULTS|TEST_\w+)")

# As libpq cuts a URI: what an @ leads to lies before the first slash.
_URI = re.compile(
    r"postgres(?:ql)?://(?:[^@/]*@)?(?P<hosts>[^/?]*)(?:/(?P<database>[^?]*))?"
)
# A host or several, as NATS takes them; what is behind the port differs by broker.
_BROKER = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[^@/?#]*@)?(?P<hosts>[^@/?#]+)"
    r"(?P<path>/[^@?#]*)?(?:\?[^#]*)?"
)
_HOST = re.compile(r"(?:\[[^\]@]*\]|[^:@\[\]]*)(?::\d*)?")

Fields = Mapping[str, FieldInfo]


@dataclass(frozen=True, slots=True)
class Env:
    """The environment names of one setting; `name` wins over `alias`."""

    name: str
    alias: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, the winning one first."""
        return (self.name,) if self.alias is None else (self.name, self.alias)


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """What the reference page and `threadmill doctor` say about one setting."""

    field: str
    names: tuple[str, ...]
    type: str
    bounds: str
    default: str
    description: str


@dataclass(frozen=True, slots=True, repr=False)
class Found:
    """A value as found, with where it stood; no `repr`, it may be a secret."""

    name: str
    value: str
    origin: str


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """One set of variables; `origin` is what messages add to a name from it."""

    variables: Mapping[str, str]
    origin: str = ""

    def get(self, name: str) -> Found | None:
        """The value under `name`; an empty one counts as unset."""
        value = self.variables.get(name, "").strip()
        return Found(name, value, self.origin) if value else None


def read(fields: Fields, sources: Sequence[Source]) -> dict[str, Found]:
    """Finds each field's value: an earlier source wins, then the earlier name."""
    found = {}
    for field, info in fields.items():
        candidates = (s.get(name) for s in sources for name in _env(info).names)
        value = next((c for c in candidates if c is not None), None)
        if value is not None:
            found[field] = value
    return found


def warnings(fields: Fields, source: Source) -> Iterator[str]:
    """One line per misspelt name and per setting given twice with two values."""
    known = {name for info in fields.values() for name in _env(info).names}
    for name in sorted(source.variables):
        ours = name.upper().startswith(PREFIX) and not _RESERVED.fullmatch(name)
        if ours and name not in known:
            yield f"{name}{source.origin} is no setting; {_suggestion(name, known)}"
    for info in fields.values():
        found = [f for name in _env(info).names if (f := source.get(name))]
        if len({f.value for f in found}) > 1:
            winner, *others = (f.name for f in found)
            yield (
                f"{winner} and {', '.join(others)}{source.origin} differ;"
                f" {winner} is used, remove the other"
            )


def explain(
    error: ValidationError, fields: Fields, found: Mapping[str, Found]
) -> list[str]:
    """One line per wrong variable; secrets' values are left out."""
    lines: dict[str, str] = {}
    for details in error.errors(include_url=False):
        reason = _reason(details)
        if not details["loc"]:
            lines.update({line: line for line in reason.split("\n")})
            continue
        field = str(details["loc"][0])
        lines.setdefault(field, _problem(fields[field], found[field], reason))
    return list(lines.values())


def describe(fields: Fields) -> Iterator[SettingDescription]:
    """Yields the description of every field, in order."""
    for field, info in fields.items():
        yield SettingDescription(
            field=field,
            names=_env(info).names,
            type=_type_text(field, info),
            bounds=_bounds_text(info),
            default=_default_text(info.default),
            description=" ".join((info.description or "").split()),
        )


def is_misread(uri: str) -> bool:
    """Whether libpq would take a part of the password for the host or the database.

    So it is when a user or password holds an @ or a slash that is not escaped. What is
    no URI, such as `host=... password=...`, is read as it stands.
    """
    cut = _URI.match(uri)
    if cut is None:
        return False
    if "@" in (cut["database"] or ""):
        return True
    return not all(_HOST.fullmatch(host) for host in cut["hosts"].split(","))


def broker_problem(uri: str) -> str | None:
    """What is wrong with the form of a broker's URI, if anything; shows none of it."""
    cut = _BROKER.fullmatch(uri)
    if cut is None or not all(map(_HOST.fullmatch, cut["hosts"].split(","))):
        return (
            "it must be scheme://user:password@host:port, with user and password "
            "percent-encoded (@ as %40, / as %2F, : as %3A)"
        )
    if cut["scheme"].startswith("postgres"):
        return "PostgreSQL is used where it is empty: unset it"
    if cut["scheme"] == "sqs" and not re.fullmatch(r"/[\w-]+", cut["path"] or ""):
        return "it must be sqs://region/queue; credentials are those of AWS's settings"
    return None


def number_text(value: float) -> str:
    """A number as an operator writes it: 10, not 10.0."""
    return str(int(value)) if float(value).is_integer() else str(value)


def _env(info: FieldInfo) -> Env:
    return next(item for item in info.metadata if isinstance(item, Env))


def _suggestion(name: str, known: set[str]) -> str:
    """The closest name of ours; the shared prefix says nothing about closeness."""
    ours = sorted(n.removeprefix(PREFIX) for n in known if n.startswith(PREFIX))
    rest = name.upper().removeprefix(PREFIX)
    if close := difflib.get_close_matches(rest, ours, n=1):
        return f"did you mean {PREFIX}{close[0]}?"
    return "see docs/reference/settings.md for those that exist"


def _problem(info: FieldInfo, found: Found, reason: str) -> str:
    shown = "" if _is_secret(info) else f"={_shortened(found.value)}"
    default = _default_text(info.default)
    advice = "" if default == "none" else f"; unset it to use the default ({default})"
    return f"{found.name}{shown}{found.origin}: {reason}{advice}"


def _reason(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if "error" in context:
        return str(context["error"])
    message = details["msg"].replace("Input should", "it should", 1)
    return message[:1].lower() + message[1:]


def _shortened(value: str, characters_max: int = 60) -> str:
    if len(value) <= characters_max:
        return repr(value)
    return repr(value[:characters_max]) + "..."


def _is_secret(info: FieldInfo) -> bool:
    return SecretStr in (info.annotation, *get_args(info.annotation))


def _default_text(default: object) -> str:
    if default is None or default == "":
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int | float):
        return number_text(default)
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _bounds_text(info: FieldInfo) -> str:
    low = next((item.ge for item in info.metadata if isinstance(item, Ge)), None)
    high = next((item.le for item in info.metadata if isinstance(item, Le)), None)
    if low is None or high is None:
        return "none"
    return f"{low} to {high}"


def _type_text(field: str, info: FieldInfo) -> str:
    annotation = info.annotation
    if _is_secret(info):
        return "URI (secret)"
    if get_origin(annotation) is Literal:
        return ", ".join(get_args(annotation))
    if bool in (annotation, *get_args(annotation)):
        return "true, false"
    if field.endswith("_seconds"):
        return "seconds"
    if field.endswith("_bytes_max"):
        return "bytes"
    return "whole number" if annotation is int else "text"
