"""The ranges in the signatures: every option of every registered loss refuses what lies outside."""

from __future__ import annotations

import inspect
import re
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from basicsr.utils.registry import LOSS_REGISTRY

from mipkd_plugin import ArgumentError, DistillationLoss, LogitsKDLoss, MiPKDLoss
from mipkd_plugin.archs import FeaturePriorMixer, FeatureProjection, KRNet
from mipkd_plugin.archs.base import ScaledFeatures
from mipkd_plugin.losses import BlockPriorMixer
from mipkd_plugin.utils.ranges import checked

LOSSES = {name: cls for name, cls in LOSS_REGISTRY
          if issubclass(cls, DistillationLoss) and cls.__module__.startswith('mipkd_plugin.')}
NEEDED = {'KRNetLoss': {'taps': 3}}
CLASSES = {**LOSSES, **{cls.__name__: cls for cls in (
    FeaturePriorMixer, FeatureProjection, KRNet, BlockPriorMixer, ScaledFeatures)}}
NEEDED |= {name: {'student_channels': 2, 'teacher_channels': 3}
           for name in ('FeaturePriorMixer', 'FeatureProjection', 'KRNet')}


def is_numeric(annotation: Any) -> bool:
    """Whether an option takes int or float, alone or beside None."""
    kinds = [annotation, *get_args(annotation)]
    return any(kind in (int, float) or get_args(kind)[:1] in ((int, ), (float, )) for kind in kinds)


NUMERIC = [(name, option) for name, cls in CLASSES.items()
           for option, hint in get_type_hints(cls.__init__, include_extras=True).items() if is_numeric(hint)]


def refused(name: str, **options: Any) -> str:
    """The message with which a class refuses options; only these."""
    with pytest.raises(ArgumentError) as caught:
        CLASSES[name](**{**NEEDED.get(name, {}), **options})
    assert {key.partition('[')[0] for key in caught.value.mistakes} == set(options)
    assert str(caught.value).startswith(f'{name}: ')
    return str(caught.value)


def test_there_are_numeric_options_to_try() -> None:
    assert len(NUMERIC) > 60
    assert {name for name, _ in NUMERIC} == set(CLASSES)
    assert ('MiPKDLoss', 'feat_weight') in NUMERIC
    assert ('KRNetLoss', 'inner_lr') in NUMERIC


@pytest.mark.parametrize(('name', 'option', 'value'), [
    (name, option, value) for name, option in NUMERIC for value in (-1, float('nan'), float('inf'), '1e3', True, [1])
    if (option, value) != ('history_every', [1])], ids=str)  # that one takes a list too
def test_a_number_out_of_range_is_refused(name: str, option: str, value: Any) -> None:
    message = refused(name, **{option: value})
    assert re.search(rf'\b{option}\b.* must .*got {re.escape(repr(value))}', message), message


@pytest.mark.parametrize(('name', 'options', 'message'), [
    ('LogitsKDLoss', {'loss_weight': 0}, 'loss_weight must be above 0, got 0'),
    ('FitNetLoss', {'feature_scale': 'max'}, "feature_scale must be 'running' or 'none', got 'max'"),
    ('FitNetLoss', {'momentum': 2}, 'momentum must be at most 1, got 2'),
    ('CrossKDLoss', {'feature_scale': None}, "feature_scale must be 'running' or 'none', got None"),
    ('RKDLoss', {'angle_weight': '50'}, "angle_weight must be a number, got '50'"),
    ('FAKDLoss', {'positions': 1}, 'positions must be at least 2, got 1'),
    ('FAKDLoss', {'positions': 50.0}, 'positions must be a whole number, got 50.0'),
    ('CSDLoss', {'layer_weights': [1, 1]}, 'layer_weights must have 5 or more entries, not 2, got [1, 1]'),
    ('CSDLoss', {'layer_weights': 'equal'}, "layer_weights must be a list, got 'equal'"),
    ('CSDLoss', {'layer_weights': [1, 1, 1, 1, '1']}, "layer_weights[4] must be a number, got '1'"),
    ('CSDLoss', {'weights': 3}, 'weights must be a string, got 3'),
    ('DUKDLoss', {'augmentations': 'hflip'}, "augmentations must be a list, got 'hflip'"),
    ('DUKDLoss', {'augmentations': ['hflip', 'rotate']}, "augmentations[1] must be 'invert', 'hflip', 'vflip' or"),
    ('KRNetLoss', {'kernel_size': 4}, 'kernel_size must be odd, got 4'),
    ('KRNetLoss', {'kernel_size': 1}, 'kernel_size must be at least 3, got 1'),
    ('KRNetLoss', {'inner': 'adm'}, "inner must be 'adam', 'rmsprop' or 'sgd', got 'adm'"),
    ('KRNetLoss', {'first_order': 'yes'}, "first_order must be true or false, got 'yes'"),
    ('KRNetLoss', {'first_order': 1}, 'first_order must be true or false, got 1'),
    ('MiPKDLoss', {'mask_type': '3D'}, "mask_type must be '3d', 'channel' or 'pixel', got '3D'"),
    ('MiPKDLoss', {'kernel_size': 2}, 'kernel_size must be odd, got 2'),
    ('MiPKDLoss', {'taps': None}, 'taps must be a whole number of at least 1, or a list of [student module path,'),
    ('MiPKDLoss', {'taps': []}, 'the list is empty'),
    ('MiPKDLoss', {'taps': [['body.1']]}, "the entry ['body.1'] is not such a pair"),
    ('MiPKDLoss', {'mask': 1}, 'mask is not an option of this class'),
])
def test_what_the_message_says(name: str, options: dict[str, Any], message: str) -> None:
    assert message in refused(name, **options)


def test_all_mistakes_at_once() -> None:
    message = refused('MiPKDLoss', feat_weight=-1, block_weight=float('nan'), kd_weight='1e3')
    assert message == ('MiPKDLoss: kd_weight must be a number, got \'1e3\'; feat_weight must be at least 0, '
                       'got -1; block_weight must be a finite number, got nan')


@pytest.mark.parametrize(('name', 'options', 'message'), [
    ('MiPKDLoss', dict.fromkeys(('kd_weight', 'feat_weight', 'ae_weight', 'block_weight'), 0), 'all weights of MiPKD'),
    ('MiPKDLoss', {'kd_weight': 0, 'feat_weight': 0, 'block_weight': 0}, 'reach the student: .* feat_weight are 0'),
    ('MiPKDLoss', {'kd_weight': 0, 'mask_ratio': 0, 'block_weight': 0}, 'reach the student: .* mask_ratio are 0'),
    ('DUKDLoss', {'zoom_in_weight': 0, 'zoom_out_weight': 0.0}, 'zoom_in_weight and zoom_out_weight are both 0'),
    ('RKDLoss', {'distance_weight': 0, 'angle_weight': 0}, 'distance_weight and angle_weight are both 0')])
def test_a_loss_that_would_distill_nothing(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LOSSES[name](**options)


def test_what_is_good_stays_good() -> None:
    assert MiPKDLoss(taps=(('a', 'b'), ), feat_weight=5).weights['l_feat'] == 5
    assert str(inspect.signature(MiPKDLoss)).startswith("(taps: 'Taps' = 4, latent_channels: 'LatentWidth' = 'teacher'")
    assert MiPKDLoss.__init__.__doc__ is None


def test_positional_arguments_are_named_too() -> None:
    with pytest.raises(ArgumentError, match='KRNet: student_channels must be at least 1, got 0'):
        KRNet(0, 3)


def test_errors_of_the_constructor_itself_pass_through() -> None:
    class Odd:
        @checked
        def __init__(self, size: int) -> None:
            raise KeyError(size)

    with pytest.raises(KeyError, match='3'):
        Odd(3)


def test_integers_of_numpy_are_whole_numbers_and_its_flags_are_not() -> None:
    assert MiPKDLoss(taps=np.int64(2), latent_channels=np.int32(8)).taps == 2
    assert 'latent_channels' in refused('MiPKDLoss', latent_channels=np.bool_(True))
    assert "must be 'student' or 'teacher', got 'both'" in refused('MiPKDLoss', latent_channels='both')


def test_too_many_arguments() -> None:
    with pytest.raises(ArgumentError, match='LogitsKDLoss: argument 2 is one argument too many, got 2.0'):
        LogitsKDLoss(1.0, 2.0)
