"""JSON schemas of a graph: what Studio and the clients draw their forms from.

Promises: only public attributes of the graph are read, nothing of the graph runs, and
a type that has no JSON schema gives None instead of an error. The schema of a state
names neither managed values (nobody sends `RemainingSteps`) nor reducers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import GenericAlias, UnionType
from typing import (
    Annotated,
    Any,
    NotRequired,
    Required,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import structlog
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from pydantic import TypeAdapter
from typing_extensions import TypedDict, is_typeddict

CompiledGraph: TypeAlias = Pregel[Any, Any, Any, Any]
JsonSchema: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class GraphSchemas:
    """The JSON schemas of one graph; None where none can be derived.

    `config` describes `config.configurable`, which carries the same keys as the
    graph's context.
    """

    input: JsonSchema | None
    output: JsonSchema | None
    state: JsonSchema | None
    config: JsonSchema | None
    context: JsonSchema | None


def derive_schemas(graph: CompiledGraph) -> GraphSchemas:
    """Derives what can be derived; the rest is None and logged at debug level."""
    context = _schema(graph, "context", graph.context_schema)
    if isinstance(graph, CompiledStateGraph):
        builder = graph.builder
        types = (builder.input_schema, builder.output_schema, builder.state_schema)
        hidden = frozenset(builder.managed)
    else:
        types = (graph.InputType, graph.OutputType, graph.OutputType)
        hidden = frozenset()
    input_, output, state = (
        _without(_schema(graph, name, type_), hidden)
        for name, type_ in zip(("input", "output", "state"), types, strict=True)
    )
    return GraphSchemas(input_, output, state, config=context, context=context)


def _schema(graph: CompiledGraph, what: str, type_: object) -> JsonSchema | None:
    if type_ is None:
        return None
    try:
        return TypeAdapter(_portable(type_, {})).json_schema()
    except Exception as error:  # noqa: BLE001 - a user's type may raise anything here
        structlog.get_logger(__name__).debug(
            "graph.no_json_schema", graph=graph.name, schema=what, error=str(error)
        )
        return None


def _without(schema: JsonSchema | None, names: frozenset[str]) -> JsonSchema | None:
    if schema is None or not names:
        return schema
    kept = {k: v for k, v in schema.get("properties", {}).items() if k not in names}
    required = [k for k in schema.get("required", ()) if k not in names]
    rest = {k: v for k, v in schema.items() if k not in {"properties", "required"}}
    return {**rest, "properties": kept, **({"required": required} if required else {})}


def _portable(type_: Any, known: dict[Any, Any]) -> Any:
    """The type with every `typing.TypedDict` in it rebuilt as `typing_extensions`'.

    Pydantic refuses the standard library's before Python 3.12, and most states are
    one.
    """
    if sys.version_info >= (3, 12):
        return type_
    if is_typeddict(type_):
        return _portable_typeddict(type_, known)
    origin, args = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return Annotated[(_portable(args[0], known), *type_.__metadata__)]
    arguments = tuple(_portable(arg, known) for arg in args)
    if origin in {Union, UnionType}:
        return Union[arguments]  # noqa: UP007 - built from a tuple
    if isinstance(type_, GenericAlias):
        return GenericAlias(origin, arguments)
    return type_.copy_with(arguments) if hasattr(type_, "copy_with") else type_


def _portable_typeddict(type_: Any, known: dict[Any, Any]) -> Any:
    if type_ not in known:
        known[type_] = dict[str, Any]  # what a type that holds itself sees of itself
        fields = {
            name: _portable_field(hint, known, required=name in type_.__required_keys__)
            for name, hint in get_type_hints(type_, include_extras=True).items()
        }
        rebuild: Any = TypedDict  # the functional form, with computed fields
        known[type_] = rebuild(type_.__name__, fields)
    return known[type_]


def _portable_field(hint: Any, known: dict[Any, Any], *, required: bool) -> Any:
    if get_origin(hint) in {Required, NotRequired}:
        required = get_origin(hint) is Required
        hint = get_args(hint)[0]
    value = _portable(hint, known)
    return Required[value] if required else NotRequired[value]
