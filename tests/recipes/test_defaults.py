"""What is chosen where nothing is given: each rule, and that each can be overruled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from basicsr.archs import build_network
from helpers import STUDENTS

from mipkd_plugin.commands.distill import LOSSES, SETTINGS
from mipkd_plugin.recipes import defaults
from mipkd_plugin.recipes.defaults import duration, resolve
from mipkd_plugin.recipes.settings import Facts, Settings
from mipkd_plugin.recipes.networks import attends, layers_of, trunk_size

CPU = Facts(scale=2, blocks=(5, 5), width=16, teacher_width=64, layers=14, attends=False, unit=1, smallest=160,
            images=400, gpu=False, cores=2, free=10**11, threads=1)
SHALLOW = replace(CPU, blocks=(2, 5), width=64)
GPU = replace(CPU, gpu=True, cores=16, threads=0)


def chosen(facts: Facts = CPU, seconds: float = 0.05, **given: Any) -> Settings:
    return resolve(facts, given, lambda settings: seconds)


def test_every_setting_has_an_option_and_a_reason() -> None:
    found = chosen()
    assert set(found.values) == set(SETTINGS) == set(found.reasons)
    assert all(found.reasons.values())
    assert set(LOSSES) == set(defaults.LOSSES)
    assert [line.split()[0] for line in found.lines()] == list(found.values)


@pytest.mark.parametrize(('name', 'value'), [
    ('loss', 'logits'), ('taps', 3), ('chain', 'yes'), ('encoders', 'separate'), ('until', 0.3),
    ('init', 'teacher_slice'), ('patch', 32),
    ('batch', 4), ('learning_rate', 1e-3), ('iterations', 777), ('crops', 0), ('ema', 0.5), ('val_freq', 9),
    ('workers', 3), ('threads', 2), ('seed', 5)])
def test_what_is_given_stays(name: str, value: Any) -> None:
    found = chosen(**{name: value})
    assert (found[name], found.reasons[name].partition(';')[0]) == (value, 'given')


def test_a_cpu_trains_for_some_minutes() -> None:
    assert chosen(seconds=0.05)['iterations'] == 4800
    assert chosen(seconds=3)['iterations'] == 1000, 'too short a run teaches nothing'
    assert chosen(seconds=0.001)['iterations'] == 20_000
    assert chosen(seconds=0.05).reasons['iterations'] == 'about 4 min on this CPU, 50 ms each, measured'


def test_a_gpu_trains_long_with_new_crops_and_lets_go() -> None:
    found = chosen(GPU)
    assert [found[name] for name in ('iterations', 'patch', 'batch', 'crops', 'until', 'chain', 'ema')] == [
        60_000, 48, 16, 0, 0.5, 'yes', 0.999]
    found = chosen(GPU, iterations=5000)
    assert (found['until'], found['chain'], found['crops']) == (1, 'no', 4096)


def test_a_pool_fits_in_memory() -> None:
    assert chosen()['crops'] == 4096
    assert chosen(iterations=1000)['crops'] == 1000
    assert chosen(replace(CPU, free=10**9))['crops'] == 1471
    found = chosen(replace(CPU, free=10**3))
    assert (found['crops'], found.reasons['crops']) == (0, 'too little free memory for a pool')


def test_narrow_students_have_one_encoder_in_short_runs() -> None:
    assert chosen()['encoders'] == 'shared'
    assert chosen(iterations=20_000)['encoders'] == 'separate'
    assert chosen(replace(CPU, width=CPU.teacher_width))['encoders'] == 'separate'
    assert 'encoders' not in chosen(loss='logits').values


def test_taps_need_blocks() -> None:
    assert chosen(replace(CPU, blocks=(16, 23)))['taps'] == 4
    assert chosen(replace(CPU, blocks=(2, 5)))['taps'] == 2
    assert chosen(replace(CPU, blocks=(1, 5)))['taps'] == 1
    found = chosen(replace(CPU, blocks=(0, 5)))
    assert (found['loss'], 'taps' in found.values, 'chain' in found.values) == ('logits', False, False)


def test_a_student_that_is_no_slice_says_why() -> None:
    assert (chosen(SHALLOW)['init'], chosen(SHALLOW, loss='none').values.get('init')) == ('teacher_slice', None)
    assert chosen()['init'] == 'random', 'narrow: its learning rate is too high for a slice'
    other = chosen(replace(SHALLOW, uncut='the student is deeper'))
    assert (other['init'], other.reasons['init']) == ('random', 'the student is deeper')


def test_patches_fit_windows_and_images() -> None:
    assert chosen(replace(CPU, unit=8))['patch'] == 24
    assert chosen(replace(CPU, unit=16))['patch'] == 16
    assert chosen(replace(CPU, smallest=21, unit=8))['patch'] == 16
    assert chosen(replace(CPU, smallest=21))['patch'] == 21


def test_the_rate_falls_with_the_width() -> None:
    rates = [chosen(replace(CPU, width=width))['learning_rate'] for width in (8, 16, 64, 256)]
    assert rates == [4e-3, 4e-3, 1e-3, 3e-4]
    assert chosen(replace(CPU, attends=True, width=64))['learning_rate'] < 4e-4


def test_a_deep_student_learns_more_slowly() -> None:
    """RRDBNet:32x10x16 diverged at 4e-3, and was better at 5e-4 than at 1e-3 and 2e-4."""
    deep = chosen(replace(CPU, width=32, layers=156))
    assert (deep['learning_rate'], deep.reasons['learning_rate']) == (
        6e-4, 'for 32 channels and 156 convolutions; falls to 1e-6 along a cosine')
    assert chosen(replace(CPU, width=64, layers=351))['learning_rate'] == 2e-4, 'the rate of the paper'


def test_a_pool_is_no_larger_than_what_is_seen() -> None:
    for iterations, crops, seen in ((3, 24, 'each is seen once'), (100, 256, 'each is seen about 3 times'),
                                    (5000, 4096, 'each is seen about 10 times')):
        found = chosen(iterations=iterations)
        assert (found['crops'], found.reasons['crops'].partition('; ')[2]) == (crops, seen)


def test_the_time_of_a_given_length_is_told() -> None:
    assert chosen(iterations=6000).reasons['iterations'] == 'given; about 5 min here, 50 ms each, measured'
    assert chosen(iterations=4).reasons['val_freq'] == '4 validations, each with a checkpoint'


def test_more_threads_only_where_they_are_clearly_faster() -> None:
    facts = replace(CPU, threads=0)
    for many, wanted in ((0.02, 2), (0.045, 1)):
        assert resolve(facts, {}, lambda found, many=many: {1: 0.05, 2: many}[found['threads']])['threads'] == wanted


def test_widths_of_real_networks() -> None:
    nets = {name: build_network(options) for name, options in STUDENTS.items()}
    sizes = {name: trunk_size(net, 8) for name, net in nets.items()}
    for name, options in STUDENTS.items():
        blocks, width = sizes[name]
        assert width == options.get('num_feat', options.get('embed_dim')), name
        assert blocks > 0, name
    assert [name for name, net in nets.items() if layers_of(net) > 16] == ['RRDBNet']
    assert [name for name, net in nets.items() if attends(net)] == ['SwinIR']


def test_times_for_people() -> None:
    assert [duration(seconds) for seconds in (4, 89, 300, 5400, 7800)] == ['4 s', '89 s', '5 min', '1 h 30 min',
                                                                           '2 h 10 min']
