"""Which width and depth a student of a given work gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mipkd_plugin.recipes.students_families import Family, Size
from mipkd_plugin.recipes.students_work import Counter
from mipkd_plugin.utils.errors import UsageError

NEAR = 1.3
"""A student has the work asked for up to this factor; what is farther off is not offered."""
_WORK_COUNTS, _SHAPE_COUNTS = math.log(1.08), math.log(1.5)
_WASTE_COUNTS = math.log(1.2)
_GROUPS_COUNT = 0.3  # whether groups or blocks in them become fewer counts less
_MOST = {1: (256, ), 2: (256, 32), 3: (256, 10, 20)}


class Search:
    """Sizes of an architecture by their work.

    The rule: width and depth each bring half of the saving, so a student of a quarter has 0.7 of the width (work goes
    with its square) and half of the blocks. That is wider and shallower than the teacher's shape on a smaller scale,
    since wide layers do more work in the same time (docs/students.md), and since shallow students keep more of
    their teacher (docs/results.md). 8 % off in work counts as much as a ratio of width to depth that is off by half.

    Args:
        family: The architecture.
        teacher: Type and arguments of the teacher.
        scale: Scale factor.
        channels: Channels of images.
    """

    def __init__(self, family: Family, teacher: Mapping[str, Any], scale: int, channels: int) -> None:
        same = teacher.get('type') == family.name
        self.family, self.base = family, family.base(teacher, scale, channels)
        self.like = family.size_of(teacher) if same else family.size
        self.most = self.like if same else tuple(
            max(pair) for pair in zip(family.size, _MOST[len(family.keys)]))
        if family.grows:
            self.most = (*self.most[:2], self.like[2] * self.most[0] // self.like[0])
        self.scale, self.channels = scale, channels
        self._known: dict[Size, float] = {}
        self._whole = 0.

    def sizes(self) -> list[Size]:
        """All sizes to choose from."""
        return [self.family.completed((width, *depths), self.like)
                for width in self.family.widths(self.base, self.most[0]) for depths in self.family.depths(self.most)]

    def nearest(self, work: float, shape: float | None = None) -> Size:
        """The size for a given work.

        Args:
            work: Multiply-accumulates per pixel of the low-resolution image.
            shape: Logarithm of the ratio of width to depth, over that of the teacher; by the rule if it is None.

        Returns:
            The size.

        Raises:
            OutOfReachError: No size comes close.
        """
        works = self.works()
        shape = math.log(self._whole / work) / 4 if shape is None else shape
        best = min(works, key=lambda size: self._penalty(size, works[size] / work, shape))
        if not 1 / NEAR < works[best] / work < NEAR:
            raise OutOfReachError(self.family, min(works.values()), max(works.values()))
        return best

    def around(self, size: Size, work: float, most: float) -> list[Size]:
        """Sizes around one: larger and smaller by half, and of the same work but wider and deeper.

        Args:
            size: The size.
            work: Its work.
            most: Work of the teacher.

        Returns:
            Those that exist.
        """
        found: dict[Size, None] = {}
        for factor, turn in ((1.5, 0.), (1, math.log(2)), (1, -math.log(2)), (1 / 1.5, 0.)):
            with suppress(OutOfReachError):
                if work * factor < most:
                    found[self.nearest(work * factor, self._shape(size) + turn if factor == 1 else None)] = None
        found.pop(size, None)
        return list(found)

    def works(self) -> dict[Size, float]:
        """Work of all sizes to choose from, per pixel of the low-resolution image."""
        if not self._known:
            sizes = self.sizes()
            counter = Counter(self.family, self.base, self.scale, self.channels, [size[0] for size in sizes])
            self._known = {size: counter.work(size) for size in sizes}
            self._whole = counter.work(self.like)
        return self._known

    def _shape(self, size: Size) -> float:
        depth = self.family.depth(size) / self.family.depth(self.like)
        return math.log(size[0] / self.like[0] / depth) if len(size) > 1 else 0.

    def _penalty(self, size: Size, work: float, shape: float) -> float:
        groups = 0. if len(size) < 3 or self.family.grows else _GROUPS_COUNT * math.log(
            size[1] / self.like[1] * self.like[2] / size[2])
        return ((math.log(work) / _WORK_COUNTS)**2 + ((self._shape(size) - shape) / _SHAPE_COUNTS)**2
                + (groups / _SHAPE_COUNTS)**2 + (math.log(self.family.waste(size)) / _WASTE_COUNTS)**2)


class OutOfReachError(UsageError):
    """An architecture has no size of the work asked for.

    Attributes:
        least: The least work of its sizes, per pixel.
        most: The most.
    """

    def __init__(self, family: Family, least: float, most: float) -> None:
        self.family, self.least, self.most = family, least, most
        super().__init__(f'{family.name} has no size of this work')
