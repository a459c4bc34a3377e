"""Read weights from files of safetensors too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.weight_files import WeightFileError, is_safetensors, read_tensors

EXTRA = "pip install 'mipkd-plugin[teacher]'"


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
        return read_tensors(path)
    try:
        import safetensors
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightFileError(str(path), 'is a file of safetensors, and that package is not installed',
                              f'install it: {EXTRA}') from error
    try:
        return load_file(path)
    except (*FOREIGN_ERRORS, safetensors.SafetensorError) as error:
        raise WeightFileError(str(path), f'is a damaged file of safetensors: {reason(error)}',
                              'copy or download it again') from error
