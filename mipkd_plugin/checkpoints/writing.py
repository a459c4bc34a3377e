"""Write the files of a checkpoint: beside, flushed, read back, and only then under their names, all of them or none."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import torch

from mipkd_plugin.checkpoints.errors import SaveError, save_error
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, is_lost_worker
from mipkd_plugin.utils.files import flush_folder, part_of, remove

RECORD = 'mipkd'
"""Key of our record in a training state: its files, and the options that it was trained with."""

_CHUNK = 1 << 20


class Written(NamedTuple):
    """A file as it was written.

    Attributes:
        size: In bytes.
        sha256: Of its content, in hex.
    """

    size: int
    sha256: str


class _Sink:
    """A file to write to that counts and hashes. After an error it only counts, so that the size is known."""

    def __init__(self, file: IO[bytes], name: Path) -> None:
        self.name = str(name)
        self.size = 0
        self.digest = hashlib.sha256()
        self.error: OSError | None = None
        self._file = file

    def write(self, data: Any) -> int:
        """Write all of ``data``; never raises."""
        view = memoryview(data).cast('B')
        self.size += len(view)
        self.digest.update(view)
        done = 0
        while self.error is None and done < len(view):
            try:
                done += self._file.write(view[done:])
            except OSError as error:
                self.error = error
        return len(view)

    def flush(self) -> None:
        """Bring the content to the disk."""
        if self.error is None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self.error = error


def file_digest(path: Path) -> Written:
    """Size and hash of a file.

    Returns:
        Both.

    Raises:
        OSError: The file cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with path.open('rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return Written(size, digest.hexdigest())


def write_part(path: Path, content: Any) -> Written:
    """Write a file of tensors beside ``path``, flush it and read it back.

    Args:
        path: The file that the part is for.
        content: What ``torch.load`` will return.

    Returns:
        Its size and hash.

    Raises:
        SaveError: The part cannot be written, or reads back differently; it is removed.
        RuntimeError: A data worker has died meanwhile.
    """
    part, size = part_of(path), None
    try:
        with part.open('wb', buffering=0) as file:
            sink = _Sink(file, part)
            torch.save(content, cast(IO[bytes], sink))
            sink.flush()
        size = sink.size
        return _proven(part, sink)
    except OSError as error:
        remove(part)
        problem = save_error(error, path, size)
        raise problem from error
    except (*FOREIGN_ERRORS, pickle.PicklingError) as error:
        remove(part)
        if is_lost_worker(error):  # a signal handler raises this anywhere
            raise RuntimeError(str(error)) from error
        raise SaveError(f'cannot save {path}: torch cannot write what is in it ({type(error).__name__}: {error})',
                        'keep only tensors and plain values in it') from error
    except BaseException:  # Ctrl-C
        remove(part)
        raise


def _proven(part: Path, sink: _Sink) -> Written:
    """Read back what was written.

    Returns:
        Its size and hash.

    Raises:
        OSError: It could not be written, or differs.
    """
    if sink.error is not None:
        raise OSError(sink.error.errno, sink.error.strerror) from sink.error
    written = Written(sink.size, sink.digest.hexdigest())
    if file_digest(part) != written:
        raise OSError(errno.EIO, 'what was read back differs from what was written')
    return written


class CheckpointSet:
    """The files of one checkpoint. They get their names together, the training state last.

    Args:
        iteration: Of the checkpoint; -1 stands for the end of training.
        record: Options and other plain values, which go into the training state.
    """

    def __init__(self, iteration: int, record: Mapping[str, Any]) -> None:
        self.iteration = iteration
        self.record = dict(record)
        self.state: tuple[Path, Any] | None = None
        self._written: dict[Path, Written] = {}

    def add(self, path: Path, content: Any) -> None:
        """Write a file beside its place. A training state waits for :meth:`commit`: it lists the other files.

        Raises:
            SaveError: It cannot be written.
        """
        if path.suffix == '.state':
            self.state = path, content
        else:
            self._written[path] = write_part(path, content)

    def commit(self) -> None:
        """Give all files their names.

        Raises:
            SaveError: That fails; the training state, without which nobody takes the other files, has no name then.
        """
        try:
            state = {}
            if self.state is not None:
                path, content = self.state
                state = {path: write_part(path, self._recorded(content))}
            self._name(self._written)
            self._name(state)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove the files that have no names yet."""
        for path in [*self._written, *([] if self.state is None else [self.state[0]])]:
            remove(part_of(path))

    def _recorded(self, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        files = {path.name: {'bytes': written.size, 'sha256': written.sha256}
                 for path, written in self._written.items()}
        return {**content, RECORD: {**self.record, 'files': files}}

    @staticmethod
    def _name(paths: Mapping[Path, Written]) -> None:
        path = next(iter(paths), Path())
        try:
            for path in paths:
                os.replace(part_of(path), path)
            for folder in {path.parent for path in paths}:
                flush_folder(folder)
        except OSError as error:
            problem = save_error(error, path)
            raise problem from error


_open: list[CheckpointSet] = []


def open_set(checkpoint: CheckpointSet | None) -> None:
    """Say which checkpoint :func:`save_file` adds its files to; None: it writes each file at once."""
    _open[:] = [] if checkpoint is None else [checkpoint]


def save_file(path: Path, content: Any) -> None:
    """Save a file of tensors: as part of the checkpoint that is being saved, or else at once.

    Args:
        path: The file.
        content: What ``torch.load`` will return.

    Raises:
        SaveError: It cannot be written; a file of that name stays as it was.
    """
    own = _open[0] if _open else CheckpointSet(0, {})
    own.add(path, content)
    if not _open:
        own.commit()
