"""How a run saves and resumes: decided by the options, carried out around BasicSR's training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Choice:
    """What a run resumes from, and how.

    Attributes:
        state: The training state; None starts a new run.
        notes: What to tell the user, for the log.
        keep: Entries of ``train`` that the run goes on with, whatever the option file says.
        renew: Whether optimizers and schedulers take the values of the option file instead of the saved ones.
    """

    state: Path | None = None
    notes: tuple[str, ...] = ()
    keep: Mapping[str, Any] = field(default_factory=dict)
    renew: bool = False


@dataclass(frozen=True)
class SavePlan:
    """How a run saves and resumes.

    Attributes:
        choose: What to resume from; called with the options as BasicSR has parsed them.
        record: Plain values to keep in each training state.
        keep_last: How many checkpoints to keep; None keeps all.
    """

    choose: Callable[[Mapping[str, Any]], Choice]
    record: Mapping[str, Any] = field(default_factory=dict)
    keep_last: int | None = None
