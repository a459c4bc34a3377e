"""The error that users see as one message and exit code 2."""

from __future__ import annotations


class MipkdError(ValueError):
    """Something that the user can fix; the message says what is wrong, where, and how to fix it.

    Every error class of this package derives from it. The commands print its message without a traceback.
    """


class UsageError(MipkdError):
    """A command cannot run as it was typed."""
