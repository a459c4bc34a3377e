"""What ``mipkd distill`` chooses where the user says nothing: :func:`resolve`, one rule after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mipkd_plugin.recipes.settings import GIVEN, Facts, Settings
from mipkd_plugin.utils.words import counted

LOSSES: dict[str, list[dict[str, Any]]] = {
    'mipkd': [{'type': 'MiPKDLoss'}],
    'krnet': [{'type': 'KRNetLoss'}, {'type': 'LogitsKDLoss'}],
    'logits': [{'type': 'LogitsKDLoss'}],
    'fitnets': [{'type': 'FitNetLoss'}, {'type': 'LogitsKDLoss'}],
    'at': [{'type': 'AttentionTransferLoss'}, {'type': 'LogitsKDLoss'}],
    'rkd': [{'type': 'RKDLoss'}, {'type': 'LogitsKDLoss'}],
    'fakd': [{'type': 'FAKDLoss'}, {'type': 'LogitsKDLoss'}],
    'crosskd': [{'type': 'CrossKDLoss'}, {'type': 'LogitsKDLoss'}],
    'dukd': [{'type': 'DUKDLoss'}, {'type': 'LogitsKDLoss'}],
    'none': []}
"""``--loss``: the losses beside the pixel loss. Those with features go with logits-KD, as in our comparisons."""

_TAPPED = ('MiPKDLoss', 'KRNetLoss', 'FitNetLoss', 'AttentionTransferLoss', 'RKDLoss', 'FAKDLoss', 'CrossKDLoss')
LONG = 20_000
"""Iterations from which a training is long: the student comes to its limit, and repeated crops would be missed."""
SECONDS_ON_CPU = 240
_LONG_RUN = 60_000
_FEWEST, _MOST = 1000, 20_000
_SEEN = 8
_CLEARLY = 1.3
_POOL = (256, 4096)
_SHALLOW = 16


def resolve(facts: Facts, given: Mapping[str, Any], step_seconds: Callable[[Settings], float]) -> Settings:
    """Choose every setting that is not given.

    Args:
        facts: The networks, the images and the machine.
        given: What the user gave, by name.
        step_seconds: Measures how long an iteration takes with the settings so far.

    Returns:
        The settings, with their reasons.
    """
    found = Settings()

    def choose(name: str, value: Any, reason: str) -> Any:
        is_given = given.get(name) is not None
        found.values[name] = given[name] if is_given else value
        found.reasons[name] = GIVEN if is_given else reason
        return found.values[name]

    length = given.get('iterations')
    is_long = (facts.gpu if length is None else length >= LONG)
    _choose_loss(facts, choose, is_long)
    _choose_batches(facts, choose)
    _choose_rate(facts, choose)
    seconds = _choose_threads(facts, choose, found, step_seconds)
    _choose_length(facts, choose, found, seconds)
    total = found['iterations']
    # A pool is worth its price if each crop comes up some times: the teacher runs once on each.
    most = _pool_limit(facts, found)
    samples = total * found['batch']
    crops = 0 if is_long else int(min(max(samples / _SEEN, _POOL[0]), samples, _POOL[1], most))
    choose('crops', crops, f'drawn once, so that the teacher runs once on each; {_seen(samples, crops)}' if crops else
           'a long training wants new crops in each iteration' if is_long else 'too little free memory for a pool')
    # The moving average looks back over a fiftieth of the run: shorter and it is noisy, longer and it lags behind.
    choose('ema', float(f'{min(max(1 - 50 / total, 0.9), 0.999):.4g}'), 'moving average of the weights, over '
           f'{"1/50 of the run" if total >= 500 else "ten iterations"}')
    every = max(total // 10, 1)
    choose('val_freq', every, f'{counted(total // every, "validation")}, each with a checkpoint')
    # Nothing is decoded after the start of a pool, and a worker costs more than it brings then.
    choose('workers', 0 if found['crops'] else max(min(8, facts.cores - 1), 1), 'the pool is in memory' if
           found['crops'] else 'processes that read images')
    choose('seed', 0, 'of weights and crops')
    return found


def _seen(samples: int, crops: int) -> str:
    times = round(samples / crops)
    return 'each is seen once' if times < 2 else f'each is seen about {times:,d} times'


def _choose_loss(facts: Facts, choose: Callable[[str, Any, str], Any], is_long: bool) -> None:
    """The loss, its taps, and for which part of the run it works."""
    blocks = min(facts.blocks)
    # MiPKD gains most at equal iterations in all of docs/results.md; it needs blocks to tap.
    loss = choose('loss', 'mipkd' if blocks else 'logits', 'the best of our comparisons' if blocks else
                  'one of the networks has no row of blocks to tap, so the images alone are matched')
    if any(entry['type'] in _TAPPED for entry in LOSSES[loss]):
        # One tap for two blocks: 2 on trunks of 5 blocks did as well as 3 (the demo), the paper has 4 on 32.
        choose('taps', min(max(blocks // 2, min(2, blocks)), 4) or 1, f'spread over {facts.blocks[0]} blocks of the '
               f'student and {facts.blocks[1]} of the teacher')
    if loss == 'mipkd':
        # Without its chain MiPKD beats plain training of equal time, with it not (docs/results.md, At equal time).
        choose('chain', 'yes' if is_long else 'no', 'the whole of MiPKD' if is_long else
               'the block chain costs more than it brings in a short run')
        # One encoder: +0.16 dB in short runs without the chain (docs/distill.md), +0.07 with it; long ones: not tried.
        if facts.width < facts.teacher_width and not is_long:
            choose('encoders', 'shared', 'one for both networks: better for narrow students')
        else:
            choose('encoders', 'separate', 'one for each network, as in the paper')
    if loss != 'none':
        # At its limit a student gains from letting go: +0.129 dB after 60,000 iterations, +0.011 to the end.
        choose('until', 0.5 if is_long else 1.0, 'fades out by half-time: the rest is training of its own' if is_long
               else 'share of the run that distills; a short one needs all of it')
        _choose_init(facts, choose)


def _choose_init(facts: Facts, choose: Callable[[str, Any, str], Any]) -> None:
    """What the student starts from."""
    # Whole blocks of the teacher gained most in our comparisons (docs/results.md, depth). A few channels of each layer
    # did too at 5e-4, but at the rate of narrow students they gained nothing (docs/distill.md).
    if facts.uncut:
        choose('init', 'random', facts.uncut)
    elif facts.width < facts.teacher_width:
        choose('init', 'random', 'weights: a part of each layer was no better at the learning rate of narrow students')
    else:
        choose('init', 'teacher_slice', 'blocks of the teacher: the best start of our comparisons')


def _choose_batches(facts: Facts, choose: Callable[[str, Any, str], Any]) -> None:
    """Sizes of patch and batch."""
    # The papers train on patches of 48; on a CPU half of that makes four times as many steps in the same time.
    wanted = 48 if facts.gpu else 24
    patch = max(min(wanted, facts.smallest) // facts.unit * facts.unit, min(facts.unit, facts.smallest))
    choose('patch', patch, ('as in the papers' if facts.gpu else 'small, for a CPU') if patch == wanted // facts.unit *
           facts.unit else f'the smallest image has {facts.smallest} LR pixels')
    choose('batch', 16 if facts.gpu else 8, 'as in the papers' if facts.gpu else 'small, for a CPU')


def _choose_rate(facts: Facts, choose: Callable[[str, Any, str], Any]) -> None:
    """The learning rate."""
    # Adam's best step shrinks with the width: 4e-3 was the best of our trials for 16 channels (the demo), 5e-4 to
    # 1e-3 for 64; the papers take 1e-4 for 256. It shrinks with the depth: RRDBNet:32x10x16, of 150 convolutions and
    # more, diverged at 4e-3 and was better at 5e-4 than at 2e-3, 1e-3 and 2e-4; the papers take 2e-4 for 64 channels
    # and 350. Attention diverges at a quarter of what convolutions bear.
    deep = min((_SHALLOW / max(facts.layers, 1)) ** 0.5, 1)
    rate = min(max(0.064 / facts.width * deep, 1e-4), 4e-3) / (4 if facts.attends else 1)
    kind = (f'{facts.width} channels' + f' and {facts.layers} convolutions' * (deep < 1)
            + ' and attention' * facts.attends)
    choose('learning_rate', float(f'{rate:.1g}'), f'for {kind}; falls to 1e-6 along a cosine')


def _choose_threads(facts: Facts, choose: Callable[[str, Any, str], Any], found: Settings,
                    step_seconds: Callable[[Settings], float]) -> float:
    """CPU threads, and the seconds of an iteration with them.

    A small network gains little from a second thread, and loses tenfold once that has to wait for its core: threads of
    PyTorch wait in a busy loop. So there is one, unless more are clearly faster.

    Returns:
        The seconds.
    """
    if facts.gpu:
        choose('threads', 0, 'as PyTorch likes')
        return step_seconds(found)
    fixed = facts.threads or (1 if facts.cores == 1 else 0)
    if choose('threads', fixed or 1, 'as OMP_NUM_THREADS says' if facts.threads else
              'one core') and (fixed or found.reasons['threads'] == GIVEN):
        return step_seconds(found)
    one = step_seconds(found)
    found.values['threads'] = facts.cores
    many = step_seconds(found)
    is_faster = many * _CLEARLY < one
    found.values['threads'] = facts.cores if is_faster else 1
    found.reasons['threads'] = (f'measured: an iteration takes {1000 * one:.0f} ms with one, {1000 * many:.0f} ms with '
                                f'{facts.cores}')
    return many if is_faster else one


def _choose_length(facts: Facts, choose: Callable[[str, Any, str], Any], found: Settings, seconds: float) -> None:
    """How long to train: on a CPU by what a step takes there."""
    if facts.gpu:
        value, reason = _LONG_RUN, f'as our long comparisons; about {duration(_LONG_RUN * seconds)} here'
    else:
        fitting = SECONDS_ON_CPU / seconds
        unit = 10 ** max(len(str(int(fitting))) - 2, 0)
        value = int(min(max(fitting // unit * unit, _FEWEST), _MOST))
        reason = f'about {duration(value * seconds)} on this CPU'
    each = f'{1000 * seconds:.0f} ms each, measured'
    choose('iterations', value, f'{reason}, {each}')
    if found.reasons['iterations'] == GIVEN:
        found.reasons['iterations'] = f'{GIVEN}; about {duration(found["iterations"] * seconds)} here, {each}'


def _pool_limit(facts: Facts, found: Settings) -> int:
    """How many crops a quarter of the free memory holds, with what the teacher answers to each in 16 bits."""
    pixels = int(found['patch']) ** 2
    maps = 2 * facts.teacher_width * int(found.values.get('taps', 0)) if found['loss'] != 'none' else 0
    return int(facts.free // 4 // (pixels * (maps + 9 * facts.scale ** 2 + 3)))


def duration(seconds: float) -> str:
    """A time for people: ``40 s``, ``5 min``, ``2 h 10 min``."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes // 60} h {minutes % 60:02d} min'
