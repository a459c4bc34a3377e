"""Read weights from files of safetensors too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.weight_files import WeightFileError, read_tensors

EXTRA = "pip install 'mipkd-plugin[teacher]'"
_LARGEST_HEADER = 10**8  # as in the format's own limit


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as safetensors does: the length of a header, and the header in JSON."""
    try:
        with open(path, 'rb') as file:
            head = file.read(9)
    except OSError:
        return False
    return len(head) == 9 and head[8:] == b'{' and int.from_bytes(head[:8], 'little') <= _LARGEST_HEADER


def read_weights(path: Path) -> Any:
    """Read a file of safetensors or of ``torch.save``, without running code from it.

    Args:
        path: The file.

    Returns:
        Its content; of safetensors, tensor by name.

    Raises:
        WeightFileError: The file cannot be read, or the package safetensors is missing.
        FileNotFoundError: There is no such file.
    """
    if not is_safetensors(path):
        if path.suffix == '.safetensors' and path.is_file() and _is_binary(path):
            raise WeightFileError(str(path), 'is damaged, or no file of safetensors', 'copy or download it again')
        return read_tensors(path)
    try:
        import safetensors
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightFileError(str(path), 'is a file of safetensors, and that package is not installed',
                              f'install it: {EXTRA}') from error
    try:
        return load_file(path)
    except (*FOREIGN_ERRORS, safetensors.SafetensorError, json.JSONDecodeError) as error:
        raise WeightFileError(str(path), f'is a damaged file of safetensors: {reason(error)}',
                              'copy or download it again') from error


def _is_binary(path: Path) -> bool:
    """Whether a file is none that :func:`read_tensors` explains better, such as a web page."""
    with open(path, 'rb') as file:
        head = file.read(1024)
    return bool(head) and not head.startswith(b'PK') and b'\0' in head
