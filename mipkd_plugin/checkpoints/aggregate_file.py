"""The file of an aggregator: its weights as BasicSR saves them, and a text (JSON) that says whose images it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.safetensors_files import read_weights
from mipkd_plugin.utils.weight_files import SAVE, WeightFileError

KEY = 'aggregate'
"""Key of the text in ``net_g_<iter>.pth``, beside ``params`` and ``params_ema``."""

TRAINED = 'give a net_g_*.pth of a run with model_type: AggregateModel, as options/train_MTKD_aggregate_*.yml'
"""What to do about a file that holds no aggregator."""

_VERSION = 1


class AggregateError(MipkdError):
    """A file is no file of an aggregator.

    Attributes:
        what: What is wrong with it, as the rest of a sentence that starts with its name.
        remedy: What to do.
    """

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f'{path} {what}; {remedy}')


@dataclass(frozen=True)
class Member:
    """A teacher of an aggregator.

    Attributes:
        name: Its name in the option file.
        network: ``type`` and arguments of its network.
        weights: Its file, as the option file named it.
        param_key: Key of the weights in that file; None if the file itself is the state dict.
        sha256: Hash of its weights.
        output: Which of its outputs is the image, if it returns several.
    """

    name: str
    network: dict[str, Any]
    weights: str
    param_key: str | None
    sha256: str
    output: int | str | None = None


@dataclass(frozen=True)
class Aggregate:
    """What the text of a file says.

    Attributes:
        aggregator: ``type`` and arguments of the aggregator.
        teachers: The teachers, in the order of their images.
    """

    aggregator: dict[str, Any]
    teachers: tuple[Member, ...]

    @property
    def network(self) -> dict[str, Any]:
        """The aggregator with its teachers as one network, as an option file would describe it."""
        return {'type': 'AggregatedTeachers', 'aggregator': self.aggregator,
                'teachers': [member.network for member in self.teachers]}

    def as_text(self) -> str:
        """The text for the file."""
        return json.dumps({'version': _VERSION, **asdict(self)})


def aggregate_in(content: Any) -> Aggregate | None:
    """What the content of a file says of its teachers; None if it says nothing, or nothing that can be read."""
    text = content.get(KEY) if isinstance(content, Mapping) else None
    try:
        read = json.loads(text) if isinstance(text, str) else None
        if not isinstance(read, dict) or read.get('version') != _VERSION:
            return None
        members = tuple(Member(**member) for member in read['teachers'])
        found = Aggregate(dict(read['aggregator']), members)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    texts = [text for member in members for text in (member.name, member.weights, member.sha256)]
    networks = [found.aggregator, *(member.network for member in members)]
    sound = members and all(isinstance(text, str) for text in texts) and all(
        isinstance(network, dict) and isinstance(network.get('type'), str) for network in networks)
    return found if sound else None


def read_aggregate(path: Path) -> tuple[Aggregate, dict[str, Any]]:
    """Read a file of an aggregator, without running code from it.

    Args:
        path: ``…/models/net_g_<iter>.pth`` of a run of AggregateModel.

    Returns:
        What it says of the teachers, and its whole content.

    Raises:
        AggregateError: It cannot be read, or is no such file.
    """
    if not path.is_file():
        raise AggregateError(path, 'is no file' if path.exists() else 'does not exist', f'fix the path; {TRAINED}')
    try:
        content = read_weights(path)
    except WeightFileError as error:
        remedy = TRAINED if SAVE in error.remedy else error.remedy  # weights alone would be no aggregator
        raise AggregateError(path, error.what, remedy) from error
    found = aggregate_in(content)
    if found is None:
        has_text = isinstance(content, Mapping) and KEY in content
        raise AggregateError(path, 'holds a text about its teachers that cannot be read' if has_text else
                             'holds no aggregator: it does not say whose images it takes', TRAINED)
    return found, content
