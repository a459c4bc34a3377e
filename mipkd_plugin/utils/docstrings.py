"""What a docstring in Google style says: its first paragraph, and its arguments."""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple

_ENTRY = re.compile(r'\*{0,2}(\w+)\s*(?:\((.*?)\))?\s*:(?:\s+(.*))?')
_SECTION = re.compile(r'(Args|Arguments|Parameters):\s*')
_ROLE = re.compile(r':\w+:`~?(?:[\w.]+\.)?(\w+)`')


class Argument(NamedTuple):
    """An argument as a docstring describes it.

    Attributes:
        text: What it means, in one line.
        kind: What stands in brackets behind its name, such as ``int`` or ``float``; '' without any.
    """

    text: str
    kind: str = ''


def summary(thing: Any) -> str:
    """First paragraph of the docstring of a class or function, in one line; '' without one."""
    return _plain(inspect.cleandoc(getattr(thing, '__doc__', None) or '').partition('\n\n')[0])


def arguments(thing: Any) -> dict[str, Argument]:
    """The arguments that the docstring of a class (or of its ``__init__``) or of a function describes.

    >>> def enlarge(image, scale):
    ...     '''Enlarge an image.
    ...
    ...     Args:
    ...         image: An image.
    ...         scale (int): Scale factor,
    ...             a whole number. Default: 2.
    ...     '''
    >>> arguments(enlarge)['scale']
    Argument(text='Scale factor, a whole number. Default: 2.', kind='int')

    Returns:
        What it says, by name.
    """
    found: dict[str, Argument] = {}
    own_init = vars(thing).get('__init__') if isinstance(thing, type) else None
    for text in (getattr(own_init, '__doc__', None), getattr(thing, '__doc__', None)):
        found.update(_arguments(inspect.cleandoc(text or '')))
    return found


def _arguments(text: str) -> dict[str, Argument]:
    found: dict[str, Argument] = {}
    lines = iter(text.splitlines())
    if not any(_SECTION.fullmatch(line.strip()) for line in lines):
        return found
    indent, name = None, ''
    for line in lines:
        bare, depth = line.strip(), len(line) - len(line.lstrip())
        if not bare:
            continue
        indent = depth if indent is None else indent
        if depth < indent:  # the next section
            break
        entry = _ENTRY.fullmatch(bare) if depth == indent else None
        if entry is not None:
            name = entry[1]
            found[name] = Argument(_plain(entry[3] or ''), entry[2] or '')
        elif name:
            found[name] = found[name]._replace(text=f'{found[name].text} {_plain(bare)}'.strip())
    return found


def _plain(text: str) -> str:
    """One line without the marks of reStructuredText."""
    return _ROLE.sub(r'\1', ' '.join(text.split())).replace('``', '').strip()
