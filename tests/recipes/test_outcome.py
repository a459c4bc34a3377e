"""What the end of ``mipkd distill`` says of its numbers."""

from __future__ import annotations

import pytest

from mipkd_plugin.recipes.outcome import Row, _conclusion, next_lines
from pathlib import Path


@pytest.mark.parametrize(('bicubic', 'student', 'teacher', 'says'), [
    (30, 31, 32.5, 'The student is 1.00 dB above bicubic and 1.50 dB below the teacher.'),
    (30, 33, 32.5, 'The student is 3.00 dB above bicubic and 0.50 dB above the teacher.'),
    (30, 29, 32.5, 'The student is 1.00 dB below bicubic: it has not trained long enough. Train it longer: more '
     '--iterations, in another folder (--out).'),
    (30, 29, 28, 'The student is 1.00 dB below bicubic. The teacher is 2.00 dB below bicubic. Teachers that were '
     'trained for looks, or for photographs with blur and noise, often are: look at the picture, PSNR says little '
     'here.'),
    (30, 27, 28, 'The student is 1.00 dB below it. Train it longer: ')])
def test_conclusion(bicubic: float, student: float, teacher: float, says: str) -> None:
    rows = [Row(name, None, [(psnr, 0.9)]) for name, psnr in (
        ('bicubic', bicubic), ('student', student), ('teacher', teacher))]
    found = _conclusion(rows)
    assert says in found
    assert ('longer' in found) == ('longer' in says)


def test_lines_to_type_next_name_folders_that_are_there(tmp_path: Path) -> None:
    """Names with spaces are quoted; images in an LMDB are left to the user."""
    (tmp_path / 'a b').mkdir()
    (tmp_path / 'LR.lmdb').mkdir()
    opt = {'name': 'run', 'datasets': {'val': {'dataroot_gt': str(tmp_path / 'a b'),
                                               'dataroot_lq': str(tmp_path / 'LR.lmdb')}}}
    upscale, *_, show = next_lines(opt, Path('o p/run.yml'), Path('o p'))
    assert upscale == ("mipkd upscale -opt 'o p/run.yml' --weights experiments/run/models/net_g_latest.pth --images "
                       "DIR --out 'o p/upscaled'")
    assert show.endswith(f"--images '{tmp_path}/a b'")
