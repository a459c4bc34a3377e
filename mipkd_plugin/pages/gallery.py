"""Run all networks over all images; keep what the page shows."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mipkd_plugin.data.headers import BrokenImageError
from mipkd_plugin.inference.images import Picture, read_picture
from mipkd_plugin.inference.pictures import HR, LR, TEACHER, as_picture
from mipkd_plugin.inference.quality import images_in, pairs_of, read_pairs
from mipkd_plugin.pages.methods import Method, PageError
from mipkd_plugin.pages.scenes import Look, Scene, Values, look_at


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
        return len(images_in(self.lr) if self.hr is None and self.lr is not None
                   else pairs_of(self.hr or Path(), self.scale, self.lr))

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


def look_at_all(methods: Sequence[Method], images: Images, look: Look, most: int, exact_size: bool,
                on_image: Callable[[], object]) -> tuple[list[Scene], dict[str, Values]]:
    """Run all networks over all images.

    Args:
        methods: The networks.
        images: The images.
        look: How to look at them.
        most: Number of images to keep: those where the weights files differ most.
        exact_size: Whether an image smaller than a detail is refused; if not, the detail is cut to the image.
        on_image: Called behind each image.

    Returns:
        The images to show, sorted by name; and mean PSNR and SSIM of all images by label.

    Raises:
        PageError: An image cannot be used.
    """
    compared = [method.label for method in methods if method.label != TEACHER]
    kept: list[tuple[float, int, Scene]] = []
    values: dict[str, list[Values]] = {}
    for place, (name, picture, original) in enumerate(images.read()):
        height, width = (side * look.scale for side in picture.size)
        if exact_size and min(height, width) < look.crop_size:
            raise PageError(f'--crop-size {look.crop_size}: {name} has only {width}×{height} pixels; choose '
                            f'{min(height, width)} or less, or take it out of the folder')
        outputs = {method.label: method(picture) for method in methods}
        scene = look_at(name, as_picture(picture.color), outputs, compared,
                        None if original is None else as_picture(original), look)
        for shot in scene.shots:
            if shot.values is not None and shot.label not in (LR, HR):
                values.setdefault(shot.label, []).append(shot.values)
        heapq.heappush(kept, (scene.difference, -place, scene))
        if len(kept) > most:
            heapq.heappop(kept)
        on_image()
    scenes = [scene for _, _, scene in sorted(kept, key=lambda entry: -entry[1])]
    return scenes, {label: (statistics.fmean(v[0] for v in found), statistics.fmean(v[1] for v in found))
                    for label, found in values.items()}
