"""How a tap shows its feature to a partner of another size."""

from __future__ import annotations

import pytest
import torch

from mipkd_plugin.networks.features import TapInfo
from mipkd_plugin.networks.views import View, fitting

FEATURE = torch.rand(2, 3, 12, 24, generator=torch.Generator().manual_seed(0))
NAMES = ['body.3', 'body.3 unshuffled 2', 'body.3 area 2/3', 'body.3 bilinear 1/4', '0 unshuffled 4']


@pytest.mark.parametrize('name', NAMES)
def test_a_name_says_what_is_shown(name: str) -> None:
    view = View.of(name)
    assert str(view) == name
    assert view.path == name.split()[0]
    info = view.info(TapInfo(view.path, 3, 12, 24))
    assert (info.path, info.channels, info.height, info.width) == (name, *view.show(FEATURE).shape[1:])


@pytest.mark.parametrize('name', NAMES)
def test_what_loses_nothing_can_be_undone(name: str) -> None:
    view = View.of(name)
    if view.loses:
        with pytest.raises(ValueError, match=f'no feature can re-enter at {name}: it was resampled'):
            view.hide(view.show(FEATURE))
    else:
        assert view.hide(view.show(FEATURE)).equal(FEATURE)


@pytest.mark.parametrize('how', ['area', 'bilinear'])
def test_resampling_keeps_means_and_gradients(how: str) -> None:
    feature = FEATURE.clone().requires_grad_()
    shown = View('x', how, 1, 2).show(feature)
    assert shown.shape == (2, 3, 6, 12)
    torch.testing.assert_close(View('x', how, 2, 3).show(torch.ones_like(FEATURE)), torch.ones(2, 3, 8, 16))
    shown.sum().backward()
    assert (feature.grad > 0).all()
    if how == 'area':
        torch.testing.assert_close(shown[0, 0, 0, 0], FEATURE[0, 0, :2, :2].mean())


@pytest.mark.parametrize(('finer', 'coarser', 'resample', 'name'), [
    ((16, 24), (8, 12), None, 'x unshuffled 2'), ((16, 24), (8, 12), 'area', 'x area 1/2'),
    ((48, 48), (32, 32), None, None), ((48, 48), (32, 32), 'bilinear', 'x bilinear 2/3'),
    ((64, 64), (8, 8), None, None), ((64, 64), (8, 8), 'area', 'x area 1/8'),
    ((48, 32), (32, 32), 'area', None), ((8, 8), (0, 0), 'area', None)])
def test_the_view_that_fits(finer: tuple[int, int], coarser: tuple[int, int], resample: str | None,
                            name: str | None) -> None:
    view = fitting(TapInfo('x', 4, *finer), TapInfo('y', 8, *coarser), resample)
    assert (None if view is None else str(view)) == name
    if view is not None:
        info = view.info(TapInfo('x', 4, *finer))
        assert (info.height, info.width) == coarser
