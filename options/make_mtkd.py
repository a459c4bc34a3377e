"""Makes the option files of MTKD's set, for options/make.py: three teachers of three architectures -> a small EDSR."""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from textwrap import indent
from typing import Any

FOLDER = Path(__file__).resolve().parent
SIZES = {2: ('1.09M', '1.37M'), 3: ('1.32M', '1.55M'), 4: ('1.34M', '1.52M')}
"""Number of parameters of aggregator and student, by scale."""


def family(pairs: Mapping[str, Any]) -> dict[str, bytes]:
    """Make all files.

    Args:
        pairs: The table ``PAIRS`` of options/make.py, which knows the teachers.

    Returns:
        Names and contents.
    """
    made = {}
    for scale in SIZES:
        for name, template in (('MTKD_aggregate', 'make_mtkd_aggregate'), ('MTKD_EDSR', 'make_mtkd')):
            text = Template((FOLDER / f'{template}.template').read_text(encoding='utf-8'))
            gt_size = (64 if name == 'MTKD_aggregate' else 32) * scale
            values = {**values_of(pairs, scale), 'name': f'{name}_x{scale}', 'gt_size': gt_size}
            made[f'train_{name}_x{scale}.yml'] = text.substitute(values).encode()
    return made


def values_of(pairs: Mapping[str, Any], scale: int) -> dict[str, object]:
    """What fills the placeholders of both templates."""
    student = {'num_feat': '64', 'res_scale': '1', 'scale': scale}
    network = Template(pairs['EDSR'].network).substitute(student).replace('num_block: 32', 'num_block: 16')
    values: dict[str, object] = {'scale': scale, 'student': indent(network, ' ' * 2),
                                 'aggregator_size': SIZES[scale][0], 'student_size': SIZES[scale][1]}
    for arch, pair in pairs.items():
        teacher, key = Template(pair.network).substitute({**pair.teacher, 'scale': scale}), arch.lower()
        values |= {key: indent(teacher, ' ' * 6), f'{key}_file': pair.scales[scale].teacher_file,
                   f'{key}_size': pair.scales[scale].teacher_size}
    return values
