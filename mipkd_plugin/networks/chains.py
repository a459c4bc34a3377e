"""The trunk of a network, found in a traced run: the chain of calls that does the work step by step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from mipkd_plugin.networks.trace import Call, Trace, shapes_in

_SPAN = 2 / 3
_LEAST_SHARE = 0.1
_LEAST_SCORE = 1.4
_MUCH_LESS = 0.5
_MOST = 0.8
_ONE_LAYER = 'it is a single layer, as no blocks in a row were found that run once each'


@dataclass(frozen=True)
class Chain:
    """Calls in a row, each of which gets all of the signal from the one before.

    Attributes:
        calls: The calls, shallow to deep.
        steps: For each call the operations from the end of the call before (of the first: from its own begin) to its
            own end.
        total: Operations of the whole network.
        doubt: Why it may not be the trunk, or ''.
    """

    calls: tuple[Call, ...]
    steps: tuple[int, ...]
    total: int = 1
    doubt: str = ''

    @property
    def paths(self) -> list[str]:
        """Module paths."""
        return [call.path for call in self.calls]

    @property
    def name(self) -> str:
        """What all paths begin with, or the first of them."""
        parts = [path.split('.') for path in self.paths]
        same = [names[0] for names in zip(*parts) if len(set(names)) == 1]
        return '.'.join(same) if same else self.paths[0]

    @property
    def channels(self) -> int:
        """Width of the signal between the calls; 0 if the first one returns no feature."""
        return _channels(self.calls[0]) if self.calls[0].layout is not None else 0

    @property
    def span(self) -> int:
        """Operations from the begin of the first call to the end of the last."""
        return sum(self.steps)

    @property
    def share(self) -> float:
        """Share of these operations that are done in the calls themselves."""
        return sum(call.own_work for call in self.calls) / self.span if self.span else 0.0

    @property
    def depth(self) -> float:
        """How deep its modules lie in others, on average."""
        return sum(path.count('.') for path in self.paths) / len(self.calls)

    @property
    def evenness(self) -> float:
        """How many steps of equal work it is worth."""
        return self.span**2 / sum(step**2 for step in self.steps) if self.span else 0.0

    @property
    def score(self) -> float:
        """How well it divides the work."""
        return self.evenness * max(self.share, _LEAST_SHARE)

    def spaced(self, taps: int) -> list[str]:
        """Choose calls that divide the work evenly; the last one is the last (our choice).

        Args:
            taps: How many, at most as many as there are.

        Returns:
            Their module paths.
        """
        ends = [sum(self.steps[:index + 1]) for index in range(len(self.steps))]
        chosen: list[int] = []
        for number in range(1, taps + 1):
            first, last = (chosen[-1] + 1 if chosen else 0), len(ends) - (taps - number) - 1
            aim = self.span * number / taps
            chosen.append(max(range(first, last + 1), key=lambda index: (-abs(ends[index] - aim), index)))
        return [self.calls[index].path for index in chosen]


def find_chain(trace: Trace) -> Chain | None:
    """Find the trunk (our choice).

    Calls of one class and one shape whose outputs come one from the other: all of the input passes through the first
    on its way to the second (skips around the whole chain aside). Among the chains that span at least two thirds of the
    longest span, the one whose calls divide the work into the most and the most equal steps. Features finer than the
    input are looked at last: they belong to the upsampling.

    Args:
        trace: A traced run.

    Returns:
        The chain; None if the network has none.
    """
    candidates = tappable(trace)
    coarse = [call for call in candidates if call.layout is not None and call.layout.height < 2 * trace.lq[2]]
    for calls in (coarse, candidates):
        strict = [chain for group in _groups(calls).values() for chain in _chains(trace, group)]
        loose = [_chain(trace, own, 'the signal also goes around its blocks')
                 for group in (*_groups(calls).values(), *_mixed(calls)) for own in [_in_order(trace, group)]]
        best, around = (_best(trace, chains) for chains in (strict, loose))
        if around is not None and (best is None or _is_but_a_part(best, around)):
            best = around
        if best is not None:
            return best
        if strict:
            only = max(strict, key=_as_one_block)
            return replace(only, doubt=_ONE_LAYER) if len(only.calls) < 3 and not _as_one_block(only)[0] else only
    return None


def tappable(trace: Trace) -> list[Call]:
    """Calls whose output is a feature on the way to the image, unchanged until the end.

    A network with an attribute ``trunk_in`` says so in which of its modules they are.

    Returns:
        The calls, in the order of their start.
    """
    if trace.output is None:
        return []
    inside = f'{trunk_in}.' if (trunk_in := getattr(trace.net, 'trunk_in', '')) else ''
    alive, counts = trace.reached(trace.output), Counter(call.path for call in trace.calls)
    return [call for call in trace.calls if call.path and counts[call.path] == 1 and call.layout is not None
            and call.value is not None and call.value in alive and call.value not in trace.overwritten
            and not call.passes and call.value != trace.output and call.path.startswith(inside)]


def _groups(calls: Iterable[Call]) -> dict[tuple[object, ...], list[Call]]:
    """Calls by class, channels and grid."""
    groups: dict[tuple[object, ...], list[Call]] = defaultdict(list)
    for call in calls:
        groups[type(call.module), call.layout, _channels(call)].append(call)
    return groups


def _channels(call: Call) -> int:
    first = call.layout is not None and call.layout.kind in ('map', 'rows')
    return shapes_in(call.output)[0].shape[1 if first else -1]


def _mixed(calls: Iterable[Call]) -> list[list[Call]]:
    """Blocks of one class and grid but of several widths; or of several classes that one module calls in turn."""
    widths: dict[tuple[object, ...], list[Call]] = defaultdict(list)
    classes: dict[tuple[object, ...], list[Call]] = defaultdict(list)
    for call in calls:
        if any(call.module.children()):
            widths[type(call.module), call.layout].append(call)
            classes[call.parent, call.layout, _channels(call)].append(call)
    return [*(group for group in widths.values() if len({_channels(call) for call in group}) > 1),
            *(group for group in classes.values() if len({type(call.module) for call in group}) > 1)]


def _chains(trace: Trace, group: Sequence[Call]) -> list[Chain]:
    """All longest chains of a group: each call comes from the nearest one of the group that dominates it."""
    by_value: dict[int, list[Call]] = defaultdict(list)
    for call in group:
        if call.value is not None:
            by_value[call.value].append(call)
    before = {value: next((d for d in trace.dominators(value) if d in by_value), None) for value in by_value}
    inner = set(before.values())
    chains = []
    for value in before:
        if value not in inner:
            values: list[int] = []
            at: int | None = value
            while at is not None:
                values.append(at)
                at = before[at]
            chains.append(_chain(trace, _apart([by_value[value] for value in reversed(values)])))
    return chains


def _apart(ends: Iterable[Sequence[Call]]) -> list[Call]:
    """For each value the outermost of the calls that return it, but for those that contain the call before."""
    chain: list[Call] = []
    for calls in ends:
        chain += [call for call in calls if not chain or call.begin >= chain[-1].end][:1]
    return chain


def _in_order(trace: Trace, calls: Iterable[Call]) -> list[Call]:
    """Calls in their order, as far as each follows from the one before, also if not from it alone."""
    chain: list[Call] = []
    for call in sorted(calls, key=lambda call: call.end):
        if not chain or call.begin >= chain[-1].end and trace.depends(call.value or 0, chain[-1].value or 0):
            chain.append(call)
    return chain


def _chain(trace: Trace, calls: Sequence[Call], doubt: str = '') -> Chain:
    ends = [call.work[1] for call in calls]
    steps = tuple(end - begin for begin, end in zip([calls[0].work[0], *ends], ends))
    return Chain(tuple(calls), steps, max(trace.work, 1), doubt)


def _is_but_a_part(chain: Chain, other: Chain) -> bool:
    """Whether another chain spans far more, or has all blocks of this one and others between them."""
    values, theirs = ({call.value for call in found.calls} for found in (chain, other))
    return chain.span < _MUCH_LESS * other.span or values < theirs and chain.score < 2 / 3 * other.score


def _as_one_block(chain: Chain) -> tuple[bool, bool, int]:
    """How good a chain is where none divides the work: its last call is a block of several layers, with much work.

    Of single layers those come first that divide the work between them evenly, as activations that overwrite the
    outputs of the convolutions.

    Returns:
        Larger for a better chain.
    """
    module, several = chain.calls[-1].module, len(chain.calls) > 2 and chain.evenness >= _LEAST_SCORE
    return any(module.children()) and not isinstance(module, nn.Sequential), several, chain.span


def _best(trace: Trace, chains: Sequence[Chain]) -> Chain | None:
    chains = [chain for chain in chains if len(chain.calls) > 1]
    solid = [chain for chain in chains if chain.share >= 0.5] or chains
    longest = max((chain.span for chain in solid), default=0)
    wide = [chain for chain in chains if chain.span >= _SPAN * longest]
    blocks = [chain for chain in wide if not any(_is_finer(trace, chain, other) for other in wide)]
    best = max(blocks, key=lambda chain: (round(chain.score, 6), -chain.depth), default=None)
    return best if best is not None and best.score >= _LEAST_SCORE else None


def _is_finer(trace: Trace, chain: Chain, other: Chain) -> bool:
    """Whether another chain of three blocks or more holds the blocks of this one, or ends where some of these end."""
    if len(other.calls) < 3 or other.share < max(0.5, 0.9 * chain.share) or len(other.calls) > len(chain.calls):
        return False
    values, outer = {call.value for call in chain.calls}, {id(call) for call in other.calls}
    ends = len(other.calls) < len(chain.calls) and all(call.value in values for call in other.calls)
    inside = sum(any(id(trace.calls[number]) in outer for number in trace.ancestors(call.parent))
                 for call in chain.calls)
    return ends or inside >= _MOST * len(chain.calls)
