"""Image files of any kind are read as they look, and written as they were."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.color_util import bgr2ycbcr
from PIL import Image, ImageOps
from torch import Tensor

from mipkd_plugin.data.headers import BrokenImageError
from mipkd_plugin.inference.images import Picture, enlarge, luma, read_picture, write_picture

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def nearest(lq: Tensor) -> Tensor:
    return lq.repeat_interleave(2, 2).repeat_interleave(2, 3)


def saved(path: Path, image: Any) -> Path:
    cv2.imwrite(str(path), image)
    return path


def levels(tensor: Tensor, bits: int = 8) -> Any:
    return (tensor * (2 ** bits - 1)).round().to(torch.int64)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
@pytest.mark.parametrize('ending', ['png', 'tif'])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_each_kind_stays_what_it_is(tmp_path: Path, kind: Any, ending: str, channels: int) -> None:
    image = RNG.integers(0, np.iinfo(kind).max, (5, 7, channels)).astype(kind)
    image = image[..., 0] if channels == 1 else image
    picture = read_picture(saved(tmp_path / f'a.{ending}', image))
    assert picture.color.shape == (1, min(channels, 3), 5, 7)
    assert (picture.alpha is not None) == (channels == 4)
    write_picture(tmp_path / f'b.{ending}', picture)
    again = read_picture(tmp_path / f'b.{ending}')
    assert again.bits == picture.bits == np.iinfo(kind).bits
    assert torch.equal(again.color, picture.color)
    expected = image[..., None] if channels == 1 else image[..., 2::-1]
    assert np.array_equal(levels(again.color, again.bits), expected)
    assert again.alpha is None or np.array_equal(levels(again.alpha, again.bits)[..., 0], image[..., 3])
    if ending == 'png':  # what must be the same in any reader
        assert Image.open(tmp_path / 'b.png').mode == Image.open(tmp_path / 'a.png').mode


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp', 'tif'])
def test_orientation_as_opencv_turns_it(tmp_path: Path, orientation: int, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'a.{ending}'
    Image.fromarray(COLOR).save(path, exif=exif, **({'lossless': True} if ending == 'webp' else {}))
    with Image.open(path) as image:
        expected = np.asarray(image if ending == 'tif' else ImageOps.exif_transpose(image))
    if ending != 'tif':
        assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1], expected)
    assert np.array_equal(levels(read_picture(path).color), expected)


def test_gray_with_alpha_stays_gray_inside(tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (5, 7, 2), dtype=np.uint8), 'LA')
    for name in ('a.png', 'a.tif'):
        image.save(tmp_path / name)
        picture = read_picture(tmp_path / name)
        assert picture.color.shape[1] == 1
        assert np.array_equal(levels(torch.cat([picture.color, picture.alpha], 1)), np.asarray(image))


def test_palette_and_transparent_color(tmp_path: Path) -> None:
    palette = Image.fromarray(COLOR).quantize(8)
    palette.save(tmp_path / 'a.png', transparency=0)
    picture = read_picture(tmp_path / 'a.png')
    assert np.array_equal(levels(picture.color), np.asarray(palette.convert('RGB')))
    assert np.array_equal(levels(picture.alpha)[..., 0], np.where(np.asarray(palette) == 0, 0, 255))


@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp', 'tif'])
def test_the_color_profile_goes_along(tmp_path: Path, ending: str) -> None:
    profile = bytes(range(256)) * 3
    Image.fromarray(COLOR).save(tmp_path / 'a.png', icc_profile=profile)
    write_picture(tmp_path / f'b.{ending}', read_picture(tmp_path / 'a.png'))
    with Image.open(tmp_path / f'b.{ending}') as image:
        image.load()
        assert image.info['icc_profile'] == profile
    assert read_picture(tmp_path / f'b.{ending}').profile == profile


def test_damage_and_numbers_that_are_no_image(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(COLOR).save(stream, 'PNG')
    for name, content, message in (('cut.png', stream.getvalue()[:60], 'cut short'), ('page.png', b'<html>', 'image'),
                                   ('zero.png', b'', 'empty')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenImageError, match=message):
            read_picture(tmp_path / name)
    with pytest.raises(BrokenImageError, match='float32; save it with 8 or 16 bits'):
        read_picture(saved(tmp_path / 'float.tif', COLOR[..., 0].astype(np.float32)))
    with pytest.raises(BrokenImageError, match='is a TIFF .* floating-point numbers; save it with 8 or 16 bits'):
        read_picture(saved(tmp_path / 'color.tif', COLOR.astype(np.float32)))


def test_a_profile_of_other_colors_is_left_out(tmp_path: Path) -> None:
    for space, gray, kept in ((b'RGB ', False, True), (b'CMYK', False, False), (b'Lab ', False, False),
                              (b'GRAY', True, True), (b'RGB ', True, False), (b'GRAY', False, False)):
        profile = bytes(16) + space + bytes(200)
        write_picture(tmp_path / 'a.png', Picture(torch.rand(1, 1 if gray else 3, 4, 4), profile=profile))
        with Image.open(tmp_path / 'a.png') as image:
            assert image.info.get('icc_profile') == (profile if kept else None)
    write_picture(tmp_path / 'a.png', Picture(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 4),
                                              profile=bytes(16) + b'GRAY' + bytes(200)))  # written as RGBA
    with Image.open(tmp_path / 'a.png') as image:
        assert 'icc_profile' not in image.info


@pytest.mark.parametrize('ending', ['jpg', 'bmp'])
def test_no_format_loses_alpha_silently(tmp_path: Path, ending: str) -> None:
    picture = Picture(torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4))
    with pytest.raises(BrokenImageError, match=f'transparent, and {ending} holds no alpha; write png'):
        write_picture(tmp_path / f'a.{ending}', picture)
    assert not list(tmp_path.iterdir())


def test_a_format_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(BrokenImageError, match='cannot be written as WEBP .*; write png'):
        write_picture(tmp_path / 'a.webp', Picture(torch.rand(1, 3, 1, 17000)))


def test_a_network_of_three_channels_gets_gray_as_three_equal_ones() -> None:
    seen = []

    def run(lq: Tensor) -> Tensor:
        seen.append(lq)
        return nearest(lq) * torch.tensor([0.5, 1, 1.5]).view(1, 3, 1, 1)

    gray = Picture(torch.rand(1, 1, 3, 4) / 2)
    found = enlarge(gray, run, 3)
    assert torch.equal(seen[0], gray.color.expand(1, 3, 3, 4))
    assert torch.allclose(found.color, nearest(gray.color))


def test_a_network_of_one_channel_gets_luma_as_basicsr_computes_it() -> None:
    seen = []

    def run(lq: Tensor) -> Tensor:
        seen.append(lq)
        return nearest(lq)

    flat = Picture(torch.tensor([0.9, 0.2, 0.4]).view(1, 3, 1, 1).expand(1, 3, 6, 6))
    found = enlarge(flat, run, 1)
    bgr = flat.color[0].permute(1, 2, 0).flip(2).numpy()
    assert np.allclose(seen[0][0, 0].numpy(), bgr2ycbcr(bgr, y_only=True), atol=1e-6)
    assert torch.allclose(luma(flat.color), seen[0])
    assert torch.allclose(found.color, flat.color[:, :, :1, :1].expand(1, 3, 12, 12), atol=1e-5)
    gray = Picture(torch.rand(1, 1, 4, 4))
    assert torch.allclose(enlarge(gray, run, 1).color, nearest(gray.color), atol=1e-5)


def test_alpha_goes_through_the_network_unless_it_is_constant() -> None:
    runs = []

    def run(lq: Tensor) -> Tensor:
        runs.append(lq)
        return nearest(lq)

    color, alpha = torch.rand(1, 3, 4, 4), torch.rand(1, 1, 4, 4)
    found = enlarge(Picture(color, alpha), run, 3)
    assert found.alpha is not None
    assert torch.allclose(found.alpha, nearest(alpha))
    assert len(runs) == 2
    found = enlarge(Picture(color, torch.full((1, 1, 4, 4), 0.3)), run, 3)
    assert found.alpha is not None
    assert torch.equal(found.alpha, torch.full((1, 1, 8, 8), 0.3))
    assert len(runs) == 3
