"""What ``--student`` may say, and what it says when it cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mipkd_plugin.recipes.students_notation import read
from mipkd_plugin.utils.errors import MipkdError


@pytest.mark.parametrize(('text', 'family', 'size', 'fraction'), [
    ('EDSR:16x5', 'EDSR', (16, 5), None),
    ('edsr:16x5', 'EDSR', (16, 5), None),
    ('EDSR:16', 'EDSR', (16, ), None),
    (' EDSR : 16X5 ', 'EDSR', (16, 5), None),
    ('RCAN:32x3×6', 'RCAN', (32, 3, 6), None),
    ('SPAN:28', 'SPAN', (28, ), None),
    ('SRVGGNetCompact', 'SRVGGNetCompact', (64, 16), None),
    ('1/4', None, None, 0.25),
    ('0.125', None, None, 0.125),
    ('.5', None, None, 0.5),
    ('1/2.5', None, None, 0.4),
    ('2/3', None, None, 2 / 3),
    ('SwinIR:1/8', 'SwinIR', None, 0.125),
    ('SwinIR:0.25', 'SwinIR', None, 0.25)])
def test_what_it_asks_for(text: str, family: str | None, size: tuple[int, ...] | None, fraction: float | None) -> None:
    wanted = read(text)
    assert (wanted.family and wanted.family.name, wanted.size) == (family, size)
    assert wanted.fraction == pytest.approx(fraction) if fraction else wanted.fraction is None


@pytest.mark.parametrize(('text', 'says'), [
    ('', 'is no size, no fraction and no file that is there'),
    ('EDRS:16x5', 'Did you mean EDSR?'),
    ('edsr16x5', 'the colon is missing; write EDSR:16x5'),
    ('Banana:16x5', 'Architectures with a rule: EDSR, RCAN'),
    ('EDSR:', 'behind the colon stands no size; write EDSR:WIDTHxBLOCKS, as EDSR:64x16, or a fraction'),
    ('EDSR:16x', 'behind the colon stands no size'),
    ('EDSR:16by5', 'behind the colon stands no size'),
    ('EDSR:-16x5', 'behind the colon stands no size'),
    ('EDSR:16x5x3', 'EDSR has 2 numbers, not 3'),
    ('SPAN:28x6', 'SPAN has 1 number, not 2'),
    ('EDSR:0x5', '0 is not a size'),
    ('1', 'lies between 0 and 1'),
    ('4', 'lies between 0 and 1'),
    ('0', 'lies between 0 and 1'),
    ('3/2', 'lies between 0 and 1'),
    ('1/0', 'lies between 0 and 1'),
    ('0/4', 'lies between 0 and 1'),
    ('EDSR:4/4', 'lies between 0 and 1'),
    ('-1/4', 'is no size, no fraction'),
    ('1/4/2', 'is no size, no fraction'),
    ('lost.yml', 'there is no such file'),
    ('a\0b', 'is no size, no fraction'),
    ('x' * 5000, 'there is no rule'),
    ('EDSR:' + '9' * 5000, 'behind the colon stands no size')])
def test_what_cannot_be_read(text: str, says: str) -> None:
    with pytest.raises(MipkdError) as error:
        read(text)
    assert says in str(error.value)
    assert len(str(error.value)) < 700
    assert error.value.exit_code == 2


@pytest.mark.parametrize(('content', 'says'), [
    ('', 'no `key: value` pairs'),
    ('name: x\n', 'has no network_g with a type'),
    ('network_g: EDSR\n', 'has no network_g with a type'),
    ('network_g: {num_feat: 16}\n', 'has no network_g with a type'),
    ('network_g: [\n', 'not valid YAML')])
def test_files_without_a_student(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / 'my student.yml').write_text(content)
    with pytest.raises(MipkdError, match=says.replace('`', '.')):
        read(str(tmp_path / 'my student.yml'))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / 'teacher.pth').write_bytes(b'\x80\xff\x00')
    with pytest.raises(MipkdError, match='is no option file: .*it is not a text file; write an architecture') as error:
        read(str(tmp_path / 'teacher.pth'))
    assert '-opt' not in str(error.value)


def test_a_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    file = tmp_path / 'student'
    file.write_text('network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3}\nscale: 4\n')
    wanted = read(str(file))
    assert wanted.network == {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3}
    assert (wanted.scale, wanted.family, wanted.size, wanted.fraction) == (4, None, None, None)


def test_what_a_file_imports_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / 'net_of_mine.py').write_text('')
    (tmp_path / 'o.yml').write_text('imports: [net_of_mine.py]\nnetwork_g: {type: EDSR}\n')
    assert read(str(tmp_path / 'o.yml')).imports == (str(tmp_path / 'net_of_mine.py'), )
