"""Which images of a folder are used, which are held out, and whether LR images fit."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mipkd_plugin.data.headers import Header
from mipkd_plugin.recipes.data import plan
from mipkd_plugin.recipes.images import DataError, find, held_out, same_images, scale_between, template_of
from mipkd_plugin.recipes.pairs import cut


def write(path: Path, side: int = 48, seed: int | None = None) -> Path:
    """A smooth random image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, path.name)) if seed is None else seed)
    cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (side, side)))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in 'abcd':
        write(tmp_path / 'photos' / f'{name}.png')
    return tmp_path / 'photos'


def test_subfolders_are_searched_hidden_ones_are_not(photos: Path) -> None:
    write(photos / 'deep/er/e.JPG')
    write(photos / '.hidden/f.png')
    found = find('--hr', photos)
    assert [path.name for path in found.files] == ['a.png', 'b.png', 'c.png', 'd.png', 'e.JPG']
    assert found.folders == [photos, photos / 'deep/er']
    assert found.notes == ['--hr: 5 images in 2 folders, subfolders included']


def test_a_benchmark_means_its_hr_images(tmp_path: Path) -> None:
    """Set5 has HR beside LRbicx2, of the same names."""
    for name in ('HR', 'LRbicx2'):
        write(tmp_path / name / 'a.png')
    assert find('--val', tmp_path).root == tmp_path / 'HR'


@pytest.mark.parametrize(('make', 'says'), [
    (lambda folder: folder / 'no', 'there is no such folder'),
    (lambda folder: write(folder / 'a.png'), 'is a file, not a folder'),
    (lambda folder: folder, r'It holds notes\.txt\.')])
def test_a_folder_without_images(tmp_path: Path, make, says: str) -> None:
    (tmp_path / 'notes.txt').write_text('')
    with pytest.raises(DataError, match=says):
        find('--hr', make(tmp_path))


def test_results_inside_the_images_would_become_images(photos: Path) -> None:
    with pytest.raises(DataError, match=r'--out .*run1: is inside the folder of --hr'):
        find('--hr', photos, photos / 'run1')


def test_held_out_images_are_spread_and_never_trained_on(tmp_path: Path) -> None:
    files = [tmp_path / f'{number:03d}.png' for number in range(200)]
    assert [int(path.stem) for path in held_out(files)] == [12, 37, 62, 87, 112, 137, 162, 187]
    assert len(held_out(files[:5])) == 1
    with pytest.raises(DataError, match='holds one image'):
        held_out(files[:1])


def test_copies_are_found_by_content(photos: Path, tmp_path: Path) -> None:
    copy = tmp_path / 'other' / 'z.png'
    copy.parent.mkdir()
    copy.write_bytes((photos / 'b.png').read_bytes())
    assert same_images(find('--hr', photos).files, [copy]) == [photos / 'b.png']


def test_validation_images_are_not_trained_on(photos: Path, tmp_path: Path) -> None:
    found = plan(photos, None, None, None, 2, tmp_path / 'out')
    assert [path.name for path in found.val.files] == ['c.png']
    assert [path.name for path in found.train.files] == ['a.png', 'b.png', 'd.png']
    copy = tmp_path / 'val' / 'z.png'
    copy.parent.mkdir()
    copy.write_bytes((photos / 'b.png').read_bytes())
    found = plan(photos, None, copy.parent, None, 2, tmp_path / 'out')
    assert photos / 'b.png' not in found.train.files
    assert 'never trained on, as --val has it too: b.png' in found.notes
    with pytest.raises(DataError, match='nothing is left to train on'):
        plan(photos, None, photos, None, 2, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_prepared_images_are_the_chosen_ones(photos: Path, tmp_path: Path) -> None:
    found = plan(photos, None, None, None, 2, tmp_path / 'out')
    for pairs in (found.train, found.val):
        pairs.make(2, 1)
    names = {part: sorted(path.name for path in (tmp_path / 'out/data' / part / 'LRbicx2').iterdir())
             for part in ('train', 'val')}
    assert names == {'train': ['a.png', 'b.png', 'd.png'], 'val': ['c.png']}
    assert 'nothing to do' in found.train.make(2, 1)


# ------------------------------------------------------------------------------------------- LR images of the user
def with_lr(photos: Path, side: int, template: str = '{}') -> Path:
    folder = photos.parent / 'lr'
    for path in sorted(photos.iterdir()):
        write(folder / f'{template.format(path.stem)}.png', side)
    return folder


@pytest.mark.parametrize('template', ['{}', '{}x2'])
def test_own_lr_images_are_used_as_they_are(photos: Path, tmp_path: Path, template: str) -> None:
    folder = with_lr(photos, 24, template)
    found = plan(photos, folder, None, None, 2, tmp_path / 'out')
    entries = found.train.entries()
    assert (entries['dataroot_gt'], entries['dataroot_lq']) == (str(photos), str(folder))
    assert entries.get('filename_tmpl', '{}') == template
    assert found.train.make(2, 1).endswith('as they are')
    assert (tmp_path / 'out/data/train.txt').read_text() == 'a.png\nb.png\nd.png\n'
    assert found.train.listed == tmp_path / 'out/data/train.txt'


def test_lr_images_of_another_scale(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'are 1/3 of the HR images, and the teacher is for x2 ') as error:
        plan(photos, with_lr(photos, 16), None, None, 2, tmp_path / 'out')
    assert 'a.png is 16x16' in str(error.value)
    assert 'or leave out --lr: they are made' in str(error.value)


def test_lr_images_of_other_names(photos: Path, tmp_path: Path) -> None:
    folder = with_lr(photos, 24, 'small_{}')
    with pytest.raises(DataError, match=r'lacks LR images of --hr: for a.png it needs a.png or ax2.png'):
        plan(photos, folder, None, None, 2, tmp_path / 'out')


def test_lr_images_beside_a_benchmark_are_used_if_they_fit(photos: Path, tmp_path: Path) -> None:
    write(tmp_path / 'Set/HR/z.png', 49)
    write(tmp_path / 'Set/LRbicx2/z.png', 24)
    assert plan(photos, None, tmp_path / 'Set', None, 2, tmp_path / 'o').val.lq == tmp_path / 'Set/LRbicx2'
    write(tmp_path / 'Set/LRbicx2/z.png', 20)
    assert plan(photos, None, tmp_path / 'Set', None, 2, tmp_path / 'o').val.lq == tmp_path / 'o/data/val/LRbicx2'


def test_the_scale_between_two_images() -> None:
    assert scale_between(Header(50, 70), Header(25, 35), cropped=False) == 2
    assert scale_between(Header(51, 70), Header(25, 35), cropped=False) is None
    assert scale_between(Header(51, 71), Header(25, 35), cropped=True) == 2
    assert scale_between(Header(24, 24), Header(48, 48), cropped=True) == 0.5
    assert template_of([Path('1.png')], [Path('1x4.png')], 4) == '{}x4'


def test_two_images_of_one_name(photos: Path, tmp_path: Path) -> None:
    write(photos / 'inner/a.jpg')
    with pytest.raises(DataError, match='have one name'):
        plan(photos, None, None, None, 2, tmp_path / 'out')


# ------------------------------------------------------------------------------------------------------------ tiles
def test_tiles_are_as_small_as_a_pool_wants(photos: Path, tmp_path: Path) -> None:
    pairs = plan(photos, None, None, None, 2, tmp_path / 'out').train
    assert cut(pairs, 32, is_pool=True, scale=2).tile is None, 'these are small already'
    large = {path: Header(1404, 2040) for path in pairs.files}
    pairs = type(pairs)(pairs.name, pairs.files, pairs.gt, pairs.lq, large, made_in=pairs.made_in)
    found = cut(pairs, 48, is_pool=True, scale=2)
    assert (found.tile, found.lmdb, found.gt.name) == (120, False, 'HR')
    assert found.count() == 3 * 12 * 17
    assert cut(pairs, 96, is_pool=True, scale=4).tile == 120
    assert cut(pairs, 192, is_pool=False, scale=4).tile == 480
    many = type(pairs)(pairs.name, pairs.files * 800, pairs.gt, pairs.lq,
                       {Path(str(n)): Header(1404, 2040) for n in range(800)}, made_in=pairs.made_in)
    found = cut(many, 48, is_pool=True, scale=2)
    assert (found.tile, found.lmdb, found.gt.name, found.lq.name) == (480, True, 'HR.lmdb', 'LRbicx2.lmdb')
