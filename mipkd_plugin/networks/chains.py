"""The trunk of a network, found in a traced run: the chain of calls that does the work step by step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from mipkd_plugin.networks.trace import Call, Trace, shapes_in

_SPAN = 2 / 3
_LEAST_SHARE = 0.1
_LEAST_SCORE = 1.4


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
    def span(self) -> int:
        """Operations from the begin of the first call to the end of the last."""
        return sum(self.steps)

    @property
    def share(self) -> float:
        """Share of these operations that are done in the calls themselves."""
        return sum(call.own_work for call in self.calls) / self.span if self.span else 0.0

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
    coarse = [call for call in candidates if call.layout is not None and call.layout.height <= trace.lq[2]]
    for calls in (coarse, candidates):
        strict = [chain for group in _groups(calls).values() for chain in _chains(trace, group)]
        loose = [Chain(chain.calls, chain.steps, trace.work, 'the signal also goes around its blocks')
                 for chain in (_chain(trace, own) for own in _in_order(trace, calls))]
        for chains in (strict, loose):
            best = _best([chain for chain in chains if len(chain.calls) > 1])
            if best is not None and best.score >= _LEAST_SCORE:
                return best
        if strict:
            return max(strict, key=_as_one_block)
    return None


def tappable(trace: Trace) -> list[Call]:
    """Calls whose output is a feature on the way to the image, unchanged until the end."""
    if trace.output is None:
        return []
    alive, counts = trace.reached(trace.output), Counter(call.path for call in trace.calls)
    return [call for call in trace.calls if call.path and counts[call.path] == 1 and call.layout is not None
            and call.value is not None and call.value in alive and call.value not in trace.overwritten
            and call.value >= call.begin and call.value != trace.output]


def _groups(calls: Iterable[Call]) -> dict[tuple[object, ...], list[Call]]:
    """Calls by class, channels and grid."""
    groups: dict[tuple[object, ...], list[Call]] = defaultdict(list)
    for call in calls:
        groups[type(call.module), call.layout, _channels(call)].append(call)
    return groups


def _channels(call: Call) -> int:
    assert call.layout is not None
    return shapes_in(call.output)[0].shape[1 if call.layout.kind in ('map', 'rows') else -1]


def _chains(trace: Trace, group: Sequence[Call]) -> list[Chain]:
    """All longest chains of a group: each call comes from the nearest one of the group that dominates it."""
    by_value = {call.value: call for call in reversed(group)}  # of several calls that return one value, the outermost
    before = {value: next((by_value[d] for d in trace.dominators(value) if d in by_value), None)
              for value in by_value if value is not None}
    inner = {call.value for call in before.values() if call is not None}
    chains = []
    for value in before:
        if value not in inner:
            calls: list[Call] = []
            call: Call | None = by_value[value]
            while call is not None:
                calls.append(call)
                call = before[call.value] if call.value is not None else None
            chains.append(_chain(trace, calls[::-1]))
    return chains


def _in_order(trace: Trace, calls: Iterable[Call]) -> list[list[Call]]:
    """Calls of a group in their order, as far as each follows from the one before, also if not from it alone."""
    found = []
    for group in _groups(calls).values():
        chain: list[Call] = []
        for call in sorted(group, key=lambda call: call.end):
            if not chain or call.begin >= chain[-1].end and trace.depends(call.value or 0, chain[-1].value or 0):
                chain.append(call)
        found.append(chain)
    return found


def _chain(trace: Trace, calls: Sequence[Call]) -> Chain:
    ends = [call.work[1] for call in calls]
    steps = tuple(end - begin for begin, end in zip([calls[0].work[0], *ends], ends))
    return Chain(tuple(calls), steps, max(trace.work, 1))


def _as_one_block(chain: Chain) -> tuple[bool, int]:
    """How good a chain's last call would be as the only tap: a block of several layers, with much work."""
    module = chain.calls[-1].module
    return any(module.children()) and not isinstance(module, nn.Sequential), chain.span


def _best(chains: Sequence[Chain]) -> Chain | None:
    if not chains:
        return None
    solid = [chain for chain in chains if chain.share >= 0.5] or chains
    longest = max(chain.span for chain in solid)
    wide = [chain for chain in chains if chain.span >= _SPAN * longest]
    blocks = [chain for chain in wide if not any(_is_finer(chain, other) for other in wide)]
    return max(blocks, key=lambda chain: (round(chain.score, 6), -chain.calls[0].path.count('.')))


def _is_finer(chain: Chain, other: Chain) -> bool:
    """Whether another chain of three blocks or more ends each of its steps where this one ends one of its own."""
    values = {call.value for call in chain.calls}
    return (chain is not other and len(other.calls) >= 3 and other.share >= 0.5 and len(other.calls) < len(chain.calls)
            and all(call.value in values for call in other.calls))
