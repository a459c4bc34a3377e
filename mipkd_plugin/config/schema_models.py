"""The part of the JSON schema that depends on the model class: which keys it reads, and that it reads no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mipkd_plugin.config.degradation_keys import TABLES
from mipkd_plugin.config.key_texts import TEXTS
from mipkd_plugin.config.keys import ANYTHING, FLAG, MAPPING, SECTIONS, TOP, Key
from mipkd_plugin.config.schema_components import Schema


def table(keys: Mapping[str, Key], path: str, places: Mapping[str, Schema] | None = None,
          when: Sequence[str] = ('always', ), closed: bool = False) -> Schema:
    """The schema of one section.

    Args:
        keys: Its table.
        path: Its YAML path, for the texts.
        places: Schema by key, for keys that are blocks.
        when: The keys to require: those that are needed then.
        closed: Whether other keys are refused.

    Returns:
        The schema of the block.
    """
    prefix, places = f'{path}.' if path else '', places or {}
    properties = {}
    for key, entry in keys.items():
        said = '' if key in places or entry.kind in (MAPPING, ANYTHING, FLAG) else f' Must be {entry.kind.name}.'
        properties[key] = {**places.get(key, entry.kind.schema), 'description': TEXTS[f'{prefix}{key}'] + said}
    schema: Schema = {'type': 'object', 'properties': properties}
    needed = [key for key, entry in keys.items() if entry.needed in when]
    if needed:
        schema['required'] = needed
    if closed:
        schema['additionalProperties'] = False
    return schema


def known(label: str) -> Schema:
    """A block whose type is one of the registered classes."""
    return {'properties': {'type': {'$ref': f'#/$defs/{label}.names'}}}


def _closed(keys: Iterable[str], blocks: Mapping[str, Schema] | None = None) -> Schema:
    return {'properties': {**dict.fromkeys(keys, True), **(blocks or {})}, 'additionalProperties': False}


def of_models(models: Sequence[str], then: Schema) -> Schema:
    """What holds for some model classes."""
    return {'if': {'properties': {'model_type': {'enum': list(models)}}, 'required': ['model_type']}, 'then': then}


def strict_models(models: Mapping[str, type], blocks: Iterable[str]) -> list[Schema]:
    """Model classes of others may read other keys; in the files of ours an unknown key is refused.

    Args:
        models: Class by name, of those whose keys are all known.
        blocks: Further blocks at the top level, whose keys ``config`` does not know.

    Returns:
        One schema for the classes that read the same keys.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, cls in models.items():
        groups.setdefault(tuple(c.__name__ for c in cls.__mro__ if c.__name__ in TABLES), []).append(name)
    return [of_models(names, _strict(bases, blocks)) for bases, names in groups.items()]


def _strict(bases: Sequence[str], blocks: Iterable[str]) -> Schema:
    inner: dict[str, dict[str, Schema]] = {
        'train': {'optim_g': _optimizer(), 'scheduler': {'$ref': '#/$defs/scheduler', **known('scheduler')}},
        'logger': {'wandb': _closed(SECTIONS['logger.wandb'])}}
    own: dict[str, dict[str, Key]] = {}
    for base in bases:
        for section, keys in TABLES[base].items():
            own.setdefault(section, {}).update(keys)
    if 'network_d' in own.get('', {}):
        inner['train']['optim_d'] = _optimizer()
        inner['path'] = {f'{key}_d': dict(SECTIONS['path'][f'{key}_g'].kind.schema)
                         for key in ('pretrain_network', 'param_key', 'strict_load')}
    sections = {}
    for path in (path for path in SECTIONS if '.' not in path):
        further = {**table(own.get(path, {}), path)['properties'], **inner.get(path, {})}
        sections[path] = _closed([*SECTIONS[path], *further], further)
    top = {key: entry for key, entry in own.get('', {}).items() if key != 'network_d'}
    return _closed([*TOP, *blocks, *own.get('', {})], {**table(top, '')['properties'], **sections})


def _optimizer() -> Schema:
    return {'$ref': '#/$defs/optimizer', **known('optimizer')}
