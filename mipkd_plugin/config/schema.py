"""The option file as a JSON schema (draft 2020-12), for editors: made from the tables and classes that the check uses.

It refuses nothing that the check takes. It cannot say all that the check says: whether files exist, networks run, or
numbers fit to each other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY

from mipkd_plugin.config.data_set_tables import DATA_SETS
from mipkd_plugin.config.eco import EcoSchedule
from mipkd_plugin.config.key_texts import TEXTS
from mipkd_plugin.config.keys import (
    DATASET,
    IO_BACKENDS,
    OF_SEVERAL,
    SECTIONS,
    TEACHER,
    TOP,
    Key,
)
from mipkd_plugin.config.model_classes import is_known
from mipkd_plugin.config.schedule import DistillSchedule
from mipkd_plugin.config.schema_components import Schema, by_type, classes_of, of_signature, versions
from mipkd_plugin.config.schema_models import known, of_models, strict_models, table
from mipkd_plugin.config.training import scheduler_classes
from mipkd_plugin.losses.base import DistillationLoss

__all__ = ['DISTILLATION', 'DRAFT', 'option_file_schema', 'table']

DRAFT = 'https://json-schema.org/draft/2020-12/schema'
DISTILLATION = '#/$defs/distillation'
_OR_NONE: Schema = {'type': 'null'}


def option_file_schema(imports: Sequence[str] = (), blocks: Mapping[str, Schema] | None = None) -> Schema:
    """The schema of an option file, with all networks, losses, models and data sets that are registered now.

    Args:
        imports: Entries of ``imports`` whose classes are registered; a file that names others may hold names that this
            schema does not know.
        blocks: Further blocks at the top level, whose keys ``config`` does not know.

    Returns:
        The schema.
    """
    for part in ('data', 'metrics', 'models'):  # these imports register BasicSR's classes
        importlib.import_module(f'basicsr.{part}')

    models = classes_of(MODEL_REGISTRY)
    strict = {name: cls for name, cls in models.items() if all(is_known(c) for c in cls.__mro__)}
    distilling = [name for name, cls in models.items() if any(c.__name__ == 'DistillMixin' for c in cls.__mro__)]
    definitions, places = _definitions()
    definitions['model.names'] = {'enum': list(models)}
    definitions['data_set.names'] = {'enum': list(classes_of(DATASET_REGISTRY))}
    sections = {path: table(keys, path, places.get(path), ()) for path, keys in SECTIONS.items()}
    top = {**{path: section for path, section in sections.items() if '.' not in path}, **places['']}
    top['val'] = {'anyOf': [sections['val'], _OR_NONE]}
    own = dict(blocks or {})
    schema = {'$schema': DRAFT, 'title': 'mipkd-plugin',
              '$comment': f'Made by mipkd check --schema: {versions("mipkd-plugin", "basicsr", "torch", "spandrel")}',
              **table(TOP, '', top)}
    schema['properties']['model_type'] |= {'anyOf': [{'enum': list(models)}, {'type': 'string'}]}
    schema['properties'].update({name: {**block, 'description': TEXTS[name]} for name, block in own.items()})
    schema['patternProperties'] = {'^network_': {'$ref': '#/$defs/network'}}
    schema['allOf'] = [_phases(), _names(imports), *strict_models(strict, own), _teaching(distilling, imports)]
    schema['$defs'] = dict(sorted(definitions.items()))
    return schema


def _definitions() -> tuple[dict[str, Schema], dict[str, dict[str, Schema]]]:
    """The definitions, and the schemas of blocks by section and key."""
    losses = classes_of(LOSS_REGISTRY)
    distills = {name: loss for name, loss in losses.items()
                if isinstance(loss, type) and issubclass(loss, DistillationLoss)}
    better = {'better': {'enum': ['higher', 'lower'], 'default': 'higher',
                         'description': 'Whether a higher or a lower value is better.'}}
    definitions: dict[str, Schema] = {}
    for label, made in {
            'network': by_type(classes_of(ARCH_REGISTRY), 'network', shared=False),
            'loss': by_type({k: v for k, v in losses.items() if k not in distills}, 'loss', shared=True),
            'distillation_loss': by_type(distills, 'distillation_loss', shared=False, more={
                'teacher': {'description': TEXTS['train.distill_opt.teacher']}}),
            'metric': by_type(classes_of(METRIC_REGISTRY), 'metric', True, ('img', 'img2'), better),
            'scheduler': by_type(scheduler_classes(), 'scheduler', True, ('optimizer', )),
            'optimizer': by_type(_optimizers(), 'optimizer', True, ('params', ))}.items():
        definitions[label], more = made
        definitions.update(more)
    definitions['optimizer.Adam'].setdefault('required', []).append('lr')
    one = {'$ref': '#/$defs/distillation_loss'}
    definitions['distillation'] = {'if': {'type': 'array'}, 'then': {'type': 'array', 'minItems': 1, 'items': one},
                                   'else': one}
    for name, schedule in (('distill', DistillSchedule), ('eco', EcoSchedule)):
        definitions[name] = {'type': 'object', **of_signature(schedule, given=('self', 'total_iter'), typed=False)}
    definitions['training_set'], definitions['other_set'] = _data_sets(('always', 'train')), _data_sets(('always', ))
    network, loss = {'$ref': '#/$defs/network'}, {'anyOf': [{'$ref': '#/$defs/loss'}, _OR_NONE]}
    other_set = {'$ref': '#/$defs/other_set'}
    return definitions, {
        '': {'network_g': network, 'teacher': table(TEACHER, 'teacher', {'network': network}, ()),
             'teachers': {'type': 'array', 'minItems': 1, 'items': _named_teacher()},
             'imports': {'type': ['array', 'null'], 'items': {'type': 'string'}},
             'datasets': {'type': 'object', 'properties': {'train': {'$ref': '#/$defs/training_set'}},
                          'patternProperties': {'^(val|test)(_.*)?$': other_set}}},
        'train': {'pixel_opt': loss, 'perceptual_opt': loss, 'distill_opt': {'type': ['object', 'array']},
                  'distill': {'type': ['object', 'null']}, 'eco': {'type': ['object', 'null']}},
        'val': {'metrics': {'type': ['object', 'null'], 'additionalProperties': {'$ref': '#/$defs/metric'}}},
        'logger': {'wandb': {'anyOf': [table(SECTIONS['logger.wandb'], 'logger.wandb'), _OR_NONE]}}}


def _teacher() -> Schema:
    """A teacher: weights, or the file of an aggregator."""
    keys = {**TEACHER, 'weights': Key(TEACHER['weights'].kind)}
    block = table(keys, 'teacher', {'network': {'$ref': '#/$defs/network'}}, closed=True)
    return {**block, 'anyOf': [{'required': ['weights']}, {'required': ['aggregate']}]}


def _named_teacher() -> Schema:
    """One of several teachers."""
    block = _teacher()
    name = table(OF_SEVERAL, 'teachers')
    return {**block, 'properties': {**name['properties'], **block['properties']},
            'required': [*name['required'], *block.get('required', ())]}


def _optimizers() -> dict[str, Any]:
    from torch.optim import Adam

    return {'Adam': Adam}


def _data_sets(when: Sequence[str]) -> Schema:
    """A data set: the tables of the classes that are known, and what all have in common."""
    others = [name for name in classes_of(DATASET_REGISTRY) if name not in DATA_SETS]
    backend = {'type': 'object', 'required': ['type'], 'properties': {'type': {'enum': ['disk', 'lmdb']}}, 'allOf': [
        {'if': {'properties': {'type': {'const': kind}}, 'required': ['type']}, 'then': {
            'properties': {key: entry.kind.schema or True for key, entry in IO_BACKENDS[kind].items()},
            'additionalProperties': False}} for kind in ('disk', 'lmdb')]}
    places: dict[str, Schema] = {
        'io_backend': backend, 'type': {'anyOf': [{'enum': [*DATA_SETS, *others]}, {'type': 'string'}]}}
    block = table(DATASET, 'datasets.*', places, when)
    block['allOf'] = [{'if': {'properties': {'type': {'const': name}}, 'required': ['type']},
                       'then': table(keys, 'datasets.*', places, when, closed=True)}
                      for name, keys in DATA_SETS.items()]
    return block


def _phases() -> Schema:
    """What is required in a file for training, and in one for a test."""
    def needed(section: str, when: tuple[str, ...]) -> list[str]:
        return [key for key, entry in SECTIONS[section].items() if entry.needed in when]

    def part(kind: str) -> Schema:
        return {'required': [key for key, entry in TOP.items() if entry.needed == kind], 'properties': {
            name: {'required': needed(name, ('always', kind))} for name in ('val', 'logger', 'path')}}

    train, test = part('train'), part('test')
    train['properties'] |= {'train': {'required': needed('train', ('always', 'train'))}, 'datasets': {
        'required': ['train'], 'propertyNames': {'pattern': '^(train|val(_.*)?)$'}}}
    test['properties']['datasets'] = {'minProperties': 1, 'propertyNames': {'pattern': '^(test|val)(_.*)?$'}}
    return {'if': {'required': ['train']}, 'then': train, 'else': test}


def _seen(imports: Sequence[str]) -> Schema:
    """A file that imports nothing that this schema has not seen: there all names must be known."""
    return {'properties': {'imports': {'items': {'enum': list(imports)}}}}


def _names(imports: Sequence[str]) -> Schema:
    network, loss = known('network'), known('loss')
    return {'if': _seen(imports), 'then': {'properties': {
        'model_type': {'$ref': '#/$defs/model.names'}, 'network_g': network,
        'teacher': {'properties': {'network': network}},
        'teachers': {'items': {'properties': {'network': network}}},
        'datasets': {'additionalProperties': known('data_set')},
        'train': {'properties': {'pixel_opt': loss, 'perceptual_opt': loss}},
        'val': {'properties': {'metrics': {'additionalProperties': known('metric')}}}}}}


def _teaching(models: Sequence[str], imports: Sequence[str]) -> Schema:
    """What models that distill read: the teacher, and the losses."""
    losses = {'if': {'type': 'array'}, 'then': {'items': known('distillation_loss')},
              'else': known('distillation_loss')}
    return of_models(models, {
        'properties': {
            'teacher': _teacher(),
            'train': {'properties': {'distill_opt': {'$ref': DISTILLATION},
                                     **{key: {'anyOf': [{'$ref': f'#/$defs/{key}'}, _OR_NONE]}
                                        for key in ('distill', 'eco')}}}},
        'allOf': [{'if': {'required': ['train'], 'not': {'required': ['compare']}}, 'then': {
                       'anyOf': [{'required': ['teacher']}, {'required': ['teachers']}],
                       'properties': {'train': {'anyOf': [{'required': ['distill_opt']}, {
                           'required': ['eco'], 'properties': {'eco': {'type': 'object'}}}]}}}},
                  {'if': _seen(imports), 'then': {'properties': {'train': {'properties': {'distill_opt': losses}}}}}]})
