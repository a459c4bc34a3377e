"""README: short, its first screen says what there is and for whom it is not, and what it says is so."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY
from helpers import REPO

from mipkd_plugin import __version__, cli
from mipkd_plugin.compare.measures import Measured, gain
from mipkd_plugin.compare.results import read_rows

README = (REPO / 'README.md').read_text(encoding='utf-8')
FIRST_SCREEN = README[:README.index('\n## ')].split('<!-- demo -->')[0]


def test_it_is_short_and_nothing_is_left_to_fill_in() -> None:
    assert README.count('\n') <= 150
    assert '@@' not in README


def test_first_screen_has_commands_options_a_result_and_limits() -> None:
    assert FIRST_SCREEN.count('\n') <= 32
    assert README[:README.index('```')].count('\n') < 10
    for what in ('pip install', '\nmipkd distill', 'make install', 'make demo', 'make test', 'distill_opt:',
                 '**Result.**', 'docs/results.md', '**Not for you**', '(#limits)'):
        assert what in FIRST_SCREEN, what


def test_options_of_the_first_screen_can_be_built() -> None:
    options = yaml.safe_load(re.findall(r'```yaml\n(.*?)```', FIRST_SCREEN, flags=re.S)[0])
    assert options['model_type'] in MODEL_REGISTRY
    assert set(options['teacher']) == {'weights'}, 'the network is recognized: tests/config/test_teacher_file.py'
    arguments = dict(options['train']['distill_opt'])
    LOSS_REGISTRY.get(arguments.pop('type'))(**arguments)


def gain_of(comparison: str, over: str, method: str = 'mipkd') -> Measured:
    rows = read_rows(REPO / f'experiments/compare_EDSR_x2_{comparison}/results.csv')
    return gain(rows, method, over, 'Kodak24')


def test_results_of_the_first_screen_are_those_of_the_comparisons() -> None:
    shallow, narrow = (gain_of(f'{pair}_60k', 'none') for pair in ('depth', 'small'))
    early = gain_of('small_60k', 'none', 'mipkd_early')
    assert (shallow.count, narrow.count, early.count) == (1, 2, 2)
    assert f'ends {early.mean:.3f} ± {early.error:.3f} dB higher if\nMiPKD fades out by half-time' in FIRST_SCREEN
    assert 'fades out by half-time, else level;' in FIRST_SCREEN
    assert early.mean > 2 * early.error
    assert f'(5 → 2 blocks) {shallow.mean:.3f}, one seed.' in FIRST_SCREEN
    assert abs(narrow.mean) < 2 * narrow.error
    found = gain_of('depth', 'none (equal time)')
    assert f'5,000 iterations: {found.mean:+.3f} ± {found.error:.3f} dB)' in FIRST_SCREEN
    shallow, narrow = (gain_of(f'{pair}_recipe', 'none (equal time)', 'mipkd_cheap') for pair in ('depth', 'small'))
    assert f'ahead: {shallow.mean:+.3f} ± {shallow.error:.3f} dB (shallow), {narrow.mean:+.3f} ± {narrow.error:.3f} ' \
           '(narrow).' in FIRST_SCREEN
    assert min(one.mean - 2 * one.error for one in (shallow, narrow)) > 0
    for method, over in (('none_slice', 'none'), ('mipkd_slice', 'none_slice')):
        for found in (gain_of(pair, over, method) for pair in ('small', 'depth')):
            assert f'{found.mean:+.3f} ± {found.error:.3f}' in FIRST_SCREEN
            assert found.mean > 2 * found.error


def test_all_commands_are_in_the_table() -> None:
    table = README[README.index('## Commands'):README.index('## Docs')]
    for program, names in (('basicsr', cli.BASICSR_COMMANDS), ('mipkd', cli.MIPKD_COMMANDS)):
        for name in names:
            assert f'`{program} {name}' in table, name


def test_all_pages_are_in_the_table_of_docs() -> None:
    table = README[README.index('## Docs'):README.index('## Option files')]
    for page in (REPO / 'docs').glob('*.md'):
        assert f'(docs/{page.name})' in table, page.name


def test_all_option_files_are_in_their_table() -> None:
    table = README[README.index('## Option files'):README.index('## Limits')]
    prefixes = set(re.findall(r'`options/([a-z]+)_', table))
    for path in (REPO / 'options').glob('*.yml'):
        assert path.name.partition('_')[0] in prefixes, path.name


def test_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((REPO / 'CITATION.cff').read_text(encoding='utf-8'))
    newest, *_ = re.findall(r'^## (\S+) \((\S+)\)', (REPO / 'CHANGELOG.md').read_text(encoding='utf-8'), flags=re.M)
    assert (citation['version'], str(citation['date-released'])) == newest
    assert citation['version'] == __version__


def test_the_package_of_the_first_screen_holds_all_files(tmp_path: Path) -> None:
    """The pip line of the first screen, without its dependencies; what it installs is all that a user gets."""
    words = shlex.split(re.findall(r'^pip (install .*)$', FIRST_SCREEN, flags=re.M)[0], comments=True)
    assert '.[teacher,export]' in words
    source = tmp_path / 'clone'
    shutil.copytree(REPO / 'mipkd_plugin', source / 'mipkd_plugin', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'constraints.txt'):
        shutil.copy(REPO / name, source)
    subprocess.run([sys.executable, '-m', 'pip', *words, '--no-deps', '--no-index', '--target', str(tmp_path / 'lib')],
                   cwd=source, check=True, capture_output=True)
    files = {path.relative_to(source) for path in (source / 'mipkd_plugin').rglob('*')
             if path.is_file() and path.suffix != '.pyc'}
    assert {path for path in files if not (tmp_path / 'lib' / path).is_file()} == set()
    (metadata, ) = (tmp_path / 'lib').glob('mipkd_plugin-*.dist-info/METADATA')
    for extra in ('teacher', 'export'):
        assert f'Provides-Extra: {extra}' in metadata.read_text(encoding='utf-8')
