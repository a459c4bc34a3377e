"""Hand BasicSR the options that were checked, and their text: it would read the file again, with an unsafe loader."""

from __future__ import annotations

import copy
import io
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import basicsr.test
import basicsr.train
from basicsr.utils import options as reader
from basicsr.utils.dist_util import master_only

from mipkd_plugin.config.problems import Options
from mipkd_plugin.utils.files import write_text
from mipkd_plugin.utils.replacing import replaced

_HEADER = re.compile(r'\A(# GENERATE TIME: .*\n# CMD:\n# .*\n\n)+')


@contextmanager
def handed_over(opt: Options) -> Iterator[None]:
    """Inside the block BasicSR's ``parse_options`` takes these options, whatever stands in the file by now.

    BasicSR opens the file of ``-opt`` a second time with PyYAML's full loader, and a third time to copy it; it passes
    ``--force_yml`` to ``exec`` and ``eval`` (no BasicSR issue known). Here it parses its own command line, without
    ``--force_yml``, whose entries are part of the options already; everything else it does itself.

    Args:
        opt: The options that were checked.
    """
    plain = reader.parse_options

    def parse_options(root_path: str, is_train: bool = True) -> tuple[dict[str, Any], Any]:
        with _instead_of_the_file(opt):
            found: tuple[dict[str, Any], Any] = plain(root_path, is_train=is_train)
        return found

    @master_only  # type: ignore[untyped-decorator]  # BasicSR ships no types
    def copy_opt_file(opt_file: str, experiments_root: str) -> None:
        name = Path(opt_file).name
        path = Path(experiments_root) / (name if name.endswith(('.yml', '.yaml')) else 'options.yml')
        command = ' '.join(' '.join(sys.argv).split())
        text = _HEADER.sub('', opt.text)  # the file may be such a copy itself
        write_text(path, f'# GENERATE TIME: {time.asctime()}\n# CMD:\n# {command}\n\n{text}')

    with (replaced(basicsr.train, {'parse_options': parse_options, 'copy_opt_file': copy_opt_file}),
          replaced(basicsr.test, {'parse_options': parse_options})):
        yield


@contextmanager
def _instead_of_the_file(opt: Options) -> Iterator[None]:
    """Inside the block ``basicsr.utils.options`` opens no file, and loads a copy of the options."""
    arguments, loader = sys.argv, reader.ordered_yaml

    class Checked:
        """Stands in for a YAML loader."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def get_single_data(self) -> Any:
            return OrderedDict(copy.deepcopy(dict(opt)))

        def dispose(self) -> None:
            """Nothing is open."""

    end = arguments.index('--force_yml') if '--force_yml' in arguments else len(arguments)
    sys.argv = arguments[:end]
    reader.ordered_yaml = lambda: (Checked, None)
    reader.open = lambda *args, **named: io.StringIO(opt.text)
    try:
        yield
    finally:
        sys.argv = arguments
        reader.ordered_yaml = loader
        del reader.open
