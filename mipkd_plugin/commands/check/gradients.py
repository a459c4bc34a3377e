"""The table of ``mipkd check``: how strongly each term pulls at the student before the training begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason

if TYPE_CHECKING:
    from torch import Tensor

    from mipkd_plugin.config import Distillation
    from mipkd_plugin.losses.gradients import Pull
    from mipkd_plugin.models.gradient_check import GradientCheck

Place = Callable[[str], str]

IS_CUT_OFF = 'is cut off'
"""What the check says of a term without a gradient."""
LITTLE = 0.001
"""A term with a smaller share hardly acts."""
ABOVE = 1.5
"""A term leads if its norm is so many times the norm of the pixel loss."""
AGAINST = -0.2
"""A cosine below this one is no noise of a few batches."""


def show_gradients(opt: Mapping[str, Any], distillation: Distillation | None, pairs: int, title: str = '',
                   place: Place = str, start_weights: Mapping[str, Tensor] | None = None) -> bool:
    """Measure and print the table; where that cannot be done, say why.

    Args:
        opt: Options of a training that distills.
        distillation: Teacher and losses of the check; they are changed.
        pairs: Number of training images.
        title: Name of the method, in a comparison.
        place: The place in the option file for a place in ``opt``.
        start_weights: What the file of ``path.pretrain_network_g`` will hold, if it is not there yet.

    Returns:
        Whether there is a table.
    """
    from mipkd_plugin.models.gradient_check import check_gradients

    try:
        found = check_gradients(opt, distillation, pairs, start_weights)
    except FOREIGN_ERRORS as error:
        print(f'  gradients{title}: not measured: {reason(error)}')
        return False
    if found is not None:
        print('\n'.join(table(found, opt, title, place)))
    return found is not None


def show_meaning() -> None:
    """Print what the columns are, once below all tables."""
    print('\n'.join(f'           {line}' for line in _MEANING))


def table(found: GradientCheck, opt: Mapping[str, Any], title: str = '', place: Place = str) -> list[str]:
    """The lines of the table, and what to look at."""
    from mipkd_plugin.losses.gradients import reference_of, shares

    reference, count, (size, height, width) = reference_of(found.pulls), len(found.images.batches), found.patch
    start = f'starts from {found.pretrained}' if found.pretrained else 'has random weights'
    wide = max([12, *(len(name) for name in (*found.pulls, *found.itself))])
    lines = [f'  gradients{title} of each term on the student before the training: it {start}; iteration '
             f'{found.iteration:,d}' + _part_of_eco(found, opt),
             f'           {count} batch{"es" if count > 1 else ""} of {size} LR images of {height}×{width}, '
             f'{found.images.source}; {found.seconds:.1f} s',
             f'           {"term":{wide}} {"norm":>9} {"share":>8} {"cosine":>7} {f"as {reference}":>9}']
    pixel = found.pulls.get(reference)
    for name, share in shares(found.pulls).items():
        lines.append(f'           {name:{wide}} {_row(name, found.pulls[name], share, reference, pixel)}'.rstrip())
    lines += [f'           {name:{wide}} {"–":>9} {"–":>8} {"–":>7} {"–":>9}  trains the loss itself, not the student'
              for name in found.itself]
    lines += [f'           {place(where)} has no term in iteration {found.iteration:,d}, and no row here'
              for where in found.silent]
    return [*lines, *(f'           {line}' for line in advice(found, opt, place))]


def _part_of_eco(found: GradientCheck, opt: Mapping[str, Any]) -> str:
    """How real the images are there, where ECO blends them."""
    from mipkd_plugin.config import read_eco

    eco = read_eco(opt)
    return '' if eco is None else f", with ECO's a = {eco.real(found.iteration):.3g}"


_MEANING = (
    'share: norm / sum of all norms. cosine: angle to the gradient of l_pix; below 0 it pulls against it.',
    'as l_pix: factor on the weight of a term with which its norm would be that of l_pix. In a model with a training',
    'step of its own, such as a GAN, l_g_total, the sum of its own terms, takes the place of l_pix.',
    'This is the start: while the student trains, shares move; logger.gradient_freq: 1000 logs them.')


def _row(name: str, pull: Pull, share: float, reference: str, pixel: Pull | None) -> str:
    cosine = '–' if pull.cosine is None or name == reference else f'{pull.cosine:+.2f}'
    factor = '–' if name == reference or pixel is None or not pull.norm or not pixel.norm else (
        f'×{pixel.norm / pull.norm:.3g}')
    return f'{pull.norm:9.3g} {100 * share:6.1f} % {cosine:>7} {factor:>9}' + ('' if pull.norm else f'  {_why(pull)}')


def _why(pull: Pull) -> str:
    """Why a term does not pull at the student."""
    if pull.trains_itself:
        return 'trains the loss itself, not the student'
    if pull.is_cut:
        return 'cut off: no gradient of it reaches anything that trains'
    return 'its gradient is 0 here: its weight is 0, or there is nothing left to learn'


def advice(found: GradientCheck, opt: Mapping[str, Any], place: Place = str) -> list[str]:
    """What to look at, where there is something."""
    from mipkd_plugin.losses.gradients import reference_of, shares

    reference = reference_of(found.pulls)
    pixel, share = found.pulls.get(reference), shares(found.pulls)
    acting = {name: pull for name, pull in found.pulls.items() if name in found.owners and pull.norm > 0}
    lines = []
    for name, pull in acting.items():
        what, is_weight = [], False
        if pixel is not None and pixel.norm and pull.norm > ABOVE * pixel.norm:
            times, is_weight = pull.norm / pixel.norm, True
            what.append(f'its gradient is {times:,.{int(times < 10)}f} times that of {reference}: the student follows '
                        'the teacher before the images')
        if pull.cosine is not None and pull.cosine < AGAINST:
            what.append('its cosine is far below 0: a step for it undoes a part of the step for '
                        f'{reference}')
        if share[name] < LITTLE:
            what.append(f'its share is under {100 * LITTLE:g} %: it hardly acts')
            is_weight = True
        if what:
            lines += [f'look at {name}: {"; and ".join(what)}',
                      *(_other_weight(name, found, opt, place) if is_weight else ())]
    return lines


def _other_weight(name: str, found: GradientCheck, opt: Mapping[str, Any], place: Place) -> list[str]:
    """The weight with which a term would be as strong as the pixel loss, where one option alone sets it."""
    from mipkd_plugin.config import weight_option
    from mipkd_plugin.losses.gradients import reference_of
    from mipkd_plugin.utils.yaml_text import number

    reference = reference_of(found.pulls)
    where, pixel, own = found.owners[name], found.pulls.get(reference), found.pulls[name]
    acting = [other for other, owner in found.owners.items() if owner == where and found.pulls[other].norm]
    option = weight_option(opt, where, name, len(acting))
    if option is None or pixel is None or not pixel.norm:
        return []
    return [f'   as strong as {reference} with {place(option[0])}: {number(option[1] * pixel.norm / own.norm, 2)} '
            f'(now {number(option[1])})']
