"""What README and docs tell people to type is what the commands understand; the code and the tables run as printed."""

from __future__ import annotations

import inspect
import itertools
import pkgutil
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import REPO, STUDENTS, TEACHERS, as_parsed, batch

from mipkd_plugin import cli
from mipkd_plugin.compare.measures import gain
from mipkd_plugin.compare.report import markdown_table
from mipkd_plugin.compare.results import COLUMNS, Row, read_rows
from mipkd_plugin.compare.times import TIME_COLUMNS, read_times
from mipkd_plugin.losses import DistillationLoss, KRNetLoss, MiPKDLoss, bind

PAGES = {str(path.relative_to(REPO)): path.read_text(encoding='utf-8') for path in (
    REPO / 'README.md', REPO / 'CONTRIBUTING.md', REPO / 'CHANGELOG.md', *sorted((REPO / 'docs').glob('*.md')),
    *sorted((REPO / 'experiments').glob('**/README.md')))}
TRACKED = {path for name in subprocess.run(['git', '-C', str(REPO), 'ls-files'], capture_output=True, text=True,
                                          check=False).stdout.splitlines()
           for path in (REPO / name, *(REPO / name).parents)}
"""Files of the repository and their folders; empty without git."""
TESTED_ELSEWHERE = {'docs/new_method.md'}
PROGRAMS = {'basicsr': cli.basicsr_parser, 'mipkd': cli.mipkd_parser}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', PAGES[page], flags=re.S)


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of any level."""
    parts = re.split(r'^#+ (.+)$', re.sub(r'```.*?```', lambda code: code[0].replace('\n#', '\n\0#'), PAGES[page],
                                          flags=re.S), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))[heading].replace('\0', '')


def prose(heading: str) -> str:
    """A section of the results without its generated tables, whose numbers are checked elsewhere."""
    return re.sub(r'<!-- (\w+) -->.*?<!-- /\1 -->', '', section(RESULTS, heading), flags=re.S).replace('−', '-')


def commands() -> list[tuple[str, list[str]]]:
    lines = [(page, line) for page in PAGES for block in blocks(page, 'bash') for line in block.splitlines()]
    return [(page, shlex.split(line, comments=True)) for page, line in lines if line.strip()]


def spelled_out(pattern: str) -> list[str]:
    """``a_{x,y}.yml`` as ``a_x.yml`` and ``a_y.yml``."""
    parts = [part.split(',') for part in re.split(r'\{([^}]*)\}', pattern)]
    return [''.join(choice) for choice in itertools.product(*parts)]


def losses_in(value: Any) -> Iterator[dict[str, Any]]:
    """The blocks of losses in options, wherever they stand."""
    if isinstance(value, dict) and str(value.get('type', '')).endswith('Loss'):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from losses_in(inner)


# ------------------------------------------------------------------------------------------------ links and commands
def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', re.sub(r'```.*?```', '', text, flags=re.S), flags=re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'```.*?```', '', PAGES[page], flags=re.S)):
        if link.startswith('https://'):
            continue
        name, _, anchor = link.partition('#')
        target = (REPO / page).parent / name if name else REPO / page
        assert target.exists(), link
        assert not TRACKED or target.resolve() in TRACKED, f'{link} is not in the repository: see .gitignore'
        assert not anchor or anchor in anchors(target.read_text(encoding='utf-8')), link


@pytest.mark.parametrize(('page', 'command'), [pytest.param(page, c, id=f'{page}: {" ".join(c)}')
                                               for page, c in commands() if c[0] in (*PROGRAMS, 'torchrun')])
def test_commands_parse_and_their_files_exist(page: str, command: list[str]) -> None:
    if command[0] == 'torchrun':
        assert command[2:4] == ['-m', 'mipkd_plugin']
        command = ['basicsr', *command[4:]]
    args = PROGRAMS[command[0]]().parse_args(command[1:])
    for name in ('opt', 'results', 'into'):
        value = str(getattr(args, name, None) or '')
        if value.startswith(('options/', 'experiments/', 'docs/')):  # others are the reader's own
            assert (REPO / value).is_file(), value


def test_make_targets_exist() -> None:
    makefile = (REPO / 'Makefile').read_text()
    named = {target for text in PAGES.values() for target in re.findall(r'`make (\w+)`', text)}
    targets = {c[1] for _, c in commands() if c[0] == 'make'} | named
    assert {'demo', 'install', 'lint', 'test'} <= targets
    for target in targets:
        assert re.search(rf'^{target}:', makefile, flags=re.M), target


@pytest.mark.parametrize('page', PAGES)
def test_named_option_files_exist(page: str) -> None:
    for pattern in re.findall(r'`(options/[^`\s]+\.yml)`', PAGES[page]):
        for name in spelled_out(pattern):
            assert list(REPO.glob(name)), name


@pytest.mark.parametrize('page', PAGES)
def test_yaml_is_valid_and_its_losses_can_be_built(page: str) -> None:
    for block in blocks(page, 'yaml'):
        options = yaml.safe_load(block)
        assert isinstance(options, dict), block
        for loss in losses_in(options) if page not in TESTED_ELSEWHERE else ():
            arguments = dict(loss)
            arguments.pop('teacher', None)  # which of several it learns from: no class reads it
            LOSS_REGISTRY.get(arguments.pop('type'))(**arguments)


# ------------------------------------------------------------------------------------------------ docs/drop_in.md
DROP_IN = 'docs/drop_in.md'
HEADINGS = ('A plain PyTorch loop', 'KRNets, with their meta step', 'Into the middle of a network',
            'A BasicSR project with its own train.py', 'A model class of your own',
            'A model class that stays free of ours')
LOOP, META, MIDDLE, PROJECT, TWO_LINES, BY_HAND = HEADINGS


def code(heading: str) -> Any:
    """The code below a heading, compiled."""
    text, = re.findall(r'```python\n(.*?)```', section(DROP_IN, heading), flags=re.S)
    return compile(text, DROP_IN, 'exec')


def scope() -> dict[str, Any]:
    """What the reader brings along."""
    return {'student': build_network(STUDENTS['EDSR']), 'teacher': build_network(TEACHERS['EDSR']),
            'loader': [batch('EDSR')] * 2}


def test_there_is_no_other_code() -> None:
    counts = {page: len(blocks(page, 'python')) for page in PAGES if page not in TESTED_ELSEWHERE}
    assert {page: count for page, count in counts.items() if count} == {DROP_IN: len(HEADINGS)}


def test_plain_loop_runs_as_printed() -> None:
    own = scope()
    exec(code(LOOP), own)
    assert own['iteration'] == 2
    assert torch.isfinite(own['loss'])
    assert not any(module._forward_hooks for net in (own['student'], own['teacher']) for module in net.modules())


def test_loop_with_a_meta_step_runs_as_printed() -> None:
    own = scope()
    drawn: list[torch.Tensor] = []

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        drawn.extend(p.detach().clone() for p in own['kd'].self_trained_parameters())
        yield from [batch('EDSR')] * 5

    own['loader'] = batches()
    exec(code(META), own)
    assert torch.isfinite(own['loss'])
    assert not any(torch.equal(a, b) for a, b in zip(drawn, own['kd'].self_trained_parameters(), strict=True))


def test_networks_are_entered_as_printed() -> None:
    kd, own = MiPKDLoss(taps=3), scope()
    lq, gt = batch('EDSR')
    nets = bind([kd], own['student'], own['teacher'], lq[:1])
    own.update(kd=kd, step=nets.step(lq, gt))
    exec(code(MIDDLE), own)
    torch.testing.assert_close(own['image'], own['step'].teacher.output)


def test_imports_of_a_project_work_as_printed() -> None:
    own: dict[str, Any] = {}
    exec(code(PROJECT), own)
    assert callable(own['train_pipeline'])


def test_two_line_model_works_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.models.sr_model import SRModel
    from basicsr.utils import registry

    monkeypatch.setattr(registry, 'MODEL_REGISTRY', registry.Registry('test'))
    exec(code(TWO_LINES), {'HATModel': SRModel, '__name__': 'hat'})
    assert issubclass(registry.MODEL_REGISTRY.get('HATDistillModel'), SRModel)


def test_model_free_of_ours_trains_as_printed(train_options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    own: dict[str, Any] = {'__name__': 'theirs'}
    exec(code(BY_HAND), own)
    opt = train_options(model_type='MyModel')
    teacher = opt.pop('teacher')
    del opt['train']['distill_opt'], opt['train']['ema_decay']
    opt['network_t'] = teacher['network']
    opt['path']['pretrain_network_t'] = teacher['weights']
    model = own['MyModel'](as_parsed(opt, tmp_path))
    before = [p.detach().clone() for p in model.net_g.parameters()]
    lq, gt = batch('EDSR')
    model.feed_data({'lq': lq, 'gt': gt})
    model.optimize_parameters(1)
    assert {'l_pix', 'l_feat', 'l_block'} <= set(model.log_dict)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.net_g.parameters()))


# ------------------------------------------------------------------------------------------------ docs/methods.md
METHODS = 'docs/methods.md'


def test_all_losses_are_in_the_table_of_methods() -> None:
    names = {name for name, cls in LOSS_REGISTRY
             if issubclass(cls, DistillationLoss) and cls.__module__.startswith('mipkd_plugin.')}
    assert set(re.findall(r'^\| `(\w+)`', section(METHODS, 'Methods'), flags=re.M)) == names


def documented(text: str, loss: type) -> dict[str, str]:
    """Option → default, of the table of a loss: cells with several names have as many defaults."""
    start = text.index(f'| option of `{loss.__name__}` | default |')
    rows = re.findall(r'^\| (`[^|]+) \| ([^|]+) \|', text[start:text.index('\n\n', start)], flags=re.M)
    pairs = [(re.findall(r'`(\w+)`', names), defaults.split(', ')) for names, defaults in rows]
    assert all(len(names) == len(defaults) for names, defaults in pairs), pairs
    return {name: default for names, defaults in pairs for name, default in zip(names, defaults, strict=True)}


@pytest.mark.parametrize(('heading', 'loss'), [('What MiPKDLoss computes', MiPKDLoss),
                                               ('What KRNetLoss computes', KRNetLoss)])
def test_tables_of_options_have_all_of_them_and_their_defaults(heading: str, loss: type) -> None:
    words = {'–': inspect.Parameter.empty, 'none given': None, 'by the student': None, "the student's": None,
             'none': 'none'}
    table = documented(section(METHODS, heading), loss)
    defaults = {name: entry.default for name, entry in inspect.signature(loss).parameters.items()}
    assert {name: words[text] if text in words else yaml.safe_load(text) for name, text in table.items()} == defaults


def test_values_of_krnets_named_in_the_text_are_taken() -> None:
    values = re.findall(r'^\| `(\w+): (\w+)`', section(METHODS, 'What KRNetLoss computes'), flags=re.M)
    assert len(values) >= 4
    for name, value in values:
        KRNetLoss(taps=1, **{name: yaml.safe_load(value)})


# ------------------------------------------------------------------------------------------------ docs/comparing.md
def test_compare_block_as_printed_names_its_methods() -> None:
    options = [yaml.safe_load(block) for block in blocks('docs/comparing.md', 'yaml')]
    compare = next(block['compare'] for block in options if 'compare' in block)
    assert compare['ablate']['method'] in compare['methods']


def test_columns_of_the_results_are_all_explained() -> None:
    for name, columns in (('results.csv', COLUMNS), ('times.csv', TIME_COLUMNS)):
        rows = re.findall(r'^\| (`.+?) \|', section('docs/comparing.md', name), flags=re.M)
        assert [name for row in rows for name in re.findall(r'`(\w+)`', row)] == list(columns)


# ------------------------------------------------------------------------------------------------ docs/results.md
RESULTS = 'docs/results.md'
COMPARISONS = re.findall(r'<!-- (compare_\w+) -->', PAGES[RESULTS])


def rows_of(pair: str) -> list[Row]:
    return read_rows(REPO / 'experiments' / f'compare_EDSR_x2_{pair}' / 'results.csv')


def test_there_are_tables_to_check() -> None:
    assert {'compare_EDSR_x2_small', 'compare_EDSR_x2_depth', 'compare_EDSR_x2_compound'} <= set(COMPARISONS)
    assert not re.findall(r'<!-- compare_', PAGES['README.md'])


@pytest.mark.parametrize('name', COMPARISONS)
def test_tables_are_those_of_the_results(name: str) -> None:
    text = PAGES[RESULTS]
    table = text[text.index(f'<!-- {name} -->'):text.index(f'<!-- /{name} -->')].partition('\n')[2]
    folder = REPO / 'experiments' / name
    assert table == markdown_table(read_rows(folder / 'results.csv'), read_times(folder / 'times.csv'))


def test_tables_are_made_anew_by_the_printed_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the table taken out, and in a copy: the command also writes beside results.csv."""
    command = next(c for page, c in commands() if page == 'docs/comparing.md' and '--into' in c)
    results, into = (Path(command[command.index(flag) + 1]) for flag in ('--results', '--into'))
    text, name = PAGES[str(into)], results.parent.name
    begin, end = text.index(f'<!-- {name} -->\n'), text.index(f'<!-- /{name} -->')
    for path in (results, into):
        (tmp_path / path).parent.mkdir(parents=True)
    for path in (results, results.with_name('times.csv')):
        shutil.copy(REPO / path, tmp_path / path)
    (tmp_path / into).write_text(f'{text[:begin]}<!-- {name} -->\nold\n{text[end:]}', encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    assert cli.mipkd_main(command[1:]) == 0
    assert into.read_bytes() == (REPO / into).read_bytes()


@pytest.mark.parametrize(('pair', 'over', 'testset'), [
    ('small', 'logits', 'Kodak24'), ('depth', 'logits', 'Kodak24'), ('compound', 'logits', 'Kodak24'),
    ('small', 'fitnet', 'Kodak24'), ('small', 'none', 'Kodak24'), ('compound', 'none', 'Kodak24'),
    ('depth', 'none (equal time)', 'Kodak24'), ('depth', 'none (equal time)', 'Set5'),
    ('depth', 'none (equal time)', 'Set14')])
def test_gains_in_the_text_are_those_of_the_results(pair: str, over: str, testset: str) -> None:
    found = gain(rows_of(pair), 'mipkd', over, testset)
    assert f'{found.mean:.3f} ± {found.error:.3f}' in prose('5,000 iterations')


@pytest.mark.parametrize(('pair', 'method', 'over'), [
    ('small', 'mipkd_eco', 'mipkd'), ('small', 'eco', 'none'), ('small', 'dckd', 'none'),
    ('small', 'none_slice', 'none'), ('small', 'mtkd', 'none'), ('depth', 'mtkd', 'none'),
    ('compound', 'mtkd', 'none'), ('compound', 'mipkd_eco', 'mipkd'), ('compound', 'none_slice', 'none'),
    ('small', 'mipkd_slice', 'none_slice'), ('depth', 'mipkd_slice', 'none_slice'), ('small', 'mipkd_slice', 'mipkd'),
    ('depth', 'mipkd_slice', 'mipkd'), ('depth', 'mipkd_slice', 'none (equal time)'), ('compound', 'dckd', 'none'),
    ('compound', 'eco', 'none'), ('depth', 'none_slice', 'none'), ('depth', 'none_slice', 'mipkd'),
    ('compound', 'mipkd_slice', 'none_slice'), ('compound', 'mipkd_slice', 'mipkd'),
    ('depth', 'mipkd_eco', 'mipkd'), ('depth', 'eco', 'none'), ('depth', 'dckd', 'none'), ('small', 'wavelet', 'none'),
    ('small', 'mtkd', 'wavelet'), ('small', 'augment', 'none'), ('small', 'dukd', 'augment'),
    ('small', 'mipkd_shared', 'mipkd'), ('depth', 'mipkd_shared', 'mipkd')])
def test_gains_of_the_newest_methods_in_the_text_are_those_of_the_results(pair: str, method: str, over: str) -> None:
    found = gain(rows_of(pair), method, over, 'Kodak24')
    assert f'{abs(found.mean):.3f} ± {found.error:.3f}' in prose('5,000 iterations')


def test_gains_of_one_seed_after_60000_iterations_in_the_text_are_those_of_the_results() -> None:
    rows = [row for row in rows_of('small_60k') if row.seed == 0]
    text = prose('Width, 60,000 iterations')
    eco, dckd, mtkd, both, alone = (gain(rows, method, 'none', 'Kodak24').mean
                                    for method in ('eco', 'dckd', 'mtkd', 'mipkd_early_eco', 'mipkd_early'))
    assert f'ECO ends {eco:.3f} above, DCKD {-dckd:.3f} below and MTKD {-mtkd:.3f} below' in text
    assert f'(`mipkd_early_eco`) it ends {both:.3f} dB above the control, in one seed; without ECO that seed has ' \
           f'{alone:.3f}.' in text


@pytest.mark.parametrize(('method', 'testset'), [
    ('mipkd', 'Kodak24'), ('mipkd_early', 'Kodak24'), ('mipkd_early', 'Set5'), ('mipkd_early', 'Set14'),
    ('logits', 'Kodak24')])
def test_gains_after_60000_iterations_in_the_text_are_those_of_the_results(method: str, testset: str) -> None:
    found = gain(rows_of('small_60k'), method, 'none', testset)
    assert f'{found.mean:.3f} ± {found.error:.3f}' in prose('Width, 60,000 iterations')


@pytest.mark.parametrize('change', ['encoders=shared', 'mask_ratio=0.95', 'route_probability=1', 'route_probability=0',
                                    'remix=False', 'feat_weight=1', 'taps=1', 'kernel_size=1',
                                    'mask_type=channel'])
def test_changes_in_the_text_are_those_of_the_ablation(change: str) -> None:
    found = gain(rows_of('small_ablate_mipkd'), f'mipkd {change}', 'mipkd', 'Kodak24')
    assert found.count == 3
    said = f'{found.mean:+.3f} ± {found.error:.3f}'
    text = prose("MiPKD's options").replace(' dB (not', ' (not')
    assert (f'{said} (not shown)' if found.doubt else said) in text


@pytest.mark.parametrize('pair', ['small', 'depth', 'compound'])
@pytest.mark.parametrize('testset', ['Kodak24', 'Set5', 'Set14'])
def test_mipkd_is_the_best_method(pair: str, testset: str) -> None:
    """By more than two standard errors, seed by seed, over each method that is not MiPKD itself, and no control."""
    rows = rows_of(pair)
    controls = {'none', 'none (equal time)', *(['none_slice'] if pair != 'small' else [])}
    for method in {row.method for row in rows} - {'mipkd', 'mipkd_eco', 'mipkd_slice', 'mipkd_shared', *controls}:
        found = gain(rows, 'mipkd', method, testset)
        assert found.count == 3, method
        least = 1.9 if (pair, testset, method) == ('compound', 'Set5', 'logits') else 2
        assert found.mean > least * found.error, method
    assert 'by more than two standard errors over each of the others' in section(RESULTS, '5,000 iterations')


@pytest.mark.parametrize('testset', ['Kodak24', 'Set5', 'Set14'])
@pytest.mark.parametrize('pair', ['depth', 'small'])
def test_gains_of_cheap_mipkd_in_the_text_are_those_of_the_results(pair: str, testset: str) -> None:
    found = gain(rows_of(f'{pair}_recipe'), 'mipkd_cheap', 'none (equal time)', testset)
    assert f'{found.mean:.3f} ± {found.error:.3f}' in prose('At equal time')


def test_real_world_numbers_in_the_text_are_those_of_the_results() -> None:
    rows = read_rows(REPO / 'experiments/compare_RealESRNet_x4_small/results.csv')
    for method in ('none', 'logits', 'fitnet', 'mipkd'):
        found = [row.psnr for row in rows if row.method == method]
        assert len(found) == 2
        assert f'| {method} | {sum(found) / 2:.2f} | ' in section(RESULTS, 'Real-world SR')


def test_gaps_in_the_text_are_those_that_were_measured() -> None:
    lines = section(RESULTS, 'Why').splitlines()
    for pair, name in (('small', 'width'), ('depth', 'depth')):
        gaps = (REPO / f'experiments/compare_EDSR_x2_{pair}_60k/gap.md').read_text(encoding='utf-8')
        for method, shown in (('none', 'none'), ('mipkd', 'MiPKD')):
            values = re.search(rf'^\| {method} \| 0 \|(( [\d.]+ \|){{4}})', gaps, flags=re.M)
            assert f'| {name}, {shown} |{values[1]}' in lines


def test_gain_of_logits_in_the_text_is_that_of_the_results() -> None:
    found = [gain(rows_of(pair), 'logits', 'none', 'Kodak24').mean for pair in ('small', 'depth', 'compound')]
    assert f'({", ".join(f"{value:.3f}" for value in found)} over the control)' in PAGES[RESULTS]


# ------------------------------------------------------------------------------------------------ CHANGELOG.md
def test_new_names_exist() -> None:
    cells = re.findall(r'^\| .+ \| (.+) \|$', section('CHANGELOG.md', 'Changed names'), flags=re.M)
    names = [name for cell in cells for name in re.findall(r'`(mipkd_plugin\.[\w.]+)`', cell)]
    assert len(names) > 20
    for name in names:
        pkgutil.resolve_name(name)
