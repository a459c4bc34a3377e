"""The error of a weights file that no network fits."""

from __future__ import annotations

from pathlib import Path

from mipkd_plugin.utils.errors import MipkdError


class RecognitionError(MipkdError):
    """No network is recognized in a weights file.

    Attributes:
        path: The file.
        what: What it is, or seems to be, as the rest of a sentence that starts with its name.
        remedy: What to do.
    """

    def __init__(self, path: str | Path, what: str, remedy: str) -> None:
        self.path, self.what, self.remedy = str(path), what, remedy
        super().__init__(f'{path} {what}; {remedy}')
