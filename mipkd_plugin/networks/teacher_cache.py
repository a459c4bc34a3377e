"""The teacher's passes over a pool of fixed crops, kept in memory or in an LMDB: each crop is run once."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import lmdb
import torch
from torch import Tensor

from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.words import gigabytes

CacheType = Literal['float32', 'float16', 'bfloat16']
_META = b'mipkd teacher cache'
_CHECKSUM = 4  # bytes, of the crop's pixels; as many follow, of the row


class CacheError(MipkdError):
    """A cache on disk belongs to another teacher, or cannot be used; the message says what to do."""


class Store(Protocol):
    """Rows of numbers by crop."""

    def get(self, crop: int, checksum: int) -> Tensor | None:
        """The row of a crop; None if there is none yet, or if it was made from other pixels."""

    def put(self, crop: int, checksum: int, row: Tensor) -> None:
        """Keep a row."""


class MemoryStore:
    """Rows in the host's memory.

    Args:
        crops: Number of crops.
        length: Numbers in a row.
        dtype: Their type.
    """

    def __init__(self, crops: int, length: int, dtype: torch.dtype) -> None:
        self.rows = torch.empty(crops, length, dtype=dtype)
        self.checksums: dict[int, int] = {}

    def get(self, crop: int, checksum: int) -> Tensor | None:
        """The row of a crop; None if there is none yet, or if it was made from other pixels."""
        return self.rows[crop] if self.checksums.get(crop) == checksum else None

    def put(self, crop: int, checksum: int, row: Tensor) -> None:
        """Keep a row."""
        self.rows[crop], self.checksums[crop] = row, checksum


class LmdbStore:
    """Rows in an LMDB, which outlives the run. Several processes may use it at once.

    Args:
        path: Folder of the LMDB, whose name ends in ``.lmdb``.
        crops: Number of crops.
        length: Numbers in a row.
        dtype: Their type.
        meta: What the rows depend on besides the crops; another cache of the same path is refused.

    Raises:
        CacheError: The LMDB was made for something else, or cannot be opened.
    """

    def __init__(self, path: Path, crops: int, length: int, dtype: torch.dtype, meta: Mapping[str, Any]) -> None:
        self.dtype = dtype
        size = 2 * crops * (length * dtype.itemsize + 2 * _CHECKSUM) + 2**24  # pages are not full; unused ones are free
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.environment = lmdb.open(str(path), map_size=size, sync=False)
            refuse_other_cache(path, self.environment, meta)
            with self.environment.begin(write=True) as transaction:
                transaction.put(_META, json.dumps(meta, sort_keys=True).encode())
        except (lmdb.Error, OSError) as error:
            raise CacheError(f'the cache {path} cannot be opened: {error}; delete it, or name another') from error

    def get(self, crop: int, checksum: int) -> Tensor | None:
        """The row of a crop; None if there is none yet, or if it was made from other pixels."""
        with self.environment.begin() as transaction:
            found = transaction.get(_key(crop))
        if found is None or found[:2 * _CHECKSUM] != _marks(checksum, found[2 * _CHECKSUM:]):
            return None
        return torch.frombuffer(bytearray(found[2 * _CHECKSUM:]), dtype=self.dtype)

    def put(self, crop: int, checksum: int, row: Tensor) -> None:
        """Keep a row.

        Raises:
            CacheError: The disk is full.
        """
        content = row.contiguous().view(torch.uint8).numpy().tobytes()
        try:
            with self.environment.begin(write=True) as transaction:
                transaction.put(_key(crop), _marks(checksum, content) + content)
        except lmdb.Error as error:
            raise CacheError(f'the cache {self.environment.path()} takes no more: {error}; make room on the disk, and '
                             'resume from the last checkpoint') from error


def _key(crop: int) -> bytes:
    return f'crop {crop}'.encode()


def _marks(checksum: int, content: bytes) -> bytes:
    """What tells a row that was made from other pixels, or was not written to its end."""
    return checksum.to_bytes(_CHECKSUM, 'big') + zlib.crc32(content).to_bytes(_CHECKSUM, 'big')


def refuse_other_cache(path: Path, environment: lmdb.Environment, meta: Mapping[str, Any]) -> None:
    """Refuse an LMDB that holds something else, or the passes of another teacher, other taps or another type.

    Args:
        path: The LMDB.
        environment: The same, open.
        meta: What the rows of this run depend on.

    Raises:
        CacheError: The LMDB is not a cache, or not this one; the message names what differs.
    """
    with environment.begin() as transaction:
        before = transaction.get(_META)
    if before is None:
        if environment.stat()['entries']:
            raise CacheError(f'{path} is an LMDB of something else; name another')
        return
    try:
        known = dict(json.loads(before))
    except (ValueError, TypeError) as error:
        raise CacheError(f'the cache {path} is damaged; delete it, or name another') from error
    now = json.loads(json.dumps(meta))
    differing = [key for key in now if known.get(key) != now[key]]
    if differing:
        raise CacheError(f'the cache {path} was made with another {", ".join(differing)}; delete it, or name another')


class TeacherCache:
    """Runs the teacher once on each crop of a pool, and keeps output and tapped features.

    A crop is run by itself, not in a batch, and what a loss sees has always been kept before. So the numbers do not
    depend on the order of the crops, and a resumed run gets the same ones.

    Args:
        teacher: The tapped, frozen teacher.
        probe: Images (1, C, H, W) of the size of the crops.
        crops: Number of crops.
        dtype: Type of the numbers that are kept; losses get them in the teacher's own type.
        path: LMDB to keep them in; None keeps them in memory.
        identity: What the teacher's numbers depend on.

    Raises:
        CacheError: The LMDB was made for something else.
    """

    def __init__(self, teacher: TappedNet, probe: Tensor, crops: int, dtype: CacheType = 'float32',
                 path: Path | None = None, identity: str = '') -> None:
        self.teacher = teacher
        self.where = 'memory' if path is None else str(path)
        self.shapes = shapes_of(teacher(probe))  # the run also records what blocks take besides the feature
        self.length = sum(map(math.prod, self.shapes.values()))
        self.crops = crops
        self.dtype: torch.dtype = getattr(torch, dtype)
        if path is None:
            self.store: Store = MemoryStore(crops, self.length, self.dtype)
        else:
            self.store = LmdbStore(path, crops, self.length, self.dtype, meta_of(self.shapes, dtype, identity))

    def __call__(self, lq: Tensor, crops: Tensor | None) -> NetPass:
        """Look up the teacher's pass over a batch of crops; run it on those that are new.

        Args:
            lq: The crops (N, C, H, W).
            crops: Their numbers (N,), or of a larger batch, of which they are the first.

        Returns:
            Output and features, as the teacher itself would return them but for rounding.

        Raises:
            CacheError: There are no numbers, or the teacher's cannot be kept.
        """
        if crops is None:
            raise CacheError('the batch does not say which crops it holds, and teacher.cache needs that; a feed_data '
                             'of your own must call super().feed_data(data)')
        pixels = lq.cpu()
        rows = [self._row(number, pixels[i], lq[i:i + 1]) for i, number in enumerate(crops[:len(lq)].tolist())]
        table = torch.stack(rows).to(lq.device, lq.dtype)
        parts = torch.split(table, [math.prod(shape) for shape in self.shapes.values()], dim=1)
        maps = {name: part.reshape(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts)}
        return NetPass(maps.pop(''), maps)

    def __str__(self) -> str:
        return describe(self.crops, self.length * self.dtype.itemsize, self.where)

    def _row(self, crop: int, pixels: Tensor, lq: Tensor) -> Tensor:
        checksum = zlib.crc32(pixels.contiguous().numpy().tobytes())
        row = self.store.get(crop, checksum)
        if row is None:
            found = self.teacher(lq)
            row = torch.cat([part.flatten() for part in (found.output, *found.features.values())]).to('cpu', self.dtype)
            if not bool(torch.isfinite(row).all()):
                raise CacheError(f'{self.dtype} cannot hold the teacher\'s numbers for crop {crop}; write another '
                                 'teacher.cache_dtype, and start again')
            self.store.put(crop, checksum, row)
        return row


def shapes_of(found: NetPass) -> dict[str, tuple[int, ...]]:
    """Shape (C, H, W) of the output, under the name '', and of each tapped feature, by its path."""
    return {name: tuple(values.shape[1:]) for name, values in {'': found.output, **found.features}.items()}


def meta_of(shapes: Mapping[str, tuple[int, ...]], dtype: str, identity: str) -> dict[str, Any]:
    """What the rows of a cache depend on besides the crops."""
    return {'teacher': identity, 'features': {name: list(shape) for name, shape in shapes.items()}, 'type': dtype}


def bytes_per_crop(shapes: Mapping[str, tuple[int, ...]], dtype: str) -> int:
    """Bytes that one crop takes."""
    size: int = getattr(torch, dtype).itemsize
    return size * sum(map(math.prod, shapes.values()))


def describe(crops: int, each: int, where: str) -> str:
    """What a cache takes, in words, for ``crops`` crops of ``each`` bytes."""
    return f'{crops:,d} crops × {each:,d} bytes = {gigabytes(crops * each)} in {where}'
