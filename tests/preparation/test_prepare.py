"""``mipkd prepare``: exact LR images, pairs that BasicSR reads, continuing, refusing."""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from basicsr.data import build_dataset
from PIL import Image

from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.commands.prepare import add_arguments, run
from mipkd_plugin.preparation import lmdb_sets, workers
from mipkd_plugin.data.matlab_bicubic import bicubic_downsample
from mipkd_plugin.preparation.pairs import prepare
from mipkd_plugin.preparation.sources import PrepareError
from mipkd_plugin.utils.files import write_atomically


def write(path: Path, height: int, width: int, channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """A random image, in the order OpenCV stores it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, channels) if channels > 1 else (height, width)
    generator = np.random.default_rng(sum(path.name.encode()))
    image = generator.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    cv2.imwrite(str(path), image)
    return image


@pytest.fixture
def hr(tmp_path: Path) -> Path:
    """Three images: sizes no multiple of 4, one gray."""
    write(tmp_path / 'hr' / 'b.png', 41, 50)
    write(tmp_path / 'hr' / 'a.png', 64, 48)
    write(tmp_path / 'hr' / 'gray.png', 37, 40, channels=1)
    return tmp_path / 'hr'


def pairs(out: Path, scale: int, ending: str = '', hr_name: str = 'HR', phase: str = 'train') -> list[dict]:
    """All pairs, read by BasicSR's own dataset."""
    options = {'type': 'PairedImageDataset', 'name': 'test', 'scale': scale, 'phase': phase,
               'dataroot_gt': f'{out}/{hr_name}{ending}', 'dataroot_lq': f'{out}/LRbicx{scale}{ending}',
               'io_backend': {'type': 'lmdb' if ending else 'disk'}, 'gt_size': 4 * scale,
               'use_hflip': False, 'use_rot': False}
    dataset = build_dataset(options)
    return [dataset[index] for index in range(len(dataset))]


def as_uint8(tensor) -> np.ndarray:
    return np.rint(tensor.numpy().transpose(1, 2, 0)[:, :, ::-1] * 255).astype(np.uint8)


# ---------------------------------------------------------------------------------- resizing
@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize(('name', 'count'), [('Set5', 5), ('Kodak24', 24), ('Set14', 14)])
def test_matlab_files_are_reproduced_bit_for_bit(shared: Path, name: str, count: int, scale: int) -> None:
    folder = shared / 'data' / name
    files = sorted((folder / f'LRbicx{scale}').iterdir())
    assert len(files) == count
    for path in files:
        hr, lr = (cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in (folder / 'HR' / path.name, path))
        assert np.count_nonzero(bicubic_downsample(hr, scale) != lr) == 0, path


@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_prepare_reproduces_set5(shared: Path, tmp_path: Path, ending: str) -> None:
    folder = shared / 'data' / 'Set5'
    for scale in (2, 3, 4):
        made = prepare(folder / 'HR', scale, tmp_path / 'out', lmdb=bool(ending))
        for pair in pairs(tmp_path / 'out', scale, ending, made.hr.stem, 'val'):
            lr = cv2.imread(str(folder / f'LRbicx{scale}' / f'{Path(pair["lq_path"]).stem}.png'))
            assert np.array_equal(as_uint8(pair['lq']), lr)


def reference(image: np.ndarray, scale: int) -> np.ndarray:
    """The definition of imresize, one output pixel at a time."""

    def kernel(x: float) -> float:
        x = abs(x)
        if x <= 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0

    def shrink(line: np.ndarray) -> list[int]:
        result, length = [], len(line)
        for index in range(length // scale):
            center = (index + 0.5) * scale - 0.5
            near = range(int(center) - 2 * scale - 1, int(center) + 2 * scale + 3)
            weights = [kernel((source - center) / scale) for source in near]
            mirrored = [source % (2 * length) for source in near]
            values = [float(line[m if m < length else 2 * length - 1 - m]) for m in mirrored]
            total = sum(w * v for w, v in zip(weights, values)) / sum(weights)
            result.append(int(min(max(total, 0), 255) + 0.5))
        return result

    height, width = (side // scale * scale for side in image.shape)
    rows = np.apply_along_axis(shrink, 0, image[:height, :width])
    return np.apply_along_axis(shrink, 1, rows)


@pytest.mark.parametrize(('height', 'width'), [(24, 24), (25, 31), (17, 8), (8, 8)])
@pytest.mark.parametrize('scale', [2, 3, 4, 8])
def test_independent_reference(height: int, width: int, scale: int) -> None:
    image = np.random.default_rng(height + scale).integers(0, 256, (height, width, 3), np.uint8)
    expected = np.stack([reference(image[..., channel], scale) for channel in range(3)], -1)
    result = bicubic_downsample(image, scale)
    difference = np.abs(result.astype(int) - expected)
    # sums in another order may fall on the other side of an exact half; those are rare, and never more than 1
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= 0.01 * difference.size
    assert np.array_equal(bicubic_downsample(image[..., 0], scale), result[..., 0])


def test_resizing_leaves_the_default_precision_alone() -> None:
    import torch
    bicubic_downsample(np.zeros((13, 13), np.uint8), 3)
    assert torch.get_default_dtype() == torch.float32


def test_resizing_refuses_what_is_no_8_bit_image() -> None:
    with pytest.raises(TypeError, match='needs a uint8 image, got float32'):
        bicubic_downsample(np.zeros((8, 8), np.float32), 2)
    with pytest.raises(ValueError, match=r'shape \(3, 8\) cannot be shrunk by 4'):
        bicubic_downsample(np.zeros((3, 8), np.uint8), 4)


# ------------------------------------------------------------------------------------- pairs
@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_basicsr_reads_the_right_pairs(hr: Path, tmp_path: Path, ending: str) -> None:
    summary = prepare(hr, 4, tmp_path / 'out', lmdb=bool(ending))
    assert (summary.images, summary.pairs, summary.written) == (3, 3, 3)
    for pair in pairs(tmp_path / 'out', 4, ending, phase='val'):
        source = cv2.imread(str(hr / f'{Path(pair["gt_path"]).stem}.png'))
        height, width = (side // 4 * 4 for side in source.shape[:2])
        assert np.array_equal(as_uint8(pair['gt']), source[:height, :width])
        assert np.array_equal(as_uint8(pair['lq']), bicubic_downsample(source, 4))
    assert len(pairs(tmp_path / 'out', 4, ending)) == 3  # in training BasicSR checks the sizes strictly
    leftovers = [path.name for path in (tmp_path / 'out').rglob('*') if path.name.startswith('.')]
    assert not leftovers


def test_lmdb_has_equal_keys_and_meta_info(hr: Path, tmp_path: Path) -> None:
    summary = prepare(hr, 2, tmp_path / 'out', lmdb=True)
    metas = [lmdb / 'meta_info.txt' for lmdb in (summary.hr, summary.lr)]
    hr_lines, lr_lines = (meta.read_text().splitlines() for meta in metas)
    assert hr_lines == ['a.png (64,48,3) 1', 'b.png (40,50,3) 1', 'gray.png (36,40,3) 1']
    assert lr_lines == ['a.png (32,24,3) 1', 'b.png (20,25,3) 1', 'gray.png (18,20,3) 1']


def test_untouched_png_is_copied_byte_for_byte(hr: Path, tmp_path: Path) -> None:
    prepare(hr, 4, tmp_path / 'out')
    assert (tmp_path / 'out/HR/a.png').read_bytes() == (hr / 'a.png').read_bytes()


def test_jpeg_and_bmp_and_several_folders(tmp_path: Path) -> None:
    write(tmp_path / 'one' / 'x.jpg', 16, 16)
    write(tmp_path / 'two' / 'y.BMP', 16, 20)
    prepare([tmp_path / 'one', tmp_path / 'two'], 4, tmp_path / 'out')
    found = pairs(tmp_path / 'out', 4, phase='val')
    sizes = {Path(pair['lq_path']).name: tuple(pair['lq'].shape) for pair in found}
    assert sizes == {'x.png': (3, 4, 4), 'y.png': (3, 4, 5)}


def test_tiles_overlap_and_end_at_the_border(tmp_path: Path) -> None:
    source = write(tmp_path / 'hr' / 'big.png', 51, 64)
    write(tmp_path / 'hr' / 'small.png', 20, 64)
    summary = prepare(tmp_path / 'hr', 4, tmp_path / 'out', crop=32, step=16)
    assert summary.whole == ['small.png']
    assert 'kept whole: small.png' in str(summary)
    lr = bicubic_downsample(source, 4)
    corners = [(top, left) for top in (0, 16) for left in (0, 16, 32)]  # 51 -> 48 = 16 + 32
    for number, (top, left) in enumerate(corners, 1):
        name = f'big_s{number:03d}.png'
        hr_tile, lr_tile = (cv2.imread(f'{tmp_path}/out/{kind}/{name}') for kind in ('HR', 'LRbicx4'))
        assert np.array_equal(hr_tile, source[top:top + 32, left:left + 32])
        assert np.array_equal(lr_tile, lr[top // 4:top // 4 + 8, left // 4:left // 4 + 8])
    assert summary.pairs == len(corners) + 1 == len(pairs(tmp_path / 'out', 4))


def test_last_tile_is_aligned_when_the_step_does_not_fit(tmp_path: Path) -> None:
    source = write(tmp_path / 'hr' / 'big.png', 32, 44)
    prepare(tmp_path / 'hr', 4, tmp_path / 'out', crop=32, step=16)
    assert np.array_equal(cv2.imread(f'{tmp_path}/out/HR/big_s002.png'), source[:, 12:])


def test_scales_share_hr_if_they_can(tmp_path: Path) -> None:
    write(tmp_path / 'hr' / 'a.png', 24, 24)
    for scale in (2, 3, 4):
        assert prepare(tmp_path / 'hr', scale, tmp_path / 'out').hr.name == 'HR'
    write(tmp_path / 'odd' / 'a.png', 24, 28)
    names = [prepare(tmp_path / 'odd', scale, tmp_path / 'two').hr.name for scale in (2, 4, 3)]
    assert names == ['HR', 'HR', 'HR_x3']
    for scale, name in ((2, 'HR'), (4, 'HR'), (3, 'HR_x3')):
        assert len(pairs(tmp_path / 'two', scale, hr_name=name)) == 1
    assert prepare(tmp_path / 'odd', 3, tmp_path / 'two').written == 0


def test_several_processes_write_the_same(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / 'hr' / f'{number}.png', 33, 40)
    one, two = tmp_path / 'one', tmp_path / 'two'
    prepare(tmp_path / 'hr', 4, one, workers=1)
    prepare(tmp_path / 'hr', 4, two, workers=2)
    files = [path.relative_to(one) for path in one.rglob('*.png')]
    assert len(files) == 6
    assert all((one / file).read_bytes() == (two / file).read_bytes() for file in files)


# ------------------------------------------------------------ continuing and not overwriting
def test_same_run_again_does_nothing(hr: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prepare(hr, 4, tmp_path / 'out')
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*.*') if path.suffix != '.lock'}
    assert run(arguments(hr, tmp_path / 'out')) == 0
    assert '3 pairs from 3 images: nothing to do.' in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*.*')
                      if path.suffix != '.lock'}


@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_interrupted_run_is_continued(hr: Path, tmp_path: Path, monkeypatch, ending: str) -> None:
    whole, lmdb = workers._do, bool(ending)

    def interrupted(job: workers.Job) -> workers.Done:
        if job.source.stem == 'b':
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr(workers, '_do', interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(hr, 4, tmp_path / 'out', lmdb=lmdb)
    monkeypatch.setattr(workers, '_do', whole)
    assert prepare(hr, 4, tmp_path / 'out', lmdb=lmdb).written == 2  # `a` is there already
    assert len(pairs(tmp_path / 'out', 4, ending)) == 3


def test_interrupted_write_leaves_nothing_that_basicsr_counts(hr: Path, tmp_path: Path) -> None:
    def interrupted(part: Path) -> None:
        part.write_bytes(b'half')
        raise KeyboardInterrupt

    prepare(hr, 4, tmp_path / 'out')
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / 'out/HR/c.png', interrupted)
    assert len(list((tmp_path / 'out/HR').iterdir())) == 3
    assert len(pairs(tmp_path / 'out', 4)) == 3


def test_interrupted_lmdb_is_written_anew(hr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_sets.LmdbMaker, 'close', interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(hr, 4, tmp_path / 'out', lmdb=True)
    assert not (tmp_path / 'out/HR.lmdb').exists()
    assert prepare(hr, 4, tmp_path / 'out', lmdb=True).written == 0  # only the LMDBs were missing
    assert len(pairs(tmp_path / 'out', 4, '.lmdb')) == 3


@pytest.mark.parametrize(('change', 'message'), [
    (lambda hr: {'crop': 16, 'step': 16}, 'out: was made with other --crop and other --step '),
])
def test_other_request_into_the_same_folder_is_refused(hr: Path, tmp_path: Path, change, message) -> None:
    prepare(hr, 4, tmp_path / 'out')
    with pytest.raises(PrepareError, match=message):
        prepare(hr, 4, tmp_path / 'out', **change(hr))


def test_foreign_or_damaged_folder_is_refused(hr: Path, tmp_path: Path) -> None:
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'thesis.txt').write_text('dear')
    with pytest.raises(PrepareError, match='out: is not empty and was not made by mipkd prepare'):
        prepare(hr, 4, tmp_path / 'out')
    (tmp_path / 'out' / 'prepare.json').write_text('{"crop"')
    with pytest.raises(PrepareError, match='prepare.json: is damaged'):
        prepare(hr, 4, tmp_path / 'out')
    (tmp_path / 'file').write_text('')
    with pytest.raises(PrepareError, match='file: is a file; name a new folder'):
        prepare(hr, 4, tmp_path / 'file')


# --------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(('options', 'message'), [
    ({'scale': 5}, '--scale 5: must be one of 2, 3, 4, 8'),
    ({'crop': 32}, '--crop and --step need each other'),
    ({'crop': 30, 'step': 16}, '--crop 30: must be a positive multiple of the scale, 4'),
    ({'crop': 32, 'step': 0}, '--step 0: must be a positive multiple'),
    ({'crop': 32, 'step': -4}, '--step -4: must be a positive multiple'),
    ({'workers': 0}, '--workers 0: must be at least 1'),
    ({'out': Path('hr/out')}, '--out hr/out: is inside the HR folder hr'),
    ({'hr': Path('nowhere')}, '--hr nowhere: there is no such folder'),
    ({'hr': Path('.')}, r'--hr \.: holds no images .*subfolders are not searched'),
])
def test_bad_request(hr: Path, tmp_path: Path, monkeypatch, options: dict, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrepareError, match=message):
        prepare(**{'hr': Path('hr'), 'scale': 4, 'out': Path('out'), **options})
    assert not Path('out').exists()


def spoil_with_alpha(hr: Path) -> None:
    write(hr / 'bad.png', 16, 16, channels=4)


def spoil_with_16_bits(hr: Path) -> None:
    write(hr / 'bad.png', 16, 16, dtype=np.uint16)


def spoil_with_gray_16_bits(hr: Path) -> None:
    write(hr / 'bad.png', 16, 16, channels=1, dtype=np.uint16)


def spoil_with_cmyk(hr: Path) -> None:
    Image.new('CMYK', (16, 16)).save(hr / 'bad.jpg')


def spoil_with_text(hr: Path) -> None:
    (hr / 'bad.png').write_text('no image')


def spoil_with_a_dot(hr: Path) -> None:
    write(hr / 'bad.v2.png', 16, 16)


def spoil_with_a_twin(hr: Path) -> None:
    write(hr / 'a.jpg', 16, 16)


def spoil_with_a_tiny_one(hr: Path) -> None:
    write(hr / 'bad.png', 16, 3)


@pytest.mark.parametrize(('spoil', 'message'), [
    (spoil_with_alpha, r'bad\.png: has an alpha channel; remove it'),
    (spoil_with_16_bits, r'bad\.png: has 16 bits per channel; convert'),
    (spoil_with_gray_16_bits, r'bad\.png: has 16 bits per channel; convert'),
    (spoil_with_cmyk, r'bad\.jpg: is stored as CMYK; convert'),
    (spoil_with_text, r'bad\.png: cannot be read .*fix or remove'),
    (spoil_with_a_dot, r'bad\.v2\.png: an LMDB key must be printable ASCII without "\."'),
    (spoil_with_a_twin, r'a\.jpg and .*a\.png would become the same file'),
    (spoil_with_a_tiny_one, r'bad\.png: 3x16 pixels are too few for x4'),
])
def test_bad_image_is_named_before_anything_is_written(hr: Path, tmp_path: Path, spoil, message: str) -> None:
    spoil(hr)
    with pytest.raises(PrepareError, match=message):
        prepare(hr, 4, tmp_path / 'out', lmdb=True)
    assert not (tmp_path / 'out').exists()


def test_truncated_image_is_named(hr: Path, tmp_path: Path) -> None:
    data = (hr / 'b.png').read_bytes()
    (hr / 'b.png').write_bytes(data[:len(data) // 2])
    with pytest.raises(PrepareError, match=r'b\.png: cannot be read \(it is cut short after'):
        prepare(hr, 4, tmp_path / 'out')
    assert not (tmp_path / 'out' / 'HR' / 'b.png').exists()


def test_tile_name_that_is_also_an_image(tmp_path: Path) -> None:
    write(tmp_path / 'hr' / 'a.png', 32, 32)
    write(tmp_path / 'hr' / 'a_s001.png', 8, 8)
    with pytest.raises(PrepareError, match=r'two tiles would both become a_s001\.png'):
        prepare(tmp_path / 'hr', 4, tmp_path / 'out', crop=16, step=16)


# ------------------------------------------------------------------------------ command line
def arguments(hr: Path, out: Path, *more: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(['--hr', str(hr), '--scale', '4', '--out', str(out), *more])


def test_command_prints_what_to_paste(hr: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(arguments(hr, tmp_path / 'out', '--lmdb')) == 0
    printed = capsys.readouterr().out
    assert f'    dataroot_gt: {tmp_path}/out/HR.lmdb\n' in printed
    assert f'    dataroot_lq: {tmp_path}/out/LRbicx4.lmdb\n' in printed
    assert '    io_backend: {type: lmdb}\n' in printed
    manifest = json.loads((tmp_path / 'out/prepare.json').read_text())
    assert [known['file'] for known in manifest['sources'].values()] == ['a.png', 'b.png', 'gray.png']


def test_command_refuses_with_exit_code_2(hr: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = str(tmp_path / 'out')
    assert mipkd_main(['prepare', '--hr', str(tmp_path / 'nowhere'), '--scale', '4', '--out', out]) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    assert captured.err.startswith('--hr ')
    assert 'there is no such folder' in captured.err
