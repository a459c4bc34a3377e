"""What the choices of ``mipkd distill`` look at, and what they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

GIVEN = 'given'
"""The reason of what the user gave."""


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Attributes:
        scale: Scale factor.
        blocks: Number of blocks in the trunk of student and teacher; 0 if there is none to tap.
        width: Channels of the student's trunk.
        teacher_width: Channels of the teacher's trunk.
        layers: Number of convolutions of the student, those of single pixels left out.
        attends: Whether the student is a transformer.
        unit: What LR patches must be a multiple of, for both networks.
        smallest: Shortest LR side of the training images, in pixels.
        images: Number of training pairs, tiles counted.
        gpu: Whether there is a GPU.
        cores: CPU cores.
        free: Free memory in bytes.
        threads: What OMP_NUM_THREADS says; 0 if nothing.
        uncut: Why the student cannot start from a slice of the teacher; '' if it can.
    """

    scale: int
    blocks: tuple[int, int]
    width: int
    teacher_width: int
    layers: int
    attends: bool
    unit: int
    smallest: int
    images: int
    gpu: bool
    cores: int
    free: int
    threads: int = 0
    uncut: str = ''


@dataclass
class Settings:
    """The chosen values, and why.

    Attributes:
        values: Value by name, as the options of ``mipkd distill`` are named.
        reasons: Reason by name; ``given`` for what the user gave.
    """

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def lines(self) -> list[str]:
        """One line for each choice: name, value, reason."""
        texts = {name: _text(value) for name, value in self.values.items()}
        wide, wider = max(map(len, texts)), min(max(map(len, texts.values())), 24)
        return [f'  {name:{wide}}  {texts[name]:{wider}}  {self.reasons[name]}' for name in texts]


def _text(value: Any) -> str:
    return f'{value:,d}' if isinstance(value, int) else f'{value:g}' if isinstance(value, float) else str(value)
