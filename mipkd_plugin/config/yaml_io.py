"""Read an option file as BasicSR reads it, but safely, and refuse mistakes that BasicSR silently accepts."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mipkd_plugin.config.problems import OptionError, Options, Problem, suggestion

_MERGE = 'tag:yaml.org,2002:merge'
_PREFIX = 'tag:yaml.org,2002:'


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
    opt = _parse(path)
    for entry in force_yml or []:
        problem = _force(opt, entry)
        if problem is not None:
            opt.problems.append(problem)
    return opt


def _parse(path: Path) -> Options:
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, 'strerror', None) or 'it is not a text file'
        remedy = f'give the path of an option file after -opt, relative to {Path.cwd()}'
        raise OptionError([Problem('-opt', f'cannot read {path}: {reason}', remedy)]) from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        opt = Options({}, path)
        fatal = _inspect(node, '', opt, ()) if node is not None else []
        if fatal:
            raise OptionError(fatal + opt.problems, path)
        content = loader.construct_document(node) if node is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f'line {mark.line + 1}, column {mark.column + 1}' if mark is not None else ''
        what = ', '.join(part for part in (error.context, error.problem) if part)
        problem = Problem(str(path), f'not valid YAML: {what}', 'fix this line', place)
        raise OptionError([problem], path) from error
    except (yaml.YAMLError, ValueError) as error:
        raise OptionError([Problem(str(path), f'not valid YAML: {error}')], path) from error
    finally:
        loader.dispose()
    if not isinstance(content, dict):
        raise OptionError([Problem(str(path), 'is not an option file: it holds no `key: value` pairs')], path)
    opt.update(content)
    return opt


def _inspect(node: yaml.Node, path: str, opt: Options, above: tuple[yaml.Node, ...]) -> list[Problem]:
    """Record the line of each entry; return the entries that the safe loader or BasicSR's loader cannot read."""
    place = f'line {node.start_mark.line + 1}'
    if path:
        opt.lines.setdefault(path, node.start_mark.line + 1)
    if any(node is other for other in above):
        return [Problem(path, 'an anchor refers to itself', 'write the entry out', place)]
    if node.tag not in yaml.SafeLoader.yaml_constructors:
        tag = node.tag.replace(_PREFIX, '!!')
        return [Problem(path or 'file', f'the tag {tag} would build an arbitrary Python object',
                        'write plain numbers, texts, [lists] and {mappings: …} only', place)]
    fatal = []
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            fatal += _inspect(child, f'{path}[{index}]', opt, (*above, node))
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, child in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            inner = f'{path}.{key}' if path else key
            if key_node.tag == _MERGE:
                fatal.append(Problem(inner, 'BasicSR cannot read merge keys (<<)',
                                     'write the entries out', f'line {line}'))
                continue
            if key in seen:
                what = f'given twice, first in line {seen[key]}; BasicSR uses only the last'
                opt.problems.append(Problem(inner, what, 'keep one of them', f'line {line}'))
            seen[key] = line
            opt.lines[inner] = line
            fatal += _inspect(child, inner, opt, (*above, node))
    return fatal


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
                           suggestion(name, [str(key) for key in target]))
        target = target[name]
        if not isinstance(target, dict):
            kind = 'a list' if isinstance(target, list) else repr(target)
            return Problem(where, f'{".".join(names[:depth + 1])} is {kind}: --force_yml cannot set anything inside it',
                           'set the whole entry, or edit the option file')
    try:
        target[names[-1]] = _forced_value(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return Problem(where, f'{text!r} cannot be read', 'write [1, 2] for a list, !!float1e-4 for a number')
    opt.forced['.'.join(names)] = text
    return None


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
