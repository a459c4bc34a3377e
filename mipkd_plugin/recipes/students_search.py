"""Which width and depth a student of a given work gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mipkd_plugin.recipes.students_families import NEAR, Family, Size
from mipkd_plugin.recipes.students_work import Counter
from mipkd_plugin.utils.errors import UsageError

_WORK_COUNTS, _SHAPE_COUNTS = math.log(1.08), math.log(1.5)
_WASTE_COUNTS = math.log(1.07)
_GROUPS_COUNT = 0.3  # whether groups or blocks in them become fewer counts less
_MOST = {1: (256, ), 2: (256, 32), 3: (256, 10, 20)}


class Search:
    """Sizes of an architecture by their work.

    The rule: width and depth each bring half of the saving, so a student of a quarter has 0.7 of the width (work goes
    with its square) and half of the blocks; in transformers depth brings two thirds. That is wider and shallower than
    the teacher's shape on a smaller scale, since wide layers do more work in the same time, and since a shallow
    student was the better one at equal work (docs/students.md). 8 % off in work counts as much as a ratio of width to
    depth that is off by half.

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
            shape: How much wider than deep, as :meth:`_shape` counts it; None follows the rule of the family.

        Returns:
            The size.

        Raises:
            OutOfReachError: No size comes close.
        """
        works = self.works()
        shape = self._rule(work / self._whole) if shape is None else shape
        near = [size for size, its in works.items() if 1 / NEAR < its / work < NEAR]
        if not near:
            raise OutOfReachError(self.family, min(works.values()), max(works.values()))
        return min(near, key=lambda size: self._penalty(size, works[size] / work, shape))

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

    def _rule(self, fraction: float) -> float:
        """The shape, as :meth:`_shape` counts it, for a fraction of the work of the teacher."""
        by_depth = self.family.by_depth
        return math.log(fraction) * ((1 - by_depth) / 2 - by_depth)

    def _shape(self, size: Size) -> float:
        """Width divided by depth, both relative to the teacher, as a logarithm: 0 is the teacher's shape."""
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
