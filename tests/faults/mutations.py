"""Mutations of files, and the readers that meet them: no traceback may reach the user.

``python tests/faults/mutations.py`` tries 2,000 of them and prints what came of them (about ten minutes of CPU);
``--examples N`` tries N, ``--seed N`` tries others. The tests try a few hundred, always the same.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml
from faults.harness import snapshot
from helpers import REPO, tiny_options, write_image_pairs
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from training import forget_logger, train, write_options

from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.compare.results import read_rows
from mipkd_plugin.compare.times import read_times
from mipkd_plugin.config.remedies import REMOVE, remedied
from mipkd_plugin.utils.errors import MipkdError

SECONDS = 90
"""A reader that takes longer hangs."""

ODD = st.one_of(
    st.sampled_from(['', '~', 'x', '../x', '/tmp/x', 'é', '1e-4', 'params', 0, -1, 1, 3, 2.0, 0.5, 10**9, 2**62, -2**62,
                     1e300, float('nan'), float('inf'), True, False, None, [], {}, [1], ['x'], [[1]], {'type': 'EDSR'},
                     {'a': 1}, 'x' * 300, 'a\nb', '~nosuchuser/x', {'type': 'L1Loss'}, [None], [{}]]),
    st.integers(-2**62, 2**62), st.floats(), st.text(max_size=20),
    st.recursive(st.none() | st.integers(-5, 5) | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3) |
                 st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5))
"""Values for entries of an option file."""

TENSORS = st.sampled_from([
    torch.ones(2, 2), torch.ones(()), torch.ones(0), torch.ones(3, dtype=torch.int8),
    torch.ones(2, dtype=torch.complex64),
    torch.ones(2, 2).to_sparse(), torch.ones(2, device='meta'), torch.ones(2, dtype=torch.bool)])
"""Values for entries of a file of tensors."""

Edit = tuple[str, float, bytes]
EDITS = st.lists(st.tuples(st.sampled_from(['put', 'flip', 'insert', 'cut', 'delete', 'repeat']), st.floats(0, 1),
                           st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
"""Edits of the bytes of a file: kind, place from 0 to 1, bytes."""
WORDS = st.lists(st.tuples(st.sampled_from(['put', 'insert', 'cut', 'delete', 'repeat']), st.floats(0, 1),
                           st.sampled_from([b'', b'\n', b',', b'-1', b'nan', b'1e999', b'\0', b'\xff', b'"', b'{', b']',
                                            b'null', b': ', b'  ', b'&a ', b'*a', b'!!python/name:os.system ', b'\t',
                                            b'9' * 30])), min_size=1, max_size=4)
"""Edits of text that the formats here give a meaning."""


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """Apply edits to the bytes of a file."""
    for kind, place, data in edits:
        at = min(int(place * len(content)), max(len(content) - 1, 0))
        if kind == 'flip' and content:
            content = content[:at] + bytes([content[at] ^ data[0]]) + content[at + 1:]
        elif kind == 'put':
            content = content[:at] + data + content[at + len(data):]
        elif kind == 'insert':
            content = content[:at] + data + content[at:]
        elif kind == 'cut':
            content = content[:at]
        elif kind == 'delete':
            content = content[:at] + content[at + 1 + 10 * len(data):]
        elif kind == 'repeat':
            content = content[:at] + content[max(at - 100, 0):at] + content[at:]
    return content


def entries(opt: Any, path: str = '') -> list[str]:
    """The YAML paths of all entries, and of one that is new in each block."""
    if not isinstance(opt, dict):
        return [path]
    inner = [found for key, value in opt.items() for found in entries(value, f'{path}.{key}' if path else key)]
    return [*([path] if path else []), *inner, f'{path}.new' if path else 'new']


class HangError(Exception):
    """A reader takes too long."""


@contextlib.contextmanager
def watched() -> Iterator[io.StringIO]:
    """Silence the block, and end it where it hangs."""
    def stop(*_: Any) -> None:
        raise HangError(f'more than {SECONDS} s')

    before, said = signal.signal(signal.SIGALRM, stop), io.StringIO()
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter('ignore')
            yield said
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(run: Callable[[], int], writes: Path | None = None) -> str:
    """Run a command; its exit code in words. An exception is a traceback that the user would see.

    A command that refuses its input must not have written into the folder ``writes``.
    """
    forget_logger()
    before = snapshot(writes) if writes is not None else []
    with watched() as said:
        code = run()
    forget_logger()
    assert code in (0, 2, 3, 4), (code, said.getvalue())
    if code == 2 and writes is not None:
        assert snapshot(writes) == before, said.getvalue()
    assert 'Traceback' not in said.getvalue(), said.getvalue()
    return 'accepted' if code == 0 else 'refused'


def call(read: Callable[[], object]) -> str:
    """Call a reader; only our own errors may come out."""
    with watched():
        try:
            read()
        except MipkdError:
            return 'refused'
    return 'accepted'


class Work(NamedTuple):
    """A folder with everything that the readers read, and the right content of each file."""

    folder: Path
    opt: dict[str, Any]
    right: dict[str, bytes]

    def put(self, name: str, content: bytes) -> Path:
        """Write one file; all others are right."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def restore(self, name: str) -> None:
        self.put(name, self.right[name])

    def restore_run(self) -> None:
        """Leave nothing but the right checkpoint in the folder of the run: it may have been resumed."""
        shutil.rmtree(self.folder / RUN, ignore_errors=True)
        for name in STATES.values():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self.restore(name)


RUN = 'experiments/tiny'
STATES = {'training state': f'{RUN}/training_states/2.state', 'student': f'{RUN}/models/net_g_2.pth',
          'distillation state': f'{RUN}/models/distill_2.pth', 'random numbers': f'{RUN}/models/random_2.pth'}
GO_ON = ('--auto_resume', '--force_yml', 'train:total_iter=4')
FILES = {'weights': 'teacher.pth', 'meta_info_file': 'meta.txt', 'prepare.json': 'small/prepare.json',
         'results.csv': 'results.csv', 'times.csv': 'times.csv', 'option file, as text': 'x.yml', **STATES}


def prepare() -> int:
    return mipkd_main(['prepare', '--hr', 'HR', '--scale', '2', '--out', 'small', '--workers', '1'])


def make_work(folder: Path) -> Work:
    """Fill a folder; it becomes the working directory."""
    os.chdir(write_image_pairs(folder))
    opt = tiny_options(folder)
    opt['logger'] = {**opt['logger'], 'use_tb_logger': False}
    opt['train'] = {**opt['train'], 'total_iter': 2, 'exact_resume': True}
    (folder / 'meta.txt').write_text(''.join(f'{number}.png (48,48,3)\n' for number in range(4)))
    opt['datasets']['train']['meta_info_file'] = 'meta.txt'
    write_options(opt, folder / 'x.yml')
    assert command(lambda: train('x.yml')) == 'accepted'
    assert command(prepare) == 'accepted'
    assert trains('x.yml', *GO_ON) == 'accepted'
    for name in ('results.csv', 'times.csv'):
        (folder / name).write_bytes((REPO / 'experiments/compare_EDSR_x2_small' / name).read_bytes())
    return Work(folder, opt, {name: (folder / name).read_bytes() for name in FILES.values()})


def trains(file: str, *arguments: str, writes: Path | None = None) -> str:
    """Whether a file that the check accepts trains two iterations and validates."""
    return command(lambda: train(file, *arguments), writes)


def read(work: Work, kind: str) -> str:
    """Let the reader of a kind of file read it."""
    if kind == 'results.csv':
        return call(lambda: read_rows(work.folder / 'results.csv'))
    if kind == 'times.csv':
        return call(lambda: read_times(work.folder / 'times.csv'))
    if kind == 'prepare.json':
        return command(prepare)
    if kind in STATES:
        return trains('x.yml', *GO_ON, writes=work.folder / RUN)
    found = command(lambda: mipkd_main(['check', '-opt', 'x.yml']))
    if found == 'accepted' and kind != 'option file, as text':
        assert trains('x.yml') == 'accepted'
    return found


def try_bytes(work: Work, kind: str, edits: list[Edit], content: bytes = b'') -> str:
    """Mutate the bytes of a file, the right ones or others, and read it."""
    name = FILES[kind]
    if kind in STATES:
        work.restore_run()
    work.put(name, edited(content or work.right[name], edits))
    try:
        return read(work, kind)
    finally:
        for each in work.right:
            if (work.folder / each).parent.is_dir():
                work.restore(each)


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all entries of a file of tensors, from the outside in."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [above, *(path for key, value in pairs for path in places(value, (*above, key)))]


def try_entries(work: Work, kind: str, place: float, value: Any) -> str:
    """Put an odd value in the place of an entry of a file of tensors, and read it."""
    content = {'': torch.load(io.BytesIO(work.right[FILES[kind]]), weights_only=True)}
    paths = places(content)[1:]
    *parents, last = paths[min(int(place * len(paths)), len(paths) - 1)]
    target: Any = content
    for key in parents:
        target = target[key]
    if value is REMOVE:
        del target[last]
    else:
        target[last] = value
    saved = io.BytesIO()
    torch.save(content.get('', {}), saved)
    return try_bytes(work, kind, [], saved.getvalue())


def try_options(work: Work, changes: dict[str, Any], trained: bool = True) -> str:
    """Mutate entries of an option file; what the check accepts must train."""
    opt = work.opt
    for path, value in changes.items():
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            opt = remedied(opt, {path: value})
    file = work.folder / 'mutated.yml'
    file.write_text(yaml.safe_dump(opt, sort_keys=False, allow_unicode=True), encoding='utf-8')
    found = command(lambda: mipkd_main(['check', '-opt', 'mutated.yml', '--train']))
    if found == 'accepted' and trained and opt['datasets']['train']['num_worker_per_gpu'] < 2:
        trains('mutated.yml', '--force_yml', 'train:total_iter=2')
    return found


def option_changes(opt: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Up to three entries, each with an odd value or removed."""
    return st.dictionaries(st.sampled_from(entries(opt)), ODD | st.just(REMOVE), min_size=1, max_size=3)


def configured(examples: int, number: int | None) -> Callable[[Any], Any]:
    """Settings of a property: as many examples, the same in each run with the same seed."""
    chosen = settings(max_examples=examples, deadline=None, database=None, derandomize=number is None,
                      suppress_health_check=list(HealthCheck))
    return chosen if number is None else lambda test: seed(number)(chosen(test))


def try_many(work: Work, kind: str, examples: int, number: int | None = None) -> Counter[str]:
    """Try mutations of one kind of file; how many were accepted and refused.

    Args:
        work: The folder.
        kind: One of ``KINDS``.
        examples: How many.
        number: The seed; None tries the same ones in each run.

    Returns:
        Number of mutations by ``accepted`` and ``refused``.

    Raises:
        AssertionError: A traceback would reach the user, or an accepted file does not train.
    """
    found: Counter[str] = Counter()
    if kind == 'option file':
        @configured(examples, number)
        @given(option_changes(work.opt))
        def attempt(changes: dict[str, Any]) -> None:
            found[try_options(work, changes)] += 1
    elif kind.endswith(', entries'):
        @configured(examples, number)
        @given(st.floats(0, 1), TENSORS | ODD | st.just(REMOVE))
        def attempt(place: float, value: Any) -> None:
            found[try_entries(work, kind.removesuffix(', entries'), place, value)] += 1
    else:
        texts = kind in ('results.csv', 'times.csv', 'prepare.json', 'meta_info_file', 'option file, as text')

        @configured(examples, number)
        @given(WORDS | EDITS if texts else EDITS)
        def attempt(edits: list[Edit]) -> None:
            found[try_bytes(work, kind, edits)] += 1
    attempt()
    return found


KINDS = {'option file': 8, 'option file, as text': 4, 'weights': 4, 'training state': 1, 'student': 1,
         'distillation state': 1, 'random numbers': 1, 'meta_info_file': 2, 'prepare.json': 2, 'results.csv': 4,
         'times.csv': 4, 'weights, entries': 4, **{f'{kind}, entries': 2 for kind in STATES}}
"""Kinds of files, and their shares of the mutations."""


def main() -> None:
    """Try many mutations and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--examples', type=int, default=2000, help='number of mutations')
    parser.add_argument('--kinds', nargs='+', choices=list(KINDS), default=list(KINDS),
                        help='kinds of files to mutate')
    parser.add_argument('--seed', type=int, help='number of the mutations to try (default: the same as in the tests)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        work = make_work(Path(folder))
        shares = sum(KINDS[kind] for kind in args.kinds)
        for kind in args.kinds:
            begin = time.monotonic()
            found = try_many(work, kind, -(-args.examples * KINDS[kind] // shares), args.seed)
            total += found
            sys.stdout.write(json.dumps({'file': kind, **found, 'seconds': round(time.monotonic() - begin)}) + '\n')
            sys.stdout.flush()
    sys.stdout.write(f'{sum(total.values()):,d} mutations: {total["refused"]:,d} refused with a message, '
                     f'{total["accepted"]:,d} accepted; no traceback\n')


if __name__ == '__main__':
    main()
