"""A safe YAML loader with limits: hostile files are refused before they take time or memory."""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 50
"""Levels of an option file; those of this repository have 5."""
MOST_ENTRIES = 50_000
"""Entries of an option file, with its aliases written out; those of this repository have 200."""


class RefusedError(Exception):
    """A file is over a limit."""

    def __init__(self, what: str, remedy: str, node: Any) -> None:
        super().__init__(what)
        self.what, self.remedy, self.place = what, remedy, f'line {node.start_mark.line + 1}'


class LimitedLoader(yaml.SafeLoader):
    """Composes as many levels and entries as an option file can need, and raises :class:`RefusedError` at more."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one entry and all below it.

        Returns:
            The entry.

        Raises:
            RefusedError: There are too many levels or entries.
        """
        if self._depth >= DEEPEST:
            raise RefusedError(f'has more than {DEEPEST} levels', 'take brackets or indentation out',
                               self.peek_event())  # type: ignore[no-untyped-call]
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if id(node) not in self._sizes:
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(child), 1) for child in _children(node))
        if self._sizes[id(node)] > MOST_ENTRIES:
            raise RefusedError(f'has more than {MOST_ENTRIES:,d} entries, with its aliases (*) written out',
                               'write an entry only as often as it is needed', node)
        return node


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def value_problem(node: yaml.Node) -> list[tuple[str, str]]:
    """(What is wrong, remedy) of a single value, as a list with one or no entry."""
    text, kind = str(node.value), node.tag.rpartition(':')[2]
    if '\0' in text or not _can_be_written(text):
        return [('holds a character that no text can have (NUL or half of a pair)', 'write the text without it')]
    if kind == 'str':
        return []
    try:
        loader = yaml.SafeLoader('')
        value = loader.construct_object(node)
    except (ArithmeticError, LookupError, ValueError, yaml.YAMLError) as error:
        reason = error.problem if isinstance(error, yaml.MarkedYAMLError) else None
        return [(f'not valid YAML: {reason or f"{text[:40]!r} is no {kind}"}', 'write the value in another way')]
    if isinstance(value, int) and abs(value) >= 2**63:
        return [('is a whole number of more than 64 bits', 'write a smaller number')]
    return []


def _can_be_written(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
