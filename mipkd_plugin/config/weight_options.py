"""Which option alone sets the weight of a term."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import LOSS_REGISTRY

from mipkd_plugin.config.keys import is_number
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.teachers import distillation_entries
from mipkd_plugin.utils.docstrings import arguments


def weight_option(opt: Mapping[str, Any], where: str, term: str, acting: int) -> tuple[str, float] | None:
    """The option that is a factor of one term and of no other.

    It is the one whose text in the docstring of the loss names the term, as ``feat_weight`` of MiPKDLoss does; or
    ``loss_weight``, if the loss has a single term that acts on the student.

    Args:
        opt: The options.
        where: YAML path of the loss.
        term: Name of the term; a number at its end tells it from an equal name of an earlier loss.
        acting: Number of terms of this loss that act on the student.

    Returns:
        (YAML path, present value), or None if there is no such option, or it is 0.
    """
    options = dict(distillation_entries(opt)).get(where)
    loss = lookup(LOSS_REGISTRY, options.get('type')) if isinstance(options, Mapping) else None
    if loss is None or options is None:
        return None
    known = inspect.signature(loss).parameters
    names = {term, re.sub(r'_\d+$', '', term)}
    said = [name for name, argument in arguments(loss).items()
            if name in known and name.endswith('_weight') and names & set(re.findall(r'\bl_\w+', argument.text))]
    if len(said) != 1:
        said = ['loss_weight'] if acting == 1 and 'loss_weight' in known else []
    value: Any = options.get(said[0], known[said[0]].default) if said else None
    return (f'{where}.{said[0]}', float(value)) if is_number(value) and value > 0 else None
