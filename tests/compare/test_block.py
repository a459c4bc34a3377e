"""Option files of comparisons: what they describe, and every mistake refused with the place and the remedy."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import change
from training import comparison_options, write_options

from mipkd_plugin import config
from mipkd_plugin.compare import EQUAL_TIME, Comparison, read_comparison
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.compare.trials import plain_model

Make = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)


@pytest.fixture
def compare_options(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    folder = tmp_path / 'work'
    folder.mkdir()
    monkeypatch.chdir(folder)
    return comparison_options(train_options())


def read(opt: dict[str, Any], *args: Any, force_yml: list[str] | None = None, **kwargs: Any) -> Comparison:
    write_options(opt, Path('x.yml'))
    return read_comparison(config.read_options('x.yml', force_yml), *args, **kwargs)


def refusal(opt: dict[str, Any], *args: Any, **kwargs: Any) -> list[str]:
    """The problems, one text each."""
    with pytest.raises(config.OptionError) as caught:
        read(opt, *args, **kwargs)
    assert str(caught.value).startswith(f'x.yml: {len(caught.value.problems)} problem')
    return [str(problem) for problem in caught.value.problems]


# --------------------------------------------------------------------------------------------- what a file describes
def test_runs_differ_in_nothing_but_losses_and_seed(compare_options: dict[str, Any]) -> None:
    before = copy.deepcopy(compare_options)
    comparison = read(compare_options)
    assert compare_options == before
    assert comparison.methods == ['none', 'logits', 'mipkd']
    assert [(t.seed, t.method) for t in comparison.trials] == [(s, m) for s in (0, 1) for m in comparison.methods]
    assert (comparison.name, comparison.testsets, comparison.metrics, comparison.iterations) == (
        'tiny', ['val'], ('psnr', 'ssim'), 12)
    for trial in comparison.trials:
        own = copy.deepcopy(trial.options)
        assert own.pop('name') == trial.name == f'tiny_{trial.method}_seed{trial.seed}'
        assert own.pop('manual_seed') == trial.seed
        assert own['train'].pop('exact_resume') is True
        losses = own['train'].pop('distill_opt', [])
        assert losses == before['compare']['methods'].get(trial.method, [])
        entries = losses if isinstance(losses, list) else [losses]
        for found, written in zip(json.loads(trial.losses), entries, strict=True):
            assert {**found, **written} == found
            assert 'loss_weight' in found, 'defaults are in it too: they may change'
        shared = {key: value for key, value in before.items() if key not in ('compare', 'name', 'manual_seed')}
        if trial.method == 'none':
            assert own.pop('model_type') == 'SRModel'
            shared = {key: value for key, value in shared.items() if key not in ('teacher', 'model_type')}
        assert own == shared
        assert yaml.safe_load(yaml.safe_dump(trial.options)) == trial.options


@pytest.mark.parametrize(('model_type', 'plain'), [
    ('DistillModel', 'SRModel'), ('SwinIRDistillModel', 'SwinIRModel'), ('SRModel', 'SRModel'), ('x', 'x')])
def test_the_controls_model(model_type: str, plain: str) -> None:
    assert plain_model(model_type) == plain


def test_a_choice_of_methods_and_seeds(compare_options: dict[str, Any]) -> None:
    comparison = read(compare_options, ['mipkd', 'none', 'mipkd'], [7])
    assert (comparison.methods, list(comparison.losses)) == (
        ['none', 'mipkd'], ['none', EQUAL_TIME, 'logits', 'mipkd'])
    assert [(t.seed, t.method) for t in comparison.trials] == [(7, 'none'), (7, 'mipkd')]


def test_the_protocol_is_that_of_data_networks_teacher_and_training(compare_options: dict[str, Any],
                                                                    tmp_path: Path) -> None:
    protocol = read(compare_options).protocol_hash
    assert read(compare_options, [], [5]).protocol_hash == protocol  # of the control alone, too
    assert read(compare_options, None, None, ('mipkd', {'mask_ratio': [0.25]})).protocol_hash == protocol
    for path, value in (('name', 'other'), ('logger.print_freq', 2), ('num_gpu', 'auto'),
                        ('compare.methods.logits.loss_weight', 2), ('compare.seeds', [3])):
        opt = copy.deepcopy(compare_options)
        change(opt, path, value)
        assert read(opt).protocol_hash == protocol, path
    others = {protocol}
    for path, value in (('train.total_iter', 13), ('train.ema_decay', 0.5), ('network_g.num_feat', 6),
                        ('datasets.train.gt_size', 8), ('datasets.val.name', 'Set5'),
                        ('val.metrics.psnr.crop_border', 3)):
        opt = copy.deepcopy(compare_options)
        change(opt, path, value)
        others.add(read(opt).protocol_hash)
    weights = torch.load(compare_options['teacher']['weights'])
    weights['params']['conv_last.bias'] += 1
    torch.save(weights, compare_options['teacher']['weights'])
    others |= {read(compare_options).protocol_hash}
    for folder in ('HR', 'LRbicx2'):
        (tmp_path / folder / '3.png').unlink()
    others.add(read(compare_options).protocol_hash)
    assert len(others) == 9


def test_variants_of_one_method(compare_options: dict[str, Any]) -> None:
    compare_options['compare']['methods']['both'] = [
        {'type': 'LogitsKDLoss'}, {**compare_options['compare']['methods']['mipkd'], 'mask_ratio': 0.25}]
    comparison = read(compare_options, None, [0], ('both', {'mask_ratio': [0.25, 0.75], 'loss_weight': [1, 2]}))
    assert comparison.name == 'tiny_ablate_both'
    assert comparison.methods == ['none', 'both', 'both mask_ratio=0.75', 'both loss_weight=2']
    assert [trial.name for trial in comparison.trials] == [
        'tiny_none_seed0', 'tiny_both_seed0', 'tiny_both-mask_ratio-0.75_seed0', 'tiny_both-loss_weight-2_seed0']
    losses = [trial.options['train'].get('distill_opt') for trial in comparison.trials]
    assert losses[1] == compare_options['compare']['methods']['both']
    assert losses[2] == [losses[1][0], {**losses[1][1], 'mask_ratio': 0.75}]
    assert losses[3] == [{**losses[1][0], 'loss_weight': 2}, losses[1][1]]
    compare_options['compare']['ablate'] = {'method': 'both', 'options': {'mask_ratio': [0.75]}}
    assert read(compare_options, None, [0], (None, {})).methods == comparison.methods[:3]


def test_a_variant_that_is_the_method_itself_is_left_out(compare_options: dict[str, Any]) -> None:
    """A list in the option file, and a tuple as the default."""
    compare_options['compare']['methods']['dckd'] = {'type': 'DCKDLoss', 'taps': 2, 'history_every': 2}
    comparison = read(compare_options, None, [0], ('dckd', {'noise': [[1, 30], [1, 20]]}))
    assert comparison.methods == ['none', 'dckd', 'dckd noise=[1, 20]']


# --------------------------------------------------------------------------------------------- one mistake each
MISTAKES = [
    # (entry, value, the one message, or its beginning)
    ('compare', ..., 'compare: is missing\n   -> write compare: {seeds: [0, 1, 2], methods:'),
    ('compare', [1], 'compare (line @): must be a block of keys, not [1]\n   -> write compare:'),
    ('compare.seed', [1], "compare.seed (line @): unknown key: nothing reads it\n   -> did you mean 'seeds'?"),
    ('compare.seeds', ..., 'compare.seeds (line @compare): is missing\n   -> write seeds: [0, 1, 2], or --seeds 0 1 2'),
    ('compare.seeds', 3, 'compare.seeds (line @): must be a list of seeds, not 3\n   -> write seeds: [0, 1, 2]'),
    ('compare.seeds', [], 'compare.seeds (line @): must be a list of seeds, not []'),
    ('compare.seeds', '0 1', "compare.seeds (line @): must be a list of seeds, not '0 1'"),
    ('compare.seeds', [0, -1], 'compare.seeds (line @): must be whole numbers from 0 to 2147483647, not [0, -1]'),
    ('compare.seeds', [0, 'a'], "compare.seeds (line @): must be whole numbers from 0 to 2147483647, not [0, 'a']"),
    ('compare.seeds', [0, True], 'compare.seeds (line @): must be whole numbers'),
    ('compare.seeds', [1.5], 'compare.seeds (line @): must be whole numbers'),
    ('compare.seeds', [2**40], 'compare.seeds (line @): must be whole numbers'),
    ('compare.seeds', [1, 2, 1], 'compare.seeds (line @): names a seed twice: [1, 2, 1]\n   -> name each seed once'),
    ('compare.methods', ..., 'compare.methods (line @compare): is missing\n   -> write methods: {logits: {type: '),
    ('compare.methods', {}, 'compare.methods (line @): must be a block of methods, not {}'),
    ('compare.methods', ['mipkd'], "compare.methods (line @): must be a block of methods, not ['mipkd']"),
    ('compare.methods.none', {'type': 'LogitsKDLoss'},
     'compare.methods.none (line @): is the control without a loss, which every comparison has\n   -> remove it'),
    ('compare.methods.a/b', {'type': 'LogitsKDLoss'},
     'compare.methods.a/b (line @): is not a usable name\n   -> use only letters, digits and . _ + -'),
    ('compare.methods.logits', 'LogitsKDLoss',
     "compare.methods.logits (line @): must be one loss (a block with type) or a list of them, not 'LogitsKDLoss'"),
    ('compare.methods.logits.type', 'LogitKDLoss', 'compare.methods.logits.type (line @): there is no loss '
     "'LogitKDLoss'\n   -> did you mean 'LogitsKDLoss'?"),
    ('compare.methods.logits.type', 'L1Loss', 'compare.methods.logits.type (line @): L1Loss is not a distillation'),
    ('compare.methods.mipkd.mask_rate', 1, "compare.methods.mipkd.mask_rate (line @): MiPKDLoss has no argument "
     "'mask_rate'\n   -> did you mean 'mask_ratio'?"),
    ('compare.methods.mipkd.mask_ratio', 2,
     'compare.methods.mipkd.mask_ratio (line @): must be at most 1, got 2'),
    ('compare.methods.mipkd.taps', 4, 'compare.methods.mipkd.taps (line @): 4 is not between 1 and 3'),
    ('compare.methods.mipkd.feat_weight', '1e-4',
     "compare.methods.mipkd.feat_weight (line @): '1e-4' is a string, not a number\n   -> write !!float 1e-4"),
    ('compare.methods.none-equal-time', {'type': 'LogitsKDLoss'},
     'compare.methods.none-equal-time (line @): is the control of equal time, which compare.equal_time asks for'),
    ('compare.equal_time', 3, 'compare.equal_time (line @): must be true, false or the name of a method, not 3\n   -> '
     'write true, which takes the costliest method; false; or one of logits, mipkd'),
    ('compare.equal_time', None, 'compare.equal_time (line @): must be true, false or the name of a method, not None'),
    ('compare.equal_time', 'mipk', "compare.equal_time (line @): compare.methods has no method 'mipk'\n   -> did you "
     "mean 'mipkd'?"),
    ('compare.equal_time', 'none', "compare.equal_time (line @): compare.methods has no method 'none'"),
    ('compare.ablate', {'method': 'mipkd', 'option': {}},
     "compare.ablate.option (line @option): unknown key: nothing reads it\n   -> did you mean 'options'?"),
    ('val', ..., 'val: is missing: without validation there is nothing to compare\n   -> write val: {val_freq:'),
    ('val.metrics.psnr', ..., 'val.metrics (line @metrics): has no metric of type calculate_psnr, and the table needs '
     'one\n   -> write psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: true}'),
    ('val.metrics.ssim', ..., 'val.metrics (line @metrics): has no metric of type calculate_ssim'),
    ('val.val_freq', ..., 'val.val_freq (line @val): is missing'),
    ('datasets.val', ..., 'datasets (line @datasets): has no val set: there is nothing to measure on'),
    ('logger.print_freq', 3, 'logger.print_freq (line @): 3 does not divide val.val_freq, 4: the log would not show '
     'the iteration of a validation\n   -> write a divisor of 4'),
    ('datasets.train.persistent_workers', True,
     'datasets.train.persistent_workers (line @): needs workers, and this data set has none'),
    ('model_type', 'SRModel', 'model_type (line @): SRModel does not distill; only the control trains without a '
     'teacher, and it gets its model by itself\n   -> write model_type: DistillModel'),
    ('model_type', 'SwinIRModel', 'model_type (line @): SwinIRModel does not distill'),
    ('model_type', 'DistilModel', "model_type (line @): there is no model 'DistilModel'\n   -> did you mean "
     "'DistillModel'?"),
    ('model_type', ..., 'model_type: is missing'),
    ('model_type', 7, 'model_type (line @): must be a string, not 7'),
    ('name', ..., 'name: is missing'),
    ('train', ..., 'train: is missing'),
    ('train.distill_opt', {'type': 'LogitsKDLoss'}, 'train.distill_opt (line @): belongs to the methods of a '
     'comparison, each of which has its own losses\n   -> remove it, and write losses where it is wanted: '
     'compare.methods.NAME.losses'),
    ('train.eco', {'end_ratio': 0.5}, 'train.eco (line @): belongs to the methods of a comparison, each of which has '
     'its own eco\n   -> remove it, and write eco where it is wanted: compare.methods.NAME.eco'),
    ('teacher.weights', 'no.pth', 'teacher.weights (line @): does not exist; looked for /'),
    ('network_g.num_feats', 8, "network_g.num_feats (line @): EDSR has no argument 'num_feats'"),
    ('train.total_iter', '1e4', "train.total_iter (line @): '1e4' is a string, not a number"),
]


@pytest.mark.parametrize(('path', 'value', 'message'), MISTAKES, ids=[f'{p}={v}' for p, v, _ in MISTAKES])
def test_one_mistake_one_message(compare_options: dict[str, Any], path: str, value: Any, message: str) -> None:
    change(compare_options, path, value)
    found, = refusal(compare_options, ablate=(None, {'mask_ratio': [0.25]}) if 'ablate' in path else None)
    text = Path('x.yml').read_text().splitlines()
    key = message.split('(line @')[1].split(')')[0] if '(line @' in message else ''
    key = key or path.rpartition('.')[2]
    lines = [number for number, line in enumerate(text, 1) if line.strip().startswith(f'{key}:')]
    said = [message.replace(f'(line @{key})', f'(line {n})').replace('(line @)', f'(line {n})') for n in lines or [0]]
    assert found.startswith(tuple(said)), found


def test_two_val_sets_of_one_name(compare_options: dict[str, Any]) -> None:
    compare_options['datasets']['val_2'] = dict(compare_options['datasets']['val'])
    found, = refusal(compare_options)
    assert 'has two val sets with the name val\n   -> give each set its own name' in found


def test_methods_and_seeds_of_the_command_line(compare_options: dict[str, Any]) -> None:
    assert refusal(compare_options, ['mipk', 'sgd'], None) == [
        "--methods: compare.methods has no method 'mipk'\n   -> did you mean 'mipkd'?",
        "--methods: compare.methods has no method 'sgd'\n   -> valid here: logits, mipkd, none"]
    assert refusal(compare_options, None, [0, -1])[0].startswith('--seeds: must be whole numbers from 0 to 2147483647')
    assert refusal(compare_options, None, [1, 1])[0].startswith('--seeds: names a seed twice: [1, 1]')


@pytest.mark.parametrize(('setting', 'methods', 'found'), [
    (..., None, True), (True, None, True), (False, None, False), ('mipkd', None, 'mipkd'), (True, ['logits'], True),
    (True, ['none'], False), (True, [], False), (True, [EQUAL_TIME], True), ('mipkd', ['logits'], 'mipkd')])
def test_who_trains_a_control_of_equal_time(compare_options: dict[str, Any], setting: Any, methods: list[str] | None,
                                            found: bool | str) -> None:
    change(compare_options, 'compare.equal_time', setting)
    comparison = read(compare_options, methods)
    assert comparison.equal_time == found
    assert [trial.method for trial in comparison.one_each] == ['none', 'logits', 'mipkd']
    assert comparison.methods == ['none', *(name for name in ('logits', 'mipkd') if methods is None or name in methods)]
    assert read(compare_options, None, None, ('mipkd', {'mask_ratio': [0.25]})).equal_time is False


def test_a_control_of_equal_time_that_is_switched_off(compare_options: dict[str, Any]) -> None:
    found, = refusal(compare_options, [EQUAL_TIME])
    assert found == ("--methods: names 'none (equal time)', but compare.equal_time is false\n   -> write "
                     'compare.equal_time: true')


def test_what_was_forced_is_named(compare_options: dict[str, Any]) -> None:
    found, = refusal(compare_options, force_yml=['compare:methods:mipkd:taps=4'])
    assert found.startswith('compare.methods.mipkd.taps (--force_yml): 4 is not between 1 and 3')


def test_all_problems_at_once(compare_options: dict[str, Any]) -> None:
    for path, value in (('val.metrics.ssim', ...), ('compare.seeds', [1, 1]), ('nmae', 1),
                        ('compare.methods.mipkd.taps', 4), ('compare.methods.logits.type', 'Logits')):
        change(compare_options, path, value)
    found = refusal(compare_options, ['mipkd', 'logits', 'x'])
    assert [text.split(' (')[0].split(':')[0].removeprefix('compare.') for text in found] == [
        '--methods', 'val.metrics', 'seeds', 'methods.logits.type', 'methods.mipkd.taps', 'nmae']
    assert refusal(compare_options, force_yml=['a=b=c'])[0].startswith('--force_yml a=b=c')


@pytest.mark.parametrize(('method', 'options', 'message'), [
    (None, {'taps': [1]}, '--method: is missing: name the method to vary\n   -> valid here: logits, mipkd'),
    ('mipk', {'taps': [1]}, "--method: compare.methods has no method 'mipk' to vary\n   -> did you mean "
     "'mipkd'?"),
    ('none', {'taps': [1]}, '--method: none has no losses, and an ablation varies their options'),
    ('mipkd', {}, '--vary: is missing: name an option and the values to try'),
    ('mipkd', {'mask_rati': [1]}, "--vary mask_rati: no loss of 'mipkd' has an option 'mask_rati'\n   -> did you mean "
     "'mask_ratio'?"),
    ('mipkd', {'mask_ratio': [0.25, 2]}, '--vary mask_ratio: must be at most 1, got 2'),
    ('mipkd', {'taps': [1, 4]}, '--vary taps: 4 is not between 1 and 3'),
    ('mipkd', {'feat_weight': [-2, 2]}, "compare (line @): 'mipkd feat_weight=-2' and 'mipkd feat_weight=2' would "
     'both train in experiments/tiny_mipkd-feat_weight-2_seed0\n   -> rename one of them, or try'),
])
def test_mistakes_in_an_ablation(compare_options: dict[str, Any], method: str | None, options: dict[str, Any],
                                 message: str) -> None:
    found = refusal(compare_options, None, None, (method, options))
    line = next(n for n, text in enumerate(Path('x.yml').read_text().splitlines(), 1) if text.startswith('compare'))
    assert any(problem.startswith(message.replace('@', str(line))) for problem in found)


def test_mistakes_in_the_block_ablate(compare_options: dict[str, Any]) -> None:
    compare_options['compare']['ablate'] = {'method': 'mipk', 'options': {'taps': [4]}}
    assert refusal(compare_options, ablate=(None, {}))[0].startswith('compare.ablate.method (line ')
    compare_options['compare']['ablate']['method'] = 'mipkd'
    found, = refusal(compare_options, ablate=(None, {}))
    assert found.startswith('compare.ablate.options.taps (line ')
    compare_options['compare']['methods']['mipkd']['mask_ratio'] = 2  # one message, not one of each variant
    compare_options['compare']['ablate']['options'] = {'latent_channels': [8, 16]}
    found, = refusal(compare_options, ablate=(None, {}))
    assert found.startswith('compare.methods.mipkd.mask_ratio (line ')


# --------------------------------------------------------------------------------------------- the commands
COMMANDS = [
    (['compare', '-opt', 'x.yml', '--methods', 'mipk'], "--methods: compare.methods has no method 'mipk'"),
    (['compare', '-opt', 'x.yml', '--seeds', '-1'], '--seeds: must be whole numbers'),
    (['compare', '-opt', 'x.yml', '--seeds', '1', '1'], '--seeds: names a seed twice'),
    (['compare', '-opt', 'x.yml', '--jobs', '0'], '--jobs must be 1 or more, got 0'),
    (['compare', '-opt', 'x.yml', '--results', 'a.csv'], '--results needs --report'),
    (['compare'], '-opt FILE.yml is missing'),
    (['compare', '-opt', 'no.yml'], 'cannot read no.yml: No such file'),
    (['compare', '-opt', 'x.yml', '--times', '--into', 'x.md'], '--into takes a table of results; leave it out with'),
    (['compare', '--report'], '--report needs either -opt FILE.yml or --results FILE.csv'),
    (['compare', '--report', '-opt', 'x.yml', '--results', 'a.csv'], '--report needs either'),
    (['compare', '--report', '-opt', 'x.yml'], 'experiments/tiny/results.csv does not exist; run the command without'),
    (['compare', '--report', '--results', 'a.csv'], 'a.csv does not exist'),
    (['compare', '--report', '-opt', 'x.yml', '--seeds', '0'], '--report shows all rows of results.csv; leave out'),
    (['compare', '-opt', 'x.yml', '--into', 'no.md'], '--into no.md cannot be read: No such file'),
    (['compare', '-opt', 'x.yml', '--into', 'x.yml'], '--into x.yml needs a line <!-- tiny --> and below it a line'),
    (['ablate', '-opt', 'x.yml', '--method', 'mipkd', '--vary', 'taps'], '--vary taps: has no values to try'),
    (['ablate', '-opt', 'x.yml', '--method', 'mipkd', '--vary', 'taps', '[1'], "--vary: '[1' cannot be read"),
    (['ablate', '-opt', 'x.yml', '--method', 'mipkd', '--vary', 'tap', '1'], "has an option 'tap'"),
    (['ablate', '--report', '-opt', 'x.yml'], 'x.yml has no compare.ablate.method; name the method with --method'),
    (['ablate', '--report', '-opt', 'x.yml', '--method', 'mipkd'], 'experiments/tiny_ablate_mipkd/results.csv does'),
    (['ablate', '-opt', 'x.yml', '--method', 'mipkd', '--vary', 'taps', '1e-4', '--vary', 'mask_ratio', '2'],
     '2. --vary mask_ratio: must be at most 1, got 2'),
    (['ablate', '-opt', 'x.yml', '--method', 'mipkd', '--vary', 'taps', '4', '--vary', 'taps', '1e-4', '3'],
     '1. --vary taps: 4 is not between 1 and 3'),
]


@pytest.mark.parametrize(('arguments', 'message'), COMMANDS, ids=[' '.join(a) for a, _ in COMMANDS])
def test_refused_with_2_and_nothing_written(compare_options: dict[str, Any], capsys: pytest.CaptureFixture[str],
                                            arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
                                            ) -> None:
    monkeypatch.setattr('mipkd_plugin.compare.session.ComparisonRunner', None)  # nothing is trained
    write_options(compare_options, Path('x.yml'))
    assert mipkd_main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert 'Traceback' not in captured.err
    assert captured.out == ''
    assert [str(path) for path in Path().iterdir()] == ['x.yml']


def test_seeds_that_are_no_numbers(compare_options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        mipkd_main(['compare', '-opt', 'x.yml', '--seeds', 'a'])
    assert caught.value.code == 2
    assert "argument --seeds: invalid int value: 'a'" in capsys.readouterr().err


def test_basicsr_names_the_command_for_such_a_file(compare_options: dict[str, Any],
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    write_options(compare_options, Path('x.yml'))
    assert basicsr_main(['train', '-opt', 'x.yml']) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == 'x.yml: 1 problem'
    assert lines[1].startswith('1. compare (line ')
    assert lines[1].endswith('): is read by mipkd compare and mipkd ablate, not by basicsr')
    assert lines[2].startswith('   -> run: mipkd compare -opt x.yml; or remove it')
    assert mipkd_main(['check', '-opt', 'x.yml', '--train']) == 2
    capsys.readouterr()


def test_check_of_such_a_file(compare_options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    write_options(compare_options, Path('x.yml'))
    assert mipkd_main(['check', '-opt', 'x.yml']) == 0
    out = capsys.readouterr().out
    assert out.startswith('ok: x.yml can be used by mipkd compare\n')
    for piece in ('student  EDSR, 6,867', 'teacher  EDSR, 20,283', 'methods  none, logits, mipkd', 'seeds    0, 1',
                  'runs     6 of 12 iterations', 'val      val, 4 pairs of images'):
        assert piece in out
    compare_options['compare']['ablate'] = {'method': 'mipkd', 'options': {'taps': [1, 3]}}
    write_options(compare_options, Path('x.yml'))
    assert mipkd_main(['check', '-opt', 'x.yml']) == 0
    assert 'ablation mipkd taps=1, mipkd taps=3' in capsys.readouterr().out
    compare_options['compare']['methods']['logits']['type'] = 'x'
    write_options(compare_options, Path('x.yml'))
    assert mipkd_main(['check', '-opt', 'x.yml']) == 2
    assert 'compare.methods.logits.type (line' in capsys.readouterr().err
    assert [str(path) for path in Path().iterdir()] == ['x.yml']
