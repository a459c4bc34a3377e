"""``mipkd prepare`` into a folder that is filled already: redo what changed, drop what is gone, keep all the rest."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
from basicsr.data import build_dataset
from helpers import interrupt

from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.preparation import run, workers
from mipkd_plugin.data.matlab_bicubic import bicubic_downsample
from mipkd_plugin.preparation.pairs import prepare
from mipkd_plugin.preparation.sources import PrepareError
from mipkd_plugin.utils.locks import alone

Listing = dict[str, tuple[int, int]]


def write(path: Path, seed: int = 0, height: int = 16, width: int = 16) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), image)
    return image


@pytest.fixture
def hr(tmp_path: Path) -> Path:
    for index, name in enumerate('abc'):
        write(tmp_path / 'hr' / f'{name}.png', index)
    return tmp_path / 'hr'


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / 'out'


def listing(folder: Path) -> Listing:
    """Inode and time of change of each file; the lock and the manifest change with each run."""
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in folder.rglob('*') if path.is_file() and not path.name.startswith('prepare.')}


def content(out: Path, scale: int = 2, ending: str = '', hr_name: str = 'HR') -> dict[str, tuple[np.ndarray, ...]]:
    """All pairs as BasicSR reads them: 8-bit HR and LR images in BGR, by name."""
    dataset = build_dataset({
        'type': 'PairedImageDataset', 'name': 'x', 'scale': scale, 'phase': 'val',
        'dataroot_gt': f'{out}/{hr_name}{ending}', 'dataroot_lq': f'{out}/LRbicx{scale}{ending}',
        'io_backend': {'type': 'lmdb' if ending else 'disk'}})
    samples = [dataset[index] for index in range(len(dataset))]
    return {Path(sample['gt_path']).stem: tuple(
        np.rint(sample[key].numpy().transpose(1, 2, 0)[:, :, ::-1] * 255).astype(np.uint8) for key in ('gt', 'lq'))
        for sample in samples}


def assert_right(hr: Path, out: Path, scale: int = 2, ending: str = '', hr_name: str = 'HR') -> None:
    """Assert that the sets are what a run into a new folder would make."""
    found = content(out, scale, ending, hr_name)
    assert sorted(found) == sorted(path.stem for path in hr.iterdir())
    for name, (gt, lq) in found.items():
        source = cv2.imread(str(hr / f'{name}.png'))
        height, width = (side // scale * scale for side in source.shape[:2])
        assert np.array_equal(gt, source[:height, :width]), name
        assert np.array_equal(lq, bicubic_downsample(source, scale)), name
    assert not [path for path in out.iterdir() if path.name.startswith('.')]


# ------------------------------------------------------------------------------------------------ changed sources
@pytest.mark.parametrize('ending', ['', '.lmdb'])
@pytest.mark.parametrize(('change', 'written', 'dropped'), [
    (lambda hr: (hr / 'b.png').unlink(), 0, ['b.png']),
    (lambda hr: write(hr / 'b.png', 7), 1, []),
    (lambda hr: write(hr / 'd.png', 7), 1, []),
    (lambda hr: os.utime(hr / 'b.png', (1, 1)), 0, []),
    (lambda hr: [os.utime(path, (1, 1)) for path in hr.iterdir()], 0, []),
    (lambda hr: write(hr / 'b.png', 7, 20, 24), 1, []),
    (lambda hr: (hr / 'b.png').rename(hr / 'z.png'), 1, ['b.png']),
    (lambda hr: [write(hr / 'b.png', 7), (hr / 'c.png').unlink(), write(hr / 'e.png', 8)], 2, ['c.png']),
], ids=['removed', 'changed', 'new', 'touched', 'all touched', 'other size', 'renamed', 'all at once'])
def test_only_what_changed_is_made(hr: Path, out: Path, ending: str, change: Callable[[Path], object], written: int,
                                   dropped: list[str]) -> None:
    prepare(hr, 2, out, lmdb=bool(ending))
    before = listing(out)
    change(hr)
    summary = prepare(hr, 2, out, lmdb=bool(ending))
    assert (summary.written, summary.dropped) == (written, dropped)
    assert_right(hr, out, 2, ending)
    if not ending:
        changed = {name for name, version in listing(out).items() if before.get(name) != version}
        assert len(changed) == 2 * written
    again = listing(out)
    assert prepare(hr, 2, out, lmdb=bool(ending)).written == 0
    assert listing(out) == again


@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_tiles_of_a_changed_image_are_replaced(hr: Path, out: Path, ending: str) -> None:
    write(hr / 'b.png', 1, 32, 32)
    assert prepare(hr, 2, out, bool(ending), 16, 16).pairs == 6
    write(hr / 'b.png', 9, 16, 32)
    write(hr / 'a.png', 9, 8, 8)
    summary = prepare(hr, 2, out, bool(ending), 16, 16)
    assert (summary.pairs, summary.written) == (4, 2)
    assert sorted(content(out, 2, ending)) == ['a', 'b_s001', 'b_s002', 'c_s001']
    assert np.array_equal(content(out, 2, ending)['b_s002'][0], cv2.imread(str(hr / 'b.png'))[:, 16:])


def test_a_shared_hr_set_and_all_scales_stay_in_step(hr: Path, out: Path) -> None:
    for scale in (2, 4):
        prepare(hr, scale, out)
    write(hr / 'b.png', 7)
    (hr / 'c.png').unlink()
    summary = prepare(hr, 4, out)
    assert summary.also == ['LRbicx2']
    assert 'Brought up to date as well: LRbicx2' in str(summary)
    assert_right(hr, out, 2)
    assert_right(hr, out, 4)
    write(hr / 'odd.png', 7, 18, 18)  # 18 is no multiple of 4: now scale 4 needs HR images of its own
    summary = prepare(hr, 4, out)
    assert summary.hr.name == 'HR_x4'
    assert_right(hr, out, 2)
    assert_right(hr, out, 4, hr_name='HR_x4')
    shutil.rmtree(out / 'LRbicx2')  # by hand: it is not made again unasked
    write(hr / 'b.png', 8)
    assert prepare(hr, 4, out).also == ['HR']
    assert not (out / 'LRbicx2').exists()


@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_a_bad_image_is_named_and_all_others_are_done(hr: Path, out: Path, ending: str, monkeypatch, capsys) -> None:
    data = (hr / 'b.png').read_bytes()
    (hr / 'b.png').write_bytes(data[:200] + bytes(100) + data[300:])  # whole by its chunks, damaged in its pixels
    arguments = ['prepare', '--hr', str(hr), '--scale', '2', '--out', str(out), *(['--lmdb'] if ending else [])]
    assert mipkd_main(arguments) == 2
    message = capsys.readouterr().err
    assert f'{hr}/b.png: cannot be decoded (it is damaged between bytes' in message
    assert 'All other images are done' in message
    (hr / 'b.png').unlink()
    assert mipkd_main(arguments) == 0
    assert '2 pairs from 2 images: nothing to' in capsys.readouterr().out
    assert_right(hr, out, 2, ending)


@pytest.mark.parametrize('ending', ['', '.lmdb'])
@pytest.mark.parametrize('missing', ['HR', 'LRbicx2'])
def test_lost_results_are_made_again(hr: Path, out: Path, ending: str, missing: str) -> None:
    prepare(hr, 2, out, lmdb=bool(ending))
    if ending:
        data = out / f'{missing}.lmdb' / 'data.mdb'
        os.truncate(data, data.stat().st_size // 2)
    else:
        (out / missing / 'b.png').unlink()
    assert prepare(hr, 2, out, lmdb=bool(ending)).written == (3 if ending else 1)
    assert_right(hr, out, 2, ending)
    shutil.rmtree(out / f'{missing}{ending}')
    assert prepare(hr, 2, out, lmdb=bool(ending)).written == 3
    assert_right(hr, out, 2, ending)


# ------------------------------------------------------------------------------------------- what is not ours stays
def test_other_files_are_never_touched(hr: Path, out: Path) -> None:
    prepare(hr, 2, out)
    (out / 'HR' / 'mine.png').write_bytes(b'mine')
    (out / 'notes.txt').write_text('mine')
    (hr / 'b.png').unlink()
    summary = prepare(hr, 2, out)
    assert summary.foreign == [out / 'HR' / 'mine.png']
    assert f'Not made by mipkd prepare, but BasicSR will read it: {out}/HR/mine.png; move it away' in str(summary)
    write(hr / 'mine.png', 5)
    with pytest.raises(PrepareError, match=r'mine\.png was not made by mipkd prepare, and would be overwritten'):
        prepare(hr, 2, out)
    assert (out / 'HR' / 'mine.png').read_bytes() == b'mine'
    assert (out / 'notes.txt').read_text() == 'mine'
    (out / 'HR' / 'mine.png').unlink()
    assert prepare(hr, 2, out).written == 1
    assert_right(hr, out)


@pytest.mark.parametrize('change', [lambda hr: (hr / 'b.png').unlink(), lambda hr: write(hr / 'b.png', 7)])
def test_a_result_that_somebody_changed_is_kept(hr: Path, out: Path, change: Callable[[Path], object]) -> None:
    prepare(hr, 2, out)
    mine = write(out / 'LRbicx2' / 'b.png', 99, 8, 8)
    change(hr)
    with pytest.raises(PrepareError, match=r'LRbicx2/b\.png has changed since mipkd prepare made it'):
        prepare(hr, 2, out)
    assert np.array_equal(cv2.imread(str(out / 'LRbicx2' / 'b.png')), mine)
    (out / 'LRbicx2' / 'b.png').unlink()
    prepare(hr, 2, out)
    assert_right(hr, out)


def test_files_in_the_folder_of_an_lmdb_move_with_it(hr: Path, out: Path) -> None:
    prepare(hr, 2, out, lmdb=True)
    (out / 'HR.lmdb' / 'notes.txt').write_text('mine')
    with lmdb.open(str(out / 'HR.lmdb')) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'mine', (hr / 'a.png').read_bytes())
    write(hr / 'b.png', 7)
    prepare(hr, 2, out, lmdb=True)
    assert (out / 'HR.lmdb' / 'notes.txt').read_text() == 'mine'
    with lmdb.open(str(out / 'HR.lmdb'), readonly=True, lock=False) as environment, environment.begin() as transaction:
        assert transaction.get(b'mine') == (hr / 'a.png').read_bytes()


def test_another_request_is_refused_before_anything_is_removed(hr: Path, out: Path, tmp_path: Path) -> None:
    write(tmp_path / 'other' / 'x.png')
    write(tmp_path / 'more' / 'y.png')
    prepare([hr, tmp_path / 'more'], 2, out)
    before = listing(out)
    with pytest.raises(PrepareError, match=r'was made with other HR files: .*name all of their folders with --hr'):
        prepare(tmp_path / 'other', 2, out)
    with pytest.raises(PrepareError, match=r'was made with other HR files: .*more/y\.png'):
        prepare(hr, 2, out)
    shutil.rmtree(hr)
    shutil.rmtree(tmp_path / 'more')
    with pytest.raises(PrepareError, match=r'4 of 4 are not in --hr \(a\.png, b\.png, c\.png and 1 more\)'):
        prepare(tmp_path / 'other', 2, out)
    with pytest.raises(PrepareError, match=r'--hr .*out/HR: is inside --out'):
        prepare(out / 'HR', 2, out)
    assert listing(out) == before


def test_a_moved_folder_of_sources_is_known_again(hr: Path, out: Path, tmp_path: Path) -> None:
    prepare(hr, 2, out)
    hr.rename(tmp_path / 'moved')
    (tmp_path / 'moved' / 'b.png').unlink()
    summary = prepare(tmp_path / 'moved', 2, out)
    assert (summary.written, summary.dropped) == (0, ['b.png'])
    assert_right(tmp_path / 'moved', out)


def test_what_is_left_out_is_named(hr: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(hr / 'more' / 'deep.png')
    shutil.copy(hr / 'a.png', hr / 'x.webp')
    shutil.copy(hr / 'a.png', hr / 'y.TIF')
    assert mipkd_main(['prepare', '--hr', str(hr), '--scale', '2', '--out', str(out)]) == 0
    assert ('Left out, as only .png, .jpg, .jpeg and .bmp files are read, and no subfolders: '
            f'{hr}/more, {hr}/x.webp, {hr}/y.TIF\n') in capsys.readouterr().out
    (tmp_path / 'tif').mkdir()
    (hr / 'y.TIF').rename(tmp_path / 'tif' / 'y.TIF')
    with pytest.raises(PrepareError, match=r'holds no images .*It holds y\.TIF\.'):
        prepare(tmp_path / 'tif', 2, out)


# ------------------------------------------------------------------------------------------------ two runs, killed runs
@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_a_second_run_at_the_same_time_is_refused(hr: Path, out: Path, ending: str) -> None:
    with alone(out / 'prepare.lock'), pytest.raises(PrepareError, match='another mipkd prepare is filling this folder'):
        prepare(hr, 2, out, lmdb=bool(ending))
    prepare(hr, 2, out, lmdb=bool(ending))
    assert_right(hr, out, 2, ending)


def in_a_process(work: Callable[[], object]) -> multiprocessing.process.BaseProcess:
    """Start a process of its own, which is a copy of this one."""
    process = multiprocessing.get_context('fork').Process(target=work)
    process.start()
    return process


def test_two_processes_into_one_folder(hr: Path, out: Path) -> None:
    for index in range(20):
        write(hr / f'{index}.png', index, 64, 64)

    def work() -> None:
        arguments = ['--hr', str(hr), '--scale', '2', '--out', str(out), '--lmdb', '--workers', '1']
        sys.exit(mipkd_main(['prepare', *arguments]))

    both = [in_a_process(work) for _ in range(2)]
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) in ([0, 2], [0, 0])  # one has finished before the other begins
    assert_right(hr, out, 2, '.lmdb')


@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_a_killed_run_loses_nothing(hr: Path, out: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL while the third of five images is made: the two that are done are not made again."""
    for index in range(2):
        write(hr / f'{index}.png', index)
    whole = workers._do

    def killed(job: workers.Job) -> workers.Done:
        if job.source.stem == 'a':
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(job)

    with monkeypatch.context() as patch:
        patch.setattr(workers, '_do', killed)
        process = in_a_process(lambda: prepare(hr, 2, out, lmdb=bool(ending), workers=1))
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert prepare(hr, 2, out, lmdb=bool(ending)).written == 3
    assert_right(hr, out, 2, ending)


@pytest.mark.parametrize('moment', ['claimed', 'removed', 'made', 'packed', 'written'])
@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_an_update_that_is_interrupted_is_continued(hr: Path, out: Path, ending: str, moment: str,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(hr, 2, out, lmdb=bool(ending), crop=8, step=8)
    write(hr / 'b.png', 7, 8, 16)
    write(hr / 'd.png', 8)
    (hr / 'c.png').unlink()

    with monkeypatch.context() as patch:
        home, name = {'claimed': (run.Manifest, 'save'), 'removed': (run.Changes, 'remove_stale'),
                      'made': (workers, '_do'), 'packed': (run, 'write_lmdb' if ending else 'do_all'),
                      'written': (run.Run, '_finish')}[moment]
        patch.setattr(home, name, interrupt(getattr(home, name)))
        with pytest.raises(KeyboardInterrupt):
            prepare(hr, 2, out, lmdb=bool(ending), crop=8, step=8)
    prepare(hr, 2, out, lmdb=bool(ending), crop=8, step=8)
    found = content(out, 2, ending)
    assert sorted(found) == [f'{stem}_s{i:03d}' for stem, n in (('a', 4), ('b', 2), ('d', 4)) for i in range(1, n + 1)]
    assert np.array_equal(found['b_s002'][0], cv2.imread(str(hr / 'b.png'))[:, 8:])
    assert not [path for path in out.iterdir() if path.name.startswith('.')]


@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_an_image_takes_over_the_name_of_a_tile(hr: Path, out: Path, ending: str,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the run ends after the file is made, and before the manifest forgets its former owner."""
    prepare(hr, 2, out, bool(ending), 8, 8)
    (hr / 'a.png').unlink()
    write(hr / 'a_s001.png', 9, 6, 6)
    whole, saves = run.Manifest.save, []

    def only_the_first(self: run.Manifest) -> None:
        saves.append(1)
        if len(saves) > 1:
            raise KeyboardInterrupt
        whole(self)

    with monkeypatch.context() as patch:
        patch.setattr(run.Manifest, 'save', only_the_first)
        with pytest.raises(KeyboardInterrupt):
            prepare(hr, 2, out, bool(ending), 8, 8)
    assert prepare(hr, 2, out, bool(ending), 8, 8).written == 0
    found = content(out, 2, ending)
    assert sorted(found) == ['a_s001', *(f'{stem}_s{number:03d}' for stem in 'bc' for number in range(1, 5))]
    assert np.array_equal(found['a_s001'][0], cv2.imread(str(hr / 'a_s001.png')))


def test_an_lmdb_that_was_being_exchanged_gets_its_name_back(hr: Path, out: Path) -> None:
    prepare(hr, 2, out, lmdb=True)
    (out / 'HR.lmdb').rename(out / '.old_HR.lmdb')
    assert prepare(hr, 2, out, lmdb=True).written == 0
    assert_right(hr, out, 2, '.lmdb')
    shutil.copytree(out / 'HR.lmdb', out / '.old_HR.lmdb')  # both are there, and a file of the user's
    (out / '.old_HR.lmdb' / 'notes.txt').write_text('mine')
    assert prepare(hr, 2, out, lmdb=True).written == 0
    assert (out / 'HR.lmdb' / 'notes.txt').read_text() == 'mine'
    assert_right(hr, out, 2, '.lmdb')


@pytest.mark.parametrize('change', [
    lambda content: content.pop('sets'), lambda content: content.update(sources=[1]),
    lambda content: content['sets']['HR']['made']['a'].update(old=['../../precious']),
    lambda content: content['sets']['HR']['made']['a']['files'].update({'../../precious': None}),
    lambda content: content['sets'].update({'../precious': content['sets'].pop('HR')}),
    lambda content: content['sets']['HR'].update(scale=-1), lambda content: content['sets']['HR'].update(made=7),
], ids=['no sets', 'sources', 'old', 'files', 'set', 'scale', 'made'])
def test_a_manifest_that_cannot_be_ours_is_refused(hr: Path, out: Path, tmp_path: Path,
                                                   change: Callable[[dict[str, Any]], object]) -> None:
    """It names files to remove: none of them may lie elsewhere."""
    prepare(hr, 2, out)
    (tmp_path / 'precious.png').write_bytes(b'mine')
    content = json.loads((out / 'prepare.json').read_text())
    change(content)
    (out / 'prepare.json').write_text(json.dumps(content))
    (hr / 'a.png').unlink()
    with pytest.raises(PrepareError, match=r'prepare\.json: is damaged \(sets|prepare\.json: is damaged \(sources'):
        prepare(hr, 2, out)
    assert (tmp_path / 'precious.png').read_bytes() == b'mine'


# ---------------------------------------------------------------------------------------------------- the first format
def as_first_format(hr: Path, out: Path, crop: int | None = None) -> None:
    """Write the manifest that version 1 would have written."""
    tiles = [[[name, 0, 0, 0, 0]] for name in sorted(path.stem for path in hr.iterdir())]
    sources = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(hr.iterdir())]
    digest = hashlib.sha256(json.dumps(tiles).encode()).hexdigest()
    sets = {path.name: {'tiles': digest, 'finished': True} for path in out.iterdir() if path.is_dir()}
    (out / 'prepare.json').write_text(json.dumps({'crop': crop, 'step': crop, 'sources': sources, 'sets': sets}))


@pytest.mark.parametrize('ending', ['', '.lmdb'])
@pytest.mark.parametrize('crop', [None, 8])
def test_a_folder_of_the_first_format_is_continued(hr: Path, out: Path, ending: str, crop: int | None) -> None:
    prepare(hr, 2, out, bool(ending), crop, crop)
    before = listing(out)
    as_first_format(hr, out, crop)
    assert prepare(hr, 2, out, bool(ending), crop, crop).written == 0
    assert listing(out) == before
    as_first_format(hr, out, crop)
    (hr / 'b.png').unlink()
    write(hr / 'c.png', 7, 8, 16)
    os.utime(hr / 'a.png')  # the first format has no digest: this image is made again
    summary = prepare(hr, 2, out, bool(ending), crop, crop)
    assert (summary.written, summary.dropped) == (2, ['b.png'])
    if crop is None:
        assert_right(hr, out, 2, ending)
    else:
        assert sorted(content(out, 2, ending)) == ['a_s001', 'a_s002', 'a_s003', 'a_s004', 'c_s001', 'c_s002']
    assert prepare(hr, 2, out, bool(ending), crop, crop).written == 0


def test_a_newer_format_is_refused(hr: Path, out: Path) -> None:
    prepare(hr, 2, out)
    content = json.loads((out / 'prepare.json').read_text())
    (out / 'prepare.json').write_text(json.dumps({**content, 'format': 3}))
    with pytest.raises(PrepareError, match='was made by another version of mipkd-plugin; update it'):
        prepare(hr, 2, out)
