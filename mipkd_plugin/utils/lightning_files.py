"""Checkpoints of PyTorch Lightning: tensors beside classes of its callbacks, which need not be installed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.weight_files import read_tensors

_PACKAGES = ('pytorch_lightning.', 'lightning.', 'omegaconf.')


class _StandIn:
    """Takes the place of a class: it takes everything and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_checkpoint(file: str | Path) -> Any:
    """Load a file of ``torch.save`` without running code from it; classes of Lightning become empty ones.

    Args:
        file: The file.

    Returns:
        The content; what is not from Lightning is read as :func:`~mipkd_plugin.utils.weight_files.read_tensors` does.

    Raises:
        WeightFileError: The file cannot be read, or holds other Python objects.
        FileNotFoundError: There is no such file.
    """
    from torch import serialization

    names: list[str] = []
    if hasattr(serialization, 'get_unsafe_globals_in_checkpoint'):  # from PyTorch 2.5 on
        with suppress(*FOREIGN_ERRORS):  # read_tensors says what is wrong with the file
            names = serialization.get_unsafe_globals_in_checkpoint(str(file))
    parts = [name.rpartition('.') for name in names if name.startswith(_PACKAGES)]
    stand_ins: list[Any] = [type(name, (_StandIn, ), {'__module__': module}) for module, _, name in parts]
    if not stand_ins:
        return read_tensors(file)
    with serialization.safe_globals(stand_ins):
        return read_tensors(file)
