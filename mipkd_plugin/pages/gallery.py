"""Run all networks over all images; keep what the page shows."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mipkd_plugin.data.headers import BrokenImageError, header_of_file
from mipkd_plugin.inference.images import Picture, read_picture
from mipkd_plugin.inference.pictures import as_picture
from mipkd_plugin.inference.quality import check_pairs, images_in, pairs_of, read_pairs
from mipkd_plugin.inference.tiles import MemoryLackError
from mipkd_plugin.pages.means import Means
from mipkd_plugin.pages.methods import Method, PageError
from mipkd_plugin.pages.scenes import Look, Scene, look_at
from mipkd_plugin.utils.words import counted, some

_MOST_NAMED = 20


@dataclass(frozen=True)
class Images:
    """The images of the page.

    Attributes:
        hr: Folder of originals; None if there are none.
        lr: Folder of LR images; None to make them from the originals.
        scale: Scale factor.
    """

    hr: Path | None
    lr: Path | None
    scale: int

    def __len__(self) -> int:
        return len(self.files())

    def files(self) -> list[tuple[Path | None, Path | None]]:
        """The original and the LR image of each pair; None where there is none."""
        if self.hr is not None:
            return list(pairs_of(self.hr, self.scale, self.lr))
        return [(None, path) for path in images_in(self.lr or Path())]

    def check(self, least: int) -> None:
        """Look at the headers of all images, before the work.

        Args:
            least: Side in enlarged pixels that every image must have.

        Raises:
            PageError: An image is none, or is too small; all of them are named.
            QualityError: An image does not fit its partner, or is too small for PSNR and SSIM.
        """
        problems, small = [], dict[Path, int]()
        for hr, lr in self.files():
            for path, factor in ((hr, 1), (lr, self.scale)):
                if path is None:
                    continue
                try:
                    header = header_of_file(path, every_chunk=False)
                except (BrokenImageError, OSError) as error:
                    problems.append(f'{path}: {getattr(error, "strerror", None) or error}; restore it, or take it out '
                                    'of the folder')
                    continue
                side = min(header.height, header.width) * factor
                if side < least:
                    small[path] = side
        if small:
            problems.append(f'--crop-size {least}: {counted(len(small), "image")} {"is" if len(small) == 1 else "are"} '
                            f'smaller: {some(small)}; choose {min(small.values())} or less')
        if problems:
            more = [f'… and {len(problems) - _MOST_NAMED} more'] if len(problems) > _MOST_NAMED else []
            raise PageError('\n'.join(problems[:_MOST_NAMED] + more))
        if self.hr is not None:
            check_pairs(self.hr, self.scale, self.lr)

    def read(self) -> Iterator[tuple[str, Picture, torch.Tensor | None]]:
        """Read all images, sorted by name.

        Yields:
            Name, LR image, and original (1, 3, H, W) if there is one.

        Raises:
            PageError: An image cannot be read.
        """
        if self.hr is not None:
            for pair in read_pairs(self.hr, self.scale, self.lr):
                yield pair.name, Picture(pair.lr), pair.hr
        elif self.lr is not None:
            for path in images_in(self.lr):
                try:
                    yield path.name, Picture(read_picture(path).color.expand(-1, 3, -1, -1)), None
                except (BrokenImageError, OSError) as error:
                    raise PageError(f'{path}: {error}; restore it, or take it out of the folder') from error


def look_at_all(methods: Sequence[Method], images: Images, look: Look, most: int,
                on_image: Callable[[], object]) -> tuple[list[Scene], Means]:
    """Run all networks over all images.

    Args:
        methods: The networks.
        images: The images.
        look: How to look at them.
        most: Number of images to keep: those where the weights files differ most.
        on_image: Called behind each image.

    Returns:
        The images to show, sorted by name; and the means over all images.

    Raises:
        PageError: An image cannot be used.
    """
    compared = [method.label for method in methods if not method.teaches]
    kept: list[tuple[float, int, Scene]] = []
    means = Means()
    for place, (name, picture, original) in enumerate(images.read()):
        try:
            outputs = {method.label: method(picture) for method in methods}
        except MemoryLackError as error:
            raise PageError(f'{name} {error}; run the networks in tiles, which take less: --tile 128') from error
        scene = look_at(name, as_picture(picture.color), outputs, compared,
                        None if original is None else as_picture(original), look)
        means.add(scene)
        heapq.heappush(kept, (scene.difference, -place, scene))
        if len(kept) > most:
            heapq.heappop(kept)
        on_image()
    return [scene for _, _, scene in sorted(kept, key=lambda entry: -entry[1])], means
