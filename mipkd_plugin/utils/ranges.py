"""Types of options with their ranges, and the check of a constructor's arguments against them.

The ranges stand once, in the signature of a loss or an architecture. ``@checked`` on ``__init__`` refuses everything
outside, all mistakes at once. pydantic does the work, in strict mode: a string is never a number, ``true`` is not 1.
"""

from __future__ import annotations

import inspect
import operator
import reprlib
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, Any, ParamSpec, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, validate_call

from mipkd_plugin.utils.errors import MipkdError

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Weight of one term of several: 0 (the term is not computed) or more."""

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""A number from 0 to 1: a probability, a ratio, a momentum."""

ShareBelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
"""A number from 0 up to, but not, 1: what would leave nothing at 1."""


def _whole(value: Any) -> Any:
    """Integers of NumPy are whole numbers too; true is none, nor is NumPy's."""
    is_flag = type(value).__name__ in ('bool', 'bool_')
    return operator.index(value) if hasattr(value, '__index__') and not is_flag else value


WholeNumber = Annotated[int, BeforeValidator(_whole)]
"""A whole number."""

Count = Annotated[WholeNumber, Field(ge=1)]
"""A whole number of at least 1."""

CountOrZero = Annotated[WholeNumber, Field(ge=0)]
"""A whole number of at least 0."""


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError('must be odd')
    return size


OddSize = Annotated[WholeNumber, Field(ge=1, json_schema_extra={'not': {'multipleOf': 2}}), AfterValidator(_odd)]
"""Side of a kernel: odd, so that it has a center."""

_TAPS_FORM = 'must be a whole number of at least 1, or a list of [student module path, teacher module path]'


def check_taps(value: Any) -> Any:
    """Check the form of an option ``taps``.

    Returns:
        The value itself.

    Raises:
        ValueError: The value has neither form.
    """
    value = _whole(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if not isinstance(value, (list, tuple)):
        raise ValueError(_TAPS_FORM)
    if not value:
        raise ValueError(f'{_TAPS_FORM}; the list is empty')
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(path, str) for path in pair):
            raise ValueError(f'{_TAPS_FORM}; the entry {pair!r} is not such a pair')
    return value


_TAPS_SCHEMA = {'anyOf': [{'type': 'integer', 'minimum': 1}, {'type': 'array', 'minItems': 1, 'items': {
    'type': 'array', 'items': {'type': 'string'}, 'minItems': 2, 'maxItems': 2}}]}
Taps = Annotated[int | Sequence[Sequence[str]], BeforeValidator(check_taps), WithJsonSchema(_TAPS_SCHEMA)]
"""Number of evenly spaced taps, or a list of [student module path, teacher module path]."""

P = ParamSpec('P')
R = TypeVar('R')


class ArgumentError(MipkdError, TypeError):
    """A constructor refuses its arguments. A ValueError and a TypeError, as both kinds of mistakes come together.

    Attributes:
        mistakes: Name of an argument → what is wrong with it.
    """

    def __init__(self, function: str, mistakes: dict[str, str]) -> None:
        self.function = function
        self.mistakes = mistakes
        super().__init__(f'{function}: ' + '; '.join(f'{name} {what}' for name, what in mistakes.items()))


def checked(init: Callable[P, R]) -> Callable[P, R]:
    """Decorator of an ``__init__``: check the arguments against the annotations of its signature.

    The constructor then raises :class:`ArgumentError` for arguments that do not fit, and names all of them.

    >>> class Mixer:
    ...     @checked
    ...     def __init__(self, ratio: Share = 0.5, layers: Count = 1) -> None:
    ...         self.ratio, self.layers = ratio, layers
    >>> Mixer(ratio=2, layers='3')
    Traceback (most recent call last):
    mipkd_plugin.utils.ranges.ArgumentError: Mixer: ratio must be at most 1, got 2; \
layers must be a whole number, got '3'

    Returns:
        The checking ``__init__``, with the same signature.
    """
    validated = validate_call(config=ConfigDict(strict=True, arbitrary_types_allowed=True))(init)
    owner = init.__qualname__.rpartition('.')[0].rpartition('.')[2]
    names = list(inspect.signature(init).parameters)

    @wraps(init)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return validated(*args, **kwargs)
        except ValidationError as error:
            raise ArgumentError(owner, _mistakes(error, names)) from None

    return call


_WORDS: dict[str, str] = {
    'missing_argument': 'is missing', 'unexpected_keyword_argument': 'is not an option of this class',
    'unexpected_positional_argument': 'is one argument too many',
    'bool_type': 'must be true or false', 'int_type': 'must be a whole number', 'float_type': 'must be a number',
    'finite_number': 'must be a finite number', 'string_type': 'must be a string', 'sequence_str': 'must be a list',
    'is_instance_of': 'must be a list', 'literal_error': 'must be {expected}', 'value_error': '{error}',
    'greater_than_equal': 'must be at least {ge}', 'greater_than': 'must be above {gt}',
    'less_than_equal': 'must be at most {le}', 'less_than': 'must be below {lt}',
    'too_short': 'must have {min_length} or more entries, not {actual_length}',
    'too_long': 'must have {max_length} entries at most, not {actual_length}',
}
"""pydantic's kind of error → our words, with what pydantic knows of the case."""


_TYPES = {'int_type', 'float_type', 'bool_type', 'string_type', 'sequence_str', 'is_instance_of'}
"""The kinds that say that a value is of another type."""


def _mistakes(error: ValidationError, names: Sequence[str]) -> dict[str, str]:
    """Name of an argument → what is wrong with it, in the words of an option file."""
    found: dict[str, list[tuple[str, str]]] = {}
    for mistake in error.errors(include_url=False):
        first, *inner = mistake['loc']
        name = first if isinstance(first, str) else names[first] if first < len(names) else f'argument {first}'
        name += ''.join(f'[{index}]' for index in inner if isinstance(index, int))
        kind = mistake['type']
        known = {key: f'{value:g}' if isinstance(value, float) else value
                 for key, value in mistake.get('ctx', {}).items()}
        what = _WORDS[kind].format_map(known) if kind in _WORDS else mistake['msg']
        without = kind in ('missing_argument', 'unexpected_keyword_argument')
        got = '' if without else f', got {reprlib.repr(mistake["input"])}'
        found.setdefault(name, []).append((kind, what + got))
    return {name: ' or '.join(dict.fromkeys(_of_its_type(reasons))) for name, reasons in found.items()}


def _of_its_type(reasons: Sequence[tuple[str, str]]) -> list[str]:
    """Of several allowed types, those that the value is of, if it is of one: why it does not fit that one."""
    fitting = [what for kind, what in reasons if kind not in _TYPES]
    return fitting or [what for _, what in reasons]
