"""Bad inputs as data: each is tried through the front door, has one clear problem, and its remedy is applied."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from helpers import tiny_options, write_image_pairs
from training import train, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import basicsr_main
from mipkd_plugin.config.remedies import remedied


def nothing(folder: Path) -> None:
    """Leave the folder as it is."""


class BadInput(NamedTuple):
    """One bad input.

    Attributes:
        name: For the test's name.
        where: YAML path of the problem, or what stands in its place, such as ``-opt``.
        says: Pieces of the message.
        entries: Value by YAML path, written into the options of a tiny training; ``REMOVE`` removes an entry.
        spoil: Spoils files in the folder that holds ``HR``, ``LRbicx2`` and ``teacher.pth``.
        command: ``train`` or ``test``.
        arguments: Further arguments of the command.
        remedy: Whether the remedy is given as data, and is applied.
    """

    name: str
    where: str
    says: tuple[str, ...]
    entries: Mapping[str, Any] = {}
    spoil: Callable[[Path], object] = nothing
    command: str = 'train'
    arguments: tuple[str, ...] = ()
    remedy: bool = True


def options_of(case: BadInput, folder: Path) -> dict[str, Any]:
    """Write images, weights and the option file of a bad input.

    Relative paths in the entries start from the working directory, which is ``folder``.
    """
    write_image_pairs(folder)
    opt = tiny_options(folder)
    if case.command == 'test':
        opt = as_test(opt, folder)
    opt = remedied(opt, case.entries)
    case.spoil(folder)
    return opt


def as_test(opt: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the options of a training into those of a test of its teacher."""
    opt = copy.deepcopy(opt)
    images = opt['datasets'].pop('val')
    opt['datasets'] = {'test': images}
    opt['network_g'] = opt.pop('teacher')['network']
    opt['model_type'] = 'SRModel'
    opt['path'] = {'pretrain_network_g': str(folder / 'teacher.pth'), 'strict_load_g': True}
    opt['val'] = {**opt['val'], 'suffix': None}
    for key in ('train', 'logger'):
        del opt[key]
    return opt


def snapshot(folder: Path) -> list[tuple[str, int, int]]:
    """Every file and folder below a folder, with size and time of change."""
    return sorted((str(path.relative_to(folder)), path.lstat().st_size, path.lstat().st_mtime_ns)
                  for path in folder.rglob('*'))


def refused(case: BadInput, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Type the command; assert that it is refused, and that nothing is written.

    Returns:
        The message.
    """
    home = folder / 'home'
    home.mkdir()
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.chdir(folder)
    path = write_options(options_of(case, folder), folder / 'options.yml')
    before = snapshot(folder)
    capsys.readouterr()
    code = (train(path, *case.arguments) if case.command == 'train' else
            basicsr_main(['test', '-opt', str(path), *case.arguments]))
    written = capsys.readouterr()
    assert code == 2, written.out + written.err
    assert snapshot(folder) == before
    assert 'Traceback' not in written.err
    assert '\x1b' not in written.err
    return written.err


def assert_said(case: BadInput, message: str) -> None:
    """Assert that the message has one problem, at the right place, with the right words and a remedy."""
    assert re.search(r'^(.*: )?1 problem\n', message), message
    assert message.count(' problem\n') <= 1, message  # one message does not quote another
    assert f'1. {case.where}' in message, message
    for piece in case.says:
        assert piece in message, message
    assert '\n   -> ' in message, message


def assert_remedied(case: BadInput, folder: Path) -> None:
    """Apply the remedies of all problems; assert that no problem is left and that none came instead."""
    opt = config.read_options(folder / 'options.yml')
    flags = {'auto_resume': '--auto_resume' in case.arguments, 'probe': 'full'}
    for _ in range(3):
        problems = config.check_options(opt, is_train=case.command == 'train', **flags).problems
        if not problems:
            return
        for problem in problems:
            assert problem.fix, f'no remedy as data: {problem}'
            opt = config.Options(remedied(opt, problem.fix), folder / 'options.yml')
    raise AssertionError(os.linesep.join(map(str, problems)))
