"""Values as one types them into a YAML file, on one line."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    """Writes ~ for nothing."""


_Dumper.add_representer(type(None), lambda dumper, _: dumper.represent_scalar('tag:yaml.org,2002:null', '~'))


def flow(value: Any) -> str:
    """A value as YAML on one line.

    >>> flow({'type': 'EDSR', 'rgb_mean': None})
    '{type: EDSR, rgb_mean: ~}'

    Returns:
        The text, without a line break at its end.
    """
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, width=10**6,
                          allow_unicode=True)
    return text.removesuffix('\n').removesuffix('\n...')


def number(value: float, digits: int = 6) -> str:
    """A number with a few digits, as YAML reads it as one: 1e-05 alone would be text.

    >>> number(123.4, 2), number(1.234e-05, 2)
    ('120', '!!float 1.2e-05')

    Returns:
        The text.
    """
    text = f'{float(f"{value:.{digits}g}"):g}'
    return text if 'e' not in text else f'!!float {text}'
