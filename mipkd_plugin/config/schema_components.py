"""JSON schemas of what is built by name: networks, losses, metrics, models and data sets, as they are registered."""

from __future__ import annotations

import functools
import inspect
import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from basicsr.utils.registry import Registry
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from mipkd_plugin.config.components import takes_unknown
from mipkd_plugin.config.keys import ARGUMENTS, Kind
from mipkd_plugin.config.registered import lookup, names_in
from mipkd_plugin.utils.docstrings import Argument, arguments, summary
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError

Schema = dict[str, Any]
_NUMBERS = ('int', 'float')


def classes_of(registry: Registry, fits: Callable[[Any], bool] = lambda found: True) -> dict[str, Any]:
    """The classes of a registry by name; those that cannot be imported here are left out."""
    found = {}
    for name in names_in(registry):
        try:
            found[name] = lookup(registry, name)
        except MipkdError:  # of an installed package that lacks something
            continue
    return {name: entry for name, entry in sorted(found.items()) if entry is not None and fits(entry)}


def by_type(entries: Mapping[str, Any], label: str, shared: bool, given: Iterable[str] = (),
            more: Mapping[str, Schema] | None = None, text: str = '') -> tuple[Schema, Schema]:
    """The schema of a block ``{type: NAME, …}``: for each type its arguments.

    Args:
        entries: Class or function by name.
        label: First part of the names of the definitions, as ``network``.
        shared: Whether the arguments of the table ``ARGUMENTS`` have its kinds here.
        given: Arguments that BasicSR passes itself.
        more: Further allowed keys.
        text: What the block is.

    Returns:
        (the block, its definitions).
    """
    named = [{'const': name, 'description': summary(entry)} if summary(entry) else {'const': name}
             for name, entry in entries.items()]
    block: Schema = {'type': 'object', 'required': ['type'], 'properties': {'type': {
        'description': 'Name of the class, as it is registered.', 'anyOf': [*named, {'type': 'string'}]}}}
    if text:
        block['description'] = text
    block['allOf'] = [{'if': {'properties': {'type': {'const': name}}, 'required': ['type']},
                       'then': {'$ref': f'#/$defs/{label}.{name}'}} for name in entries]
    definitions = {f'{label}.{name}': of_signature(entry, shared, given, more) for name, entry in entries.items()}
    definitions[f'{label}.names'] = {'enum': list(entries)}
    return block, definitions


def of_signature(function: Callable[..., Any], shared: bool = False, given: Iterable[str] = (),
                 more: Mapping[str, Schema] | None = None, typed: bool = True) -> Schema:
    """The arguments of a class or function, as the check takes them.

    Args:
        function: The class or function.
        shared: Whether the arguments of the table ``ARGUMENTS`` have its kinds here.
        given: Arguments that BasicSR passes itself.
        more: Further allowed keys.
        typed: Whether the key ``type`` stands beside them.

    Returns:
        The schema of the block.
    """
    found = {name: p for name, p in inspect.signature(function).parameters.items()
             if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and name not in given}
    said, hints = arguments(function), _hints(function)
    properties: Schema = {'type': True} if typed else {}
    for name, parameter in found.items():
        kind = ARGUMENTS.get(name) if shared else None
        properties[name] = _argument(parameter, hints.get(name), said.get(name, Argument('')), kind)
    properties.update(more or {})
    schema: Schema = {'properties': properties}
    needed = [name for name, p in found.items() if p.default is p.empty]
    if needed:
        schema['required'] = needed
    if not takes_unknown(function, given):
        schema['additionalProperties'] = False
    return schema


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by name; empty where they name what nobody can find."""
    try:
        return typing.get_type_hints(function.__init__ if isinstance(function, type) else function,  # type: ignore[misc]
                                     include_extras=True)
    except FOREIGN_ERRORS:
        return {}


def _argument(parameter: inspect.Parameter, hint: Any, said: Argument, kind: Kind | None) -> Schema:
    """The values of one argument: from the shared table, its annotation, or what its docstring calls a number."""
    default = parameter.default
    schema: Schema = {}
    if kind is not None:
        schema = dict(kind.schema)
    elif hint is not None:
        schema = _of_annotation(hint, default)
    elif said.kind in _NUMBERS and (default is parameter.empty or _is_number(default)):
        schema = {'type': 'number'}
    text = said.text
    if said.kind and hint is None:
        text = f'({said.kind}) {text}'
    if text:
        schema['description'] = text
    plain = _plain(default)
    if default is not parameter.empty and plain is not _NOTHING:
        schema['default'] = plain
    return schema or {'description': 'Argument of the class.'}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _of_annotation(hint: Any, default: Any) -> Schema:
    """The schema that pydantic makes of an annotation; empty without one, or if it refuses the class's own default."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(hint)
        schema = adapter.json_schema()
        if default is not inspect.Parameter.empty:
            adapter.validate_python(default)
    except (PydanticUserError, ValidationError, *FOREIGN_ERRORS):
        return {}
    schema.pop('title', None)
    return {} if '$defs' in schema else schema


_NOTHING = object()


def _plain(value: Any) -> Any:
    """A default as YAML would hold it; ``_NOTHING`` if it cannot."""
    try:
        found = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return _NOTHING
    return found if not isinstance(found, float) or math.isfinite(found) else _NOTHING


@functools.cache
def versions(*packages: str) -> str:
    """Names and versions of packages, as a schema that depends on them names them."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for package in packages:
        try:
            found.append(f'{package} {version(package)}')
        except PackageNotFoundError:
            continue
    return ', '.join(found)
