"""What a wrong name or key probably stands for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from mipkd_plugin.config.remedies import REMOVE

_ENDING = 'distillmodel'


def shortened(value: Any) -> str:
    """A value of an option file as Python writes it, cut after a line."""
    text = repr(value)
    return text if len(text) <= 100 else f'{text[:80]}… ({len(text)} characters)'


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The valid name closest to ``name``, whatever its case, or None."""
    lowered, wanted = {v.lower(): v for v in valid}, str(name).lower()
    matches = [match for match in difflib.get_close_matches(wanted, list(lowered), n=3, cutoff=cutoff)
               if (len(wanted) < len(match) + 3 or match not in wanted)  # HATDistillModel is not DistillModel
               and _begin_alike(wanted, match)]
    swapped = [match for match in matches if sorted(match) == sorted(wanted)]  # EDRS is EDSR rather than EDVR
    longer = [v for v in lowered if len(wanted) > 3 and v.startswith(wanted)]  # latent is latent_channels
    return next((lowered[match] for match in swapped + matches + longer), None)


def _begin_alike(name: str, other: str) -> bool:
    """Whether two names are alike before an ending that both have: HATDistillModel is not SRGANDistillModel."""
    own, theirs = (text.removesuffix(_ENDING) for text in (name, other))
    if not own or not theirs or own == name or theirs == other:
        return True
    return difflib.SequenceMatcher(None, own, theirs).ratio() >= 0.7


def suggestion(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """A remedy: the closest valid name, or all valid names."""
    names = list(valid)
    near = nearest(name, names, cutoff)
    return f'did you mean {near!r}?' if near else f'valid here: {", ".join(sorted(names))}'


def other_value(where: str, name: Any, valid: Iterable[str], cutoff: float = 0.6) -> tuple[str, dict[str, Any]]:
    """The remedy for a name that is not valid: in words, and as data if one of the valid names is close to it."""
    names = list(valid)
    near = nearest(str(name), names, cutoff)
    return suggestion(str(name), names, cutoff), {} if near is None else {where: near}


def other_key(above: str, key: Any, section: Mapping[str, Any], valid: Iterable[str],
              replaces: bool = False) -> tuple[str, dict[str, Any]]:
    """The remedy for a key that nothing reads.

    Args:
        above: YAML path of the section; '' for the top level.
        key: The key.
        section: The section that holds it.
        valid: The keys that are valid there.
        replaces: Whether the value is meant to replace one that is given, as with ``--force_yml``.

    Returns:
        In words and as data: the closest valid key gets the value, or the key goes.
    """
    prefix, names = f'{above}.' if above else '', list(valid)
    gone: dict[str, Any] = {f'{prefix}{key}': REMOVE}
    near = nearest(str(key), names) if replaces else meant(key, section, names)
    if near is not None:
        return f'did you mean {near!r}?', {**gone, f'{prefix}{near}': section[key]}
    there = nearest(str(key), names)
    if there is not None:
        return f'did you mean {there!r}? That is given too: remove this one', gone
    return f'remove it; valid here: {", ".join(sorted(names))}' if names else 'remove it', gone


def meant(key: Any, section: Mapping[str, Any], valid: Iterable[str]) -> str | None:
    """The valid key that a wrong key of a section probably stands for, if the section lacks it."""
    near = nearest(str(key), valid)
    return None if near in section else near
