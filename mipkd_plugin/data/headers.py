"""Size and orientation of an image from its header, without decoding a pixel; and whether the file is whole."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
"""Endings of image files that OpenCV reads."""
PNG = b'\x89PNG\r\n\x1a\n'
_TIFF = (b'II*\0', b'MM\0*')
_END = b'\0\0\0\0IEND\xaeB`\x82'
_HEAD = 4096
_TAIL = 1 << 16
_MOST_PIXELS = 2 ** 30  # OpenCV decodes no larger image
_ORIENTATION = 0x0112
Read = Callable[[int, int], bytes]
"""Reads from a file: offset and length in, bytes out; fewer at the end."""


class BrokenImageError(ValueError):
    """A file is not an image, or not a whole one; the message is the reason alone, without the name."""


class Header(NamedTuple):
    """What the header of an image says.

    Attributes:
        height: Rows, as OpenCV decodes the image: turned by its orientation.
        width: Columns, likewise.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        format: ``PNG``, ``JPEG``, … as Pillow calls it.
        bits: Bits per channel of a PNG; 8 for all other formats.
    """

    height: int
    width: int
    orientation: int = 1
    format: str = 'PNG'
    bits: int = 8


def header_of_file(path: Path, every_chunk: bool = True) -> Header:
    """Read the header of an image file.

    Args:
        path: The image.
        every_chunk: Follow the chunks of a PNG to its end, for which the disk reads all of the file; if not, only its
            first chunks and its last 64 KB are read.

    Returns:
        Its header.

    Raises:
        BrokenImageError: The file is not an image, or is a PNG that is cut short or overwritten.
        OSError: The file cannot be read.
    """
    with path.open('rb', buffering=0) as file:
        size = os.fstat(file.fileno()).st_size

        def read(at: int, count: int) -> bytes:
            file.seek(at)
            return file.read(count)

        return _header(read, size, file, every_chunk)


def header_of_bytes(data: bytes | memoryview, every_chunk: bool = True) -> Header:
    """Read the header of an image in memory.

    Args:
        data: The content of the image file.
        every_chunk: Follow the chunks of a PNG to its end; if not, only its first chunks and its last 64 KB are read.

    Returns:
        Its header.

    Raises:
        BrokenImageError: This is not an image, or a PNG that is cut short or overwritten.
    """
    return _header(lambda at, count: bytes(data[at:at + count]), len(data), None, every_chunk, data)


def _header(read: Read, size: int, file: io.FileIO | None, every_chunk: bool,
            data: bytes | memoryview = b'') -> Header:
    head = read(0, _HEAD)
    if not head.strip(b'\0'):
        raise BrokenImageError(f'is empty: {size:,d} bytes, all zero' if size else 'is empty')
    if head.startswith(PNG):
        found = _png(read, size, head, every_chunk)
    else:
        if file is not None:
            file.seek(0)
        found = _by_pillow(file if file is not None else io.BytesIO(data))
    if found.height * found.width > _MOST_PIXELS:
        raise BrokenImageError(f'has {found.width}×{found.height} pixels, and OpenCV reads {_MOST_PIXELS:,d} at most')
    return found._replace(height=found.width, width=found.height) if found.orientation >= 5 else found


def _png(read: Read, size: int, head: bytes, every_chunk: bool) -> Header:
    chunks = png_chunks(read, size, head)
    kind, at, length = next(chunks)
    if kind != b'IHDR' or length != 13:
        raise BrokenImageError('is damaged: a PNG must begin with its size')
    width, height, bits = struct.unpack('>IIB', read(at, 9))
    if not width or not height:
        raise BrokenImageError(f'is damaged: it has {width}×{height} pixels')
    orientation, pixels = 1, False
    for kind, at, length in chunks:
        pixels = pixels or kind == b'IDAT'
        if kind == b'eXIf':
            orientation = _orientation(read(at, length))
        if pixels and not every_chunk:
            tail = read(max(size - _TAIL, at), _TAIL)
            if not tail.endswith(_END):
                raise BrokenImageError(f'is cut short or overwritten at its end ({size:,d} bytes)')
            orientation = max(orientation, _orientation(_last_exif(tail)))
            break
    if not pixels:
        raise BrokenImageError('is damaged: a PNG without pixels')
    return Header(height, width, orientation, bits=bits)


def _last_exif(tail: bytes) -> bytes:
    """The EXIF data at the end of a PNG, behind its pixels; empty without any."""
    at = tail.rfind(b'eXIf')
    length = int.from_bytes(tail[at - 4:at], 'big') if at >= 4 else 0
    chunk = tail[at:at + 4 + length]
    whole = zlib.crc32(chunk).to_bytes(4, 'big') == tail[at + 4 + length:at + 8 + length]
    return chunk[4:] if at >= 4 and whole else b''


def png_chunks(read: Read, size: int, head: bytes = b'') -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a PNG.

    Args:
        read: Reads from the file.
        size: Length of the file.
        head: Its first bytes, if they are known.

    Yields:
        Name, offset of the content, and length of the content.

    Raises:
        BrokenImageError: The file ends before its last chunk, or holds something else than chunks.
    """
    at = len(PNG)
    while True:
        prefix = head[at:at + 8] if at + 8 <= len(head) else read(at, 8)
        if len(prefix) < 8:
            raise BrokenImageError(f'is cut short after {size:,d} bytes')
        length, kind = int.from_bytes(prefix[:4], 'big'), prefix[4:]
        if not kind.isalpha():
            raise BrokenImageError(f'is damaged from byte {at:,d} of {size:,d}')
        if at + 12 + length > size:
            raise BrokenImageError(f'is cut short after {size:,d} bytes')
        yield kind, at + 8, length
        if kind == b'IEND':
            return
        at += 12 + length


def check_png_sums(data: bytes) -> None:
    """Compare the checksums of a PNG, which OpenCV ignores or only prints.

    Args:
        data: The content of the file.

    Raises:
        BrokenImageError: A checksum of a needed chunk is wrong.
    """
    view = memoryview(data)
    for kind, at, length in png_chunks(lambda start, count: data[start:start + count], len(data)):
        if kind[:1].isupper() and zlib.crc32(view[at - 4:at + length]).to_bytes(4, 'big') != view[
                at + length:at + length + 4]:
            raise BrokenImageError(f'is damaged between bytes {at:,d} and {at + length:,d} of {len(data):,d}')


@contextmanager
def any_size() -> Iterator[None]:
    """Let Pillow open images of any size inside the block: training data may be larger than its bomb limit."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _by_pillow(file: io.IOBase) -> Header:
    """The header of any other format. Pillow reads no pixel yet."""
    try:
        with any_size(), warnings.catch_warnings(), Image.open(file) as image:  # type: ignore[arg-type]
            warnings.simplefilter('ignore')
            orientation, (width, height) = _orientation(image.info.get('exif', b'')), image.size
            if isinstance(image, TiffImageFile):  # its size is turned already
                orientation, width, height = (image.tag_v2.get(tag, 1) for tag in (_ORIENTATION, 256, 257))
            return Header(height, width, orientation if orientation in range(1, 9) else 1, image.format or '')
    except UnidentifiedImageError:
        file.seek(0)
        raise BrokenImageError('is a TIFF that cannot be read, perhaps of floating-point numbers; save it with 8 or 16 '
                               'bits per channel' if file.read(4) in _TIFF else 'is not an image') from None
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise BrokenImageError(f'has a damaged header ({error})') from None


def _orientation(exif: bytes) -> int:
    """The orientation in EXIF data; 1 if there is none, or none that can be read."""
    found = Image.Exif()
    try:
        found.load(exif)
        value = found.get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error, TypeError, KeyError):
        return 1
    return value if value in range(1, 9) else 1
