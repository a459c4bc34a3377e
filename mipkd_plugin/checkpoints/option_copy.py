"""The copy of the option file that BasicSR leaves in the folder of a run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import basicsr.train as pipeline

_HEADER = re.compile(r'\A(# GENERATE TIME: .*\n# CMD:\n# .*\n\n)+')


@contextmanager
def kept_option_file(path: Path) -> Iterator[None]:
    """Inside the block, BasicSR copies the text that the option file has now.

    BasicSR copies the file after it has moved the folder of an earlier run of this name out of the way. That fails if
    the option file is the copy in this folder (FileNotFoundError), or its own target on a resume (SameFileError; no
    BasicSR issue known).

    Args:
        path: The option file.
    """
    text = path.read_text(encoding='utf-8')
    original = pipeline.copy_opt_file

    def copy_opt_file(opt_file: str, experiments_root: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            staged = Path(folder) / Path(opt_file).name
            staged.write_text(_HEADER.sub('', text), encoding='utf-8')
            original(str(staged), experiments_root)

    pipeline.copy_opt_file = copy_opt_file
    try:
        yield
    finally:
        pipeline.copy_opt_file = original
