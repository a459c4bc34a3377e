"""The block ``compare`` as a JSON schema, for editors."""

from __future__ import annotations

from typing import Any

from mipkd_plugin.compare.checks import ABLATE, COMPARE, CONTROL
from mipkd_plugin.compare.methods import METHOD, OTHER_TEACHER, SHARED_TEACHER
from mipkd_plugin.config.keys import TEACHER
from mipkd_plugin.config.schema import DISTILLATION, table


def compare_schema() -> dict[str, Any]:
    """The schema of the block: its own keys, and methods with their losses and further settings.

    Returns:
        The schema; its references are to the definitions of :func:`~mipkd_plugin.config.schema.option_file_schema`.
    """
    losses = {'$ref': DISTILLATION}
    own = {key: entry for key, entry in TEACHER.items() if key not in SHARED_TEACHER}
    blocks = {key: {'anyOf': [{'$ref': f'#/$defs/{key}'}, {'type': 'null'}]} for key in ('distill', 'eco')}
    teacher = table({**own, 'param_key': TEACHER['param_key']}, 'teacher', when=(), closed=True)
    teacher['dependentRequired'] = {'param_key': [OTHER_TEACHER]}
    settings = table(METHOD, 'compare.methods.*', {
        'losses': losses, **blocks, 'teacher': teacher,
        'teachers': {'type': 'object', 'additionalProperties': table(own, 'teacher', when=(), closed=True)}},
        closed=True)
    settings['anyOf'] = [{'required': ['losses']}, {'required': ['init']},
                         {'properties': {'eco': {'type': 'object'}}, 'required': ['eco']}]
    is_block = {'type': 'object', 'anyOf': [{'required': [key]} for key in ('losses', 'eco', 'init')]}
    method = {'if': is_block, 'then': settings, 'else': losses}
    return table(COMPARE, 'compare', {
        'seeds': {'type': 'array', 'minItems': 1, 'uniqueItems': True,
                  'items': {'type': 'integer', 'minimum': 0, 'exclusiveMaximum': 2**31}},
        'methods': {'type': 'object', 'minProperties': 1, 'properties': {CONTROL: False},
                    'additionalProperties': method},
        'equal_time': {'type': ['boolean', 'string']},
        'ablate': table(ABLATE, 'compare.ablate', closed=True)}, closed=True)
