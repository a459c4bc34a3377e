"""BasicSR trains with the options that were checked, whatever happens to the file, and evaluates none of them."""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path

import basicsr.utils.options
import pytest
import yaml
from faults.harness import as_test
from helpers import tiny_options, write_image_pairs
from training import forget_logger, train, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import basicsr_main, mipkd_main

HOSTILE = 'name: !!python/object/apply:os.system ["touch canary"]\n'


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_image_pairs(tmp_path))
    opt = tiny_options(tmp_path)
    opt['logger']['use_tb_logger'] = False
    write_options(opt, tmp_path / 'x.yml')
    return tmp_path


def copied(work: Path, name: str = 'x.yml', run: str = 'tiny') -> str:
    return re.sub(r'\A# GENERATE TIME: .*\n# CMD:\n# .*\n\n', '', (work / f'experiments/{run}/{name}').read_text())


def test_a_file_that_changes_after_the_check_is_not_read_again(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, check = (work / 'x.yml').read_text(), config.check_options

    def check_then_swap(*args: object, **flags: object) -> object:
        report = check(*args, **flags)
        (work / 'x.yml').write_text(HOSTILE)
        return report

    monkeypatch.setattr(config, 'check_options', check_then_swap)
    assert train('x.yml') == 0
    assert not (work / 'canary').exists()
    assert copied(work) == text


def test_a_file_that_vanishes_after_the_check(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = config.check_options
    monkeypatch.setattr(config, 'check_options', lambda *args, **flags: (
        check(*args, **flags), (work / 'x.yml').unlink())[0])
    assert train('x.yml') == 0
    assert 'tiny' in copied(work)


def pipe(text: str) -> str:
    """The path of a pipe that holds a text, as the shell makes it for ``<(cat x.yml)``."""
    reading, writing = os.pipe()

    def fill() -> None:
        with os.fdopen(writing, 'w') as file:
            file.write(text)

    threading.Thread(target=fill).start()
    return f'/dev/fd/{reading}'


def test_a_pipe_can_be_an_option_file(work: Path) -> None:
    text = (work / 'x.yml').read_text()
    assert train(pipe(text)) == 0
    assert copied(work, 'options.yml') == text
    assert mipkd_main(['check', '-opt', pipe(text)]) == 0


def test_force_yml_reaches_basicsr_without_being_evaluated(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object, **named: object) -> None:
        raise AssertionError('BasicSR got the text')

    for name in ('exec', 'eval', '_postprocess_yml_value'):
        monkeypatch.setattr(basicsr.utils.options, name, never, raising=False)
    assert train('x.yml', '--force_yml', 'name=forced', 'train:scheduler:milestones=[1, 2]', 'manual_seed=7') == 0
    log = next((work / 'experiments/forced').glob('train_forced_*.log')).read_text()
    assert 'milestones: [1, 2]' in log
    assert 'manual_seed: 7' in log
    assert '--force_yml name=forced' in (work / 'experiments/forced/x.yml').read_text().splitlines()[2]


def test_the_copy_in_the_folder_of_a_run_can_be_used_again(work: Path) -> None:
    text = (work / 'x.yml').read_text()
    assert train('x.yml') == 0
    assert train('experiments/tiny/x.yml', '--auto_resume') == 0
    assert train('experiments/tiny/x.yml') == 0
    assert copied(work) == text
    assert len(list((work / 'experiments').glob('tiny*'))) == 2  # one was archived


def test_a_command_line_with_a_line_break_adds_no_entry_to_the_copy(work: Path) -> None:
    (work / 'x.yml').rename(work / 'a\nname: evil\nb.yml')
    assert train('a\nname: evil\nb.yml') == 0
    saved, = (work / 'experiments/tiny').glob('*.yml')
    assert yaml.safe_load(saved.read_text())['name'] == 'tiny'


def test_testing_takes_the_checked_options_too(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = as_test(tiny_options(work), work)
    write_options(opt, work / 'test.yml')
    check = config.check_options
    monkeypatch.setattr(config, 'check_options', lambda *args, **flags: (
        check(*args, **flags), (work / 'test.yml').write_text(HOSTILE))[0])
    forget_logger()
    assert basicsr_main(['test', '-opt', 'test.yml', '--force_yml', 'name=other']) == 0
    forget_logger()
    assert (work / 'results/other').is_dir()
    assert not (work / 'canary').exists()


def test_basicsr_has_its_own_functions_back(work: Path) -> None:
    import basicsr.test
    import basicsr.train

    assert train('x.yml') == 0
    assert basicsr.train.parse_options is basicsr.test.parse_options is basicsr.utils.options.parse_options
    assert basicsr.train.copy_opt_file is basicsr.utils.options.copy_opt_file
    assert not hasattr(basicsr.utils.options, 'open')
    assert sys.argv[0] != 'basicsr train'
