"""DUKDLoss: augmentations and their inverse, tiles, both zooms in NumPy, and beside losses that re-enter networks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from helpers import STUDENTS, TEACHERS, as_parsed, batch, make_pair
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin import DUKDLoss, KRNetLoss, MiPKDLoss, Step, bind
from mipkd_plugin.losses.upcycling import AUGMENTATIONS, augment, mirrored, restore, window_size

CHAINS = [chain for length in range(5) for chain in itertools.permutations(AUGMENTATIONS, length)]
NUMPY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    'invert': lambda x: 1 - x, 'hflip': lambda x: x[..., ::-1], 'vflip': lambda x: x[..., ::-1, :],
    'transpose': lambda x: np.swapaxes(x, 2, 3)}


class Enlarge(nn.Module):
    """A network x2 that commutes with all augmentations."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + self.gain * F.interpolate(x - 0.5, scale_factor=2, mode='bicubic')


def images(height: int = 8, width: int = 8, scale: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 3, s * height, s * width, generator=generator) for s in (1, scale))


def step_of(loss: DUKDLoss, student: nn.Module, teacher: nn.Module, data: tuple[Tensor, Tensor], **kwargs: Any) -> Step:
    loss.seed(0)
    return bind([loss], student, teacher, data[0][:1], **kwargs).step(*data, iteration=1)


# --------------------------------------------------------------------------------------------- zoom-in
@pytest.mark.parametrize('name', NUMPY)
def test_augmentations(name: str) -> None:
    x = torch.rand(2, 3, 4, 6)
    assert np.array_equal(AUGMENTATIONS[name](x).numpy(), NUMPY[name](x.numpy()))


def test_the_inverse_undoes_every_chain_of_augmentations() -> None:
    x = torch.rand(2, 3, 4, 6)
    assert len(CHAINS) == 65
    for chain in CHAINS:
        torch.testing.assert_close(restore(augment(x, chain), chain), x)
    chain = ['hflip', 'transpose']
    assert (augment(augment(x, chain), chain) - x).abs().max() > 0.1, 'in forward order it undoes nothing'


def test_the_inverse_undoes_what_a_network_made() -> None:
    x, net = torch.rand(2, 3, 5, 7), Enlarge()
    for chain in CHAINS:
        torch.testing.assert_close(restore(net(augment(x, chain)), chain), net(x))


@pytest.mark.parametrize('chain', [[*AUGMENTATIONS], ['hflip', 'transpose'], ['transpose', 'vflip'], ['invert'], []])
def test_a_network_that_commutes_loses_nothing_by_zooming_in(chain: list[str]) -> None:
    loss = DUKDLoss(probability=1, augmentations=chain)
    terms = loss(step_of(loss, Enlarge(), Enlarge(), images(6, 10)))
    assert terms['l_zoom_in'].item() == pytest.approx(0, abs=1e-6)
    assert terms['l_zoom_out_logits'].item() == 0
    assert terms['l_zoom_out'].item() > 0.01


@pytest.mark.parametrize('chain', [['hflip', 'transpose'], ['invert', 'vflip', 'transpose'], []])
def test_zoom_in_follows_the_formula(chain: list[str]) -> None:
    """|T(u) − F⁻¹(S(F(u)))| with patches that are not square."""
    student, teacher = make_pair('EDSR')
    loss = DUKDLoss(zoom_in_weight=3, zoom_out_weight=0, probability=1, augmentations=chain, loss_weight=2)
    step = step_of(loss, student, teacher, images(6, 10))
    tiles = loss.draw_tiles(step.gt, 6, 10)
    loss.seed(0)
    changed = tiles.numpy()
    for name in chain:
        changed = NUMPY[name](changed)
    with torch.no_grad():
        label, image = teacher(tiles).numpy(), student(torch.from_numpy(changed.copy())).numpy()
    for name in chain[::-1]:
        image = NUMPY[name](image)
    terms = {name: value.item() for name, value in loss(step).items()}
    assert terms == pytest.approx({'l_zoom_in': 6 * np.mean(np.abs(label - image))})


def test_tiles_come_from_the_whole_grid_and_each_from_its_own_sample() -> None:
    gt = torch.rand(2, 3, 3 * 4 + 1, 2 * 5)
    grid = [gt[:, :, 4 * row:4 * row + 4, 5 * column:5 * column + 5] for row in range(3) for column in range(2)]
    loss, found = DUKDLoss(), []
    for _ in range(600):
        tiles = loss.draw_tiles(gt, 4, 5)
        found.append(tuple(next(k for k, tile in enumerate(grid) if torch.equal(tile[n], tiles[n])) for n in range(2)))
    counts = Counter(found)
    assert len(counts) == 36, 'the samples of a batch do not draw their tiles apart'
    for n in range(2):
        assert min(Counter(pair[n] for pair in found).values()) > 60


@pytest.mark.parametrize('probability', [0.0, 0.3, 1.0])
def test_probability_of_each_augmentation(probability: float) -> None:
    loss = DUKDLoss(probability=probability, augmentations=['transpose', 'invert', 'vflip'])
    chains = [loss.draw_steps() for _ in range(2000)]
    for name in loss.augmentations:
        assert sum(name in chain for chain in chains) / 2000 == pytest.approx(probability, abs=0.04)
    pairs = sum('vflip' in chain and 'invert' in chain for chain in chains) / 2000
    assert pairs == pytest.approx(probability ** 2, abs=0.04), 'they are not drawn apart'
    assert all(chain == [name for name in loss.augmentations if name in chain] for chain in chains)


# --------------------------------------------------------------------------------------------- zoom-out
def shrink(side: int, scale: int) -> np.ndarray:
    """The matrix (side / scale, side) of the cubic with a = −0.5, stretched by the scale; rows sum to 1."""
    x = np.abs((np.arange(side)[None] + 0.5) / scale - np.arange(side // scale)[:, None] - 0.5)
    weights = np.where(x < 1, 1.5 * x ** 3 - 2.5 * x ** 2 + 1, -0.5 * (x ** 3 - 5 * x ** 2 + 8 * x - 4)) * (x < 2)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(('arch', 'height', 'width', 'scale', 'padded'), [
    ('EDSR', 8, 8, 2, (4, 4)), ('EDSR', 7, 10, 2, (3, 5)), ('RRDBNet', 12, 8, 4, (3, 2)),
    ('SwinIR', 8, 16, 2, (4, 8)), ('SwinIR', 12, 20, 2, (8, 12)), ('SwinIR', 4, 8, 2, (4, 4))])
def test_zoom_out_follows_the_formula(arch: str, height: int, width: int, scale: int, padded: tuple[int, int]) -> None:
    """|S(x↓) − x| and |S(x↓) − T(x↓)|: x↓ is mirrored to the windows, and the image cut to x again."""
    student, teacher = (net.eval() for net in make_pair(arch))
    loss = DUKDLoss(zoom_in_weight=0, zoom_out_weight=3, loss_weight=2)
    lq, gt = images(height, width, scale)
    band = ((torch.arange(height) + 0.5 - scale * (height // scale // 2 + 0.5)).abs() < scale).float()
    lq[0, 0], lq[1, 0] = band[:, None], 1 - band[:, None]  # where the cubic swings beyond 0 and 1
    step = step_of(loss, student, teacher, (lq, gt))
    x = lq.numpy()[:, :, :height // scale * scale, :width // scale * scale]
    rows, columns = (shrink(side, scale) for side in x.shape[2:])
    small = np.einsum('ai,ncij,bj->ncab', rows, x.astype(float), columns)
    assert small.min() < 0
    assert small.max() > 1
    missing = [(0, b - a) for a, b in zip(small.shape[2:], padded)]
    small = np.pad(small.clip(0, 1), [(0, 0), (0, 0), *missing], 'reflect')
    with torch.no_grad():
        of_student, of_teacher = (net(torch.from_numpy(small.astype(np.float32))).numpy() for net in (student, teacher))
    of_student, of_teacher = (image[:, :, :x.shape[2], :x.shape[3]] for image in (of_student, of_teacher))
    assert {name: value.item() for name, value in loss(step).items()} == pytest.approx({
        'l_zoom_out': 6 * np.mean(np.abs(of_student - x)),
        'l_zoom_out_logits': 6 * np.mean(np.abs(of_student - of_teacher))}, rel=1e-4)


@pytest.mark.parametrize(('height', 'width'), [(3, 4), (5, 4), (3, 6), (4, 30), (50, 4)])
def test_images_are_mirrored_however_far(height: int, width: int) -> None:
    x = torch.rand(2, 3, 3, 4)
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (0, height - 3), (0, width - 4)], 'reflect')
    assert np.array_equal(mirrored(x, height, width).numpy(), expected)
    assert torch.equal(mirrored(x[..., :1], height, 5), mirrored(x[..., :1], height, 1).expand(-1, -1, -1, 5))


def test_windows_of_both_networks_count() -> None:
    student, teacher = build_network(STUDENTS['EDSR']), build_network(TEACHERS['SwinIR'])
    assert (window_size(student), window_size(teacher)) == (1, 4)
    other = build_network({**STUDENTS['SwinIR'], 'window_size': 3, 'img_size': 12})
    loss = DUKDLoss()
    step = step_of(loss, other, teacher, images(12, 24))
    seen = []
    other.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape[2:])))
    loss(step)
    assert seen[-1] == (12, 12), 'not a multiple of windows of 3 and 4'


# --------------------------------------------------------------------------------------------- passes and gradients
@pytest.mark.parametrize(('options', 'terms', 'sizes'), [
    ({}, ['l_zoom_in', 'l_zoom_out', 'l_zoom_out_logits'], [(8, 12), (4, 6)]),
    ({'zoom_in_weight': 0}, ['l_zoom_out', 'l_zoom_out_logits'], [(4, 6)]),
    ({'zoom_out_weight': 0}, ['l_zoom_in'], [(8, 12)])])
def test_all_passes_of_the_student_go_through_its_runner(options: dict[str, Any], terms: list[str],
                                                         sizes: list[tuple[int, int]]) -> None:
    """Its DDP wrapper would not average the gradients of others; a weight of 0 saves the pass."""
    student, teacher = make_pair('EDSR')
    seen, ran = [], []

    def runner(lq: Tensor) -> Tensor:
        seen.append(tuple(lq.shape[2:]))
        return student(lq)

    loss = DUKDLoss(probability=0, **options)
    step = step_of(loss, student, teacher, images(8, 12), runner=runner)
    student.register_forward_pre_hook(lambda module, args: ran.append(tuple(args[0].shape[2:])))
    assert list(loss(step)) == terms
    assert seen == [(8, 12), *sizes]
    assert ran == sizes


def test_gradients() -> None:
    student, teacher = (net.double() for net in make_pair('EDSR'))
    loss = DUKDLoss(probability=0.5)
    step = step_of(loss, student, teacher, tuple(x.double() for x in images(6, 4)))

    def terms(*parameters: Tensor) -> tuple[Tensor, ...]:
        loss.seed(0)
        return tuple(loss(step).values())

    assert torch.autograd.gradcheck(terms, tuple(student.parameters()), fast_mode=True)


# --------------------------------------------------------------------------------------------- beside other losses
@pytest.mark.parametrize('arch', ['EDSR', 'SwinIR'])
def test_beside_losses_that_reenter_the_networks(arch: str) -> None:
    """Passes of another size come between a step and the blocks that are entered again; neither notices."""
    student, teacher = make_pair(arch)
    others = {'mipkd': MiPKDLoss(taps=3, latent_channels=8), 'kr': KRNetLoss(taps=3, hidden_channels=8, meta_every=1)}
    losses = [DUKDLoss(), *others.values()]
    lq, gt = images(12, 20)
    nets = bind(losses, student, teacher, lq[:1])
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    plan = nets.plan(lq, gt, optimizer, F.l1_loss, 1)
    assert 'meta_rec' in others['kr'].prepare(plan)
    step = plan.run()
    assert all(torch.isfinite(value) for loss in losses for value in loss(step).values())
    sum(value for loss in losses for value in loss(step).values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)
    assert all(p.grad is None for p in teacher.parameters())

    student.eval()  # SwinIR's drop-path draws from the global random numbers
    found = []
    for order in (losses, losses[::-1]):
        for loss in losses:
            loss.eval().seed(5)
        step = nets.step(lq, gt, 1)
        found.append({type(loss).__name__: loss(step) for loss in order})
    for name, terms in found[0].items():
        for term, value in terms.items():
            assert torch.equal(value, found[1][name][term]), term


def test_one_training_step_from_options(train_options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [{'type': 'DUKDLoss'}, opt['train']['distill_opt'], {'type': 'LogitsKDLoss'}]
    model = build_model(as_parsed(opt, tmp_path))
    before = [p.detach().clone() for p in model.net_g.parameters()]
    lq, gt = batch('EDSR')
    model.feed_data({'lq': lq, 'gt': gt})
    model.optimize_parameters(1)
    assert list(model.get_current_log()) == ['l_pix', 'l_zoom_in', 'l_zoom_out', 'l_zoom_out_logits', 'l_feat', 'l_ae',
                                             'l_logits', 'l_block', 'l_logits_2']
    assert not any(torch.equal(a, b) for a, b in zip(before, model.net_g.parameters()))
    assert len(model.optimizer_g.param_groups) == 2, 'DUKD has nothing to train'


def test_images_too_small_to_zoom_out_are_refused() -> None:
    loss = DUKDLoss()
    step = step_of(loss, *make_pair('EDSR'), images(1, 8))
    with pytest.raises(ValueError, match=r'DUKDLoss zooms out by 2, .* only \(1, 8\) pixels'):
        loss(step)
