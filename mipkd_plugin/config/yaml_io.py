"""Read an option file as BasicSR reads it, but safely, and refuse mistakes that BasicSR silently accepts."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mipkd_plugin.config.keys import SECTIONS, TOP
from mipkd_plugin.config.problems import OptionError, Options, Problem
from mipkd_plugin.config.suggestions import suggestion
from mipkd_plugin.config.yaml_limits import LimitedLoader, RefusedError, value_problem

_MERGE = 'tag:yaml.org,2002:merge'
_PREFIX = 'tag:yaml.org,2002:'
_PLAIN = {f'{_PREFIX}{name}' for name in ('str', 'int', 'float', 'bool', 'null', 'seq', 'map')}
_QUOTED = {f'{_PREFIX}timestamp': 'a date', f'{_PREFIX}value': 'a key of YAML', f'{_PREFIX}bool': 'true or false',
           f'{_PREFIX}int': 'a number', f'{_PREFIX}float': 'a number', f'{_PREFIX}null': 'nothing'}
"""Tags that YAML itself gives to text without quotes."""

MOST_BYTES = 256 * 1024
"""Length of the longest option file; those of this repository have 4 KB."""


def read_options(path: str | Path, force_yml: Sequence[str] | None = None) -> Options:
    """Read an option file and apply the ``--force_yml`` entries to it.

    Args:
        path: YAML file.
        force_yml: Entries such as ``train:ema_decay=0.999``.

    Returns:
        The options, in the order of the file. Their ``problems`` list duplicate keys and wrong ``force_yml`` entries.

    Raises:
        OptionError: The file is missing, is not valid YAML, or would build Python objects.
    """
    path = Path(path)
    opt = _parse(path, _read_text(path))
    for entry in force_yml or []:
        problem = _force(opt, entry)
        if problem is not None:
            opt.problems.append(problem)
    return opt


def _read_text(path: Path) -> str:
    """The text of the file, which may be a pipe: it is read once."""
    try:
        with path.open('rb') as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode('utf-8-sig')
    except (OSError, ValueError) as error:
        reason = getattr(error, 'strerror', None) or (
            'it is not a text file' if isinstance(error, UnicodeDecodeError) else str(error))
        remedy = f'give the path of an option file after -opt, relative to {Path.cwd()}'
        raise OptionError([Problem('-opt', f'cannot read {_short(path)}: {reason}', remedy)]) from error
    if len(content) > MOST_BYTES:
        raise OptionError([Problem('-opt', f'{path} is longer than {MOST_BYTES // 1024} KB, and so no option file',
                                   'give the path of an option file after -opt')], path)
    return text.replace('\r\n', '\n')


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f'{text[:80]}… ({len(text)} characters)'


def _parse(path: Path, text: str) -> Options:
    try:
        loader = LimitedLoader(text)
    except yaml.reader.ReaderError as error:
        place = f'line {text.count(chr(10), 0, error.position) + 1}'
        raise OptionError([Problem(str(path), f'not valid YAML: it holds the character U+{int(error.character):04X}',
                                   'remove this character, which editors do not show', place)], path) from error
    try:
        node = loader.get_single_node()
        opt = Options({}, path)
        opt.text = text
        fatal = _inspect(node, '', opt, ()) if node is not None else []
        content = loader.construct_document(node) if node is not None and not fatal else None
    except RefusedError as error:
        raise OptionError([Problem(str(path), error.what, error.remedy, error.place)], path) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f'line {mark.line + 1}, column {mark.column + 1}' if mark is not None else ''
        what = ', '.join(part for part in (error.context, error.problem) if part)
        problem = Problem(str(path), f'not valid YAML: {what}', 'fix this line', place)
        raise OptionError([problem], path) from error
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
            ValueError) as error:
        problem = Problem(str(path), f'not valid YAML: {error}', 'fix the file')
        raise OptionError([problem], path) from error
    finally:
        loader.dispose()
    if fatal:
        raise OptionError(fatal + opt.problems, path)
    if not isinstance(content, dict):
        raise OptionError([Problem(str(path), 'is not an option file: it holds no `key: value` pairs',
                                   'give an option file: see options/')], path)
    opt.update(content)
    return opt


def _inspect(node: yaml.Node, path: str, opt: Options, above: tuple[yaml.Node, ...]) -> list[Problem]:
    """Record the line of each entry; return the entries that the safe loader or BasicSR's loader cannot read."""
    place = f'line {node.start_mark.line + 1}'
    if path:
        opt.lines.setdefault(path, node.start_mark.line + 1)
    if any(node is other for other in above):
        return [Problem(path, 'an anchor refers to itself', 'write the entry out', place)]
    if node.tag not in _PLAIN:
        return [_wrong_tag(node, path or 'file', place)]
    fatal = []
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            fatal += _inspect(child, f'{path}[{index}]', opt, (*above, node))
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, child in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            inner = f'{path}.{key}' if path else key
            problem = _wrong_key(key_node, path or 'file', inner)
            if problem is not None:
                fatal.append(problem)
                continue
            if key in seen:
                what = f'given twice, first in line {seen[key]}; BasicSR uses only the last'
                opt.problems.append(Problem(inner, what, 'keep one of them', f'line {line}'))
            seen[key] = line
            opt.lines[inner] = line
            fatal += _inspect(child, inner, opt, (*above, node))
    else:
        fatal += [Problem(path or 'file', *found, place) for found in value_problem(node)]
    return fatal


def _wrong_tag(node: yaml.Node, path: str, place: str) -> Problem:
    if node.tag in _QUOTED:
        return Problem(path, f'{node.value} is read as {_QUOTED[node.tag]}', f"write '{node.value}', in quotes", place)
    return Problem(path, f'the tag {node.tag.replace(_PREFIX, "!!")} would build an arbitrary Python object',
                   'write plain numbers, texts, [lists] and {mappings: …} only', place)


def _wrong_key(node: yaml.Node, above: str, path: str) -> Problem | None:
    """What is wrong with a key; BasicSR's log takes texts only."""
    place = f'line {node.start_mark.line + 1}'
    if node.tag == _MERGE:
        return Problem(path, 'BasicSR cannot read merge keys (<<)', 'write the entries out', place)
    if not isinstance(node, yaml.ScalarNode):
        return Problem(above, 'has a list or a block as a key', 'write a name as the key', place)
    if node.tag != f'{_PREFIX}str':
        if node.tag not in _QUOTED:
            return _wrong_tag(node, above, place)
        return Problem(path, f'the key is read as {_QUOTED[node.tag]}, not as a name',
                       f"write '{node.value}':, in quotes", place)
    return next((Problem(above, *found, place) for found in value_problem(node)), None)


def _force(opt: Options, entry: str) -> Problem | None:
    """Apply one entry as ``basicsr.utils.options.parse_options`` does, without its ``exec`` and ``eval``."""
    where = f'--force_yml {entry}'
    if entry.count('=') != 1:
        return Problem(where, f'has {entry.count("=")} equals signs', 'write a:b=value, with exactly one =')
    keys, text = (part.strip() for part in entry.split('='))
    names = keys.split(':')
    if not all(name and name.isprintable() and not set(name) & set('"\\') for name in names):
        return Problem(where, f'{keys!r} is not a path of keys', 'write a:b=value')
    target: Any = opt
    for depth, name in enumerate(names[:-1]):
        if name not in target:
            return Problem(where, f'there is no {".".join(names[:depth + 1])!r} in the option file',
                           _missing_block(names[:depth], name, target))
        target = target[name]
        if not isinstance(target, dict):
            kind = 'a list' if isinstance(target, list) else repr(target)
            return Problem(where, f'{".".join(names[:depth + 1])} is {kind}: --force_yml cannot set anything inside it',
                           'set the whole entry, or edit the option file')
    unreadable = Problem(where, f'{text!r} cannot be read', 'write [1, 2] for a list, !!float1e-4 for a number')
    try:
        value = _forced_value(os.fsencode(text).decode('utf-8'))  # bytes of another encoding have become surrogates
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return unreadable
    if not _is_plain(value):
        return unreadable
    target[names[-1]] = value
    opt.forced['.'.join(names)] = text
    return None


def _missing_block(above: Sequence[str], name: str, target: Mapping[str, Any]) -> str:
    """The remedy for an entry of a block that the file lacks: a block of this name may only be missing."""
    known = TOP if not above else SECTIONS.get('.'.join(above), {})
    if name in known or list(above) == ['datasets']:
        return f'write the block {name} into the option file: --force_yml sets entries of blocks that are there'
    return suggestion(name, [str(key) for key in target])


def _is_plain(value: Any) -> bool:
    """Whether a YAML file can hold the value."""
    if isinstance(value, list):
        return all(_is_plain(entry) for entry in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    return value is None or isinstance(value, (str, float)) or isinstance(value, int) and abs(value) < 2**63


def _forced_value(text: str) -> Any:
    """Convert the text behind the equals sign as BasicSR does."""
    words = {'~': None, 'none': None, 'true': True, 'false': False}
    if text.lower() in words:
        return words[text.lower()]
    if text.startswith('!!float'):
        return float(text.replace('!!float', ''))
    if text.isdigit():
        return int(text)
    if text.replace('.', '', 1).isdigit():
        return float(text)
    if text.startswith('['):
        return ast.literal_eval(text)
    return text
