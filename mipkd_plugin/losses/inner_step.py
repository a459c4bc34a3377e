"""Where a network's weights would be after one step of its optimizer, as a differentiable function of the gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mipkd_plugin.utils.errors import MipkdError


class MetaStepError(MipkdError):
    """The meta step does not work with this optimizer, student or batch.

    Attributes:
        what: What is wrong.
        remedy: What to do about it.
        options: Options of the loss, name → value, that would do it; may be empty.
    """

    def __init__(self, what: str, remedy: str = '', options: Mapping[str, Any] | None = None) -> None:
        self.what = what
        self.remedy = remedy
        self.options = dict(options or {})
        super().__init__(f'{what}; {remedy}' if remedy else what)


class HalfBatchError(MetaStepError):
    """A half batch has too few images for the student."""


InnerRule = Literal['adam', 'rmsprop', 'sgd']
_SGD_LEARNING_RATE = 0.1


def trainable(net: nn.Module) -> dict[str, Tensor]:
    """Name → parameter, for all parameters that train."""
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def gradients(loss: Tensor, weights: Mapping[str, Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradient of a scalar for each of the weights, zero where it does not depend on them."""
    return list(torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph, materialize_grads=True))


class InnerStep:
    """One step of the optimizer, without taking it (all our choice).

    ``adam``: θ' = θ − α m̂ / (√v̂ + ε), the step that torch's Adam would take with g, momentum included.
    ``rmsprop``: θ' = θ − α g / (√v̂ + ε), the bare gradient. It goes ten times as far along the newest gradient as Adam
    would, and overshoots with the noise of half a batch: L_rec of the other half was 5 % higher after this step,
    1 % after Adam's, in the small run. ``sgd``: θ' = θ − α g. Both moments are Adam's, bias-corrected, with g taken in;
    v̂ is detached. Weight decay, ``amsgrad`` and ``maximize`` are left out.

    Args:
        rule: One of the three.
        learning_rate: α; by default the one of the parameter's group in the optimizer, or 0.1 (``sgd``).
    """

    def __init__(self, rule: InnerRule = 'adam', learning_rate: float | None = None) -> None:
        self.rule = rule
        self.learning_rate = learning_rate

    def __call__(self, weights: Mapping[str, Tensor], gradient: Sequence[Tensor], optimizer: torch.optim.Optimizer,
                 momentum: bool = True) -> dict[str, Tensor]:
        """Move the weights; neither they nor the optimizer change.

        Args:
            weights: Name → parameter; the optimizer's own.
            gradient: One tensor for each of them; what it depends on gets a gradient through the result.
            optimizer: The optimizer that trains them.
            momentum: Whether past gradients move them too.

        Returns:
            Name → θ'.

        Raises:
            MetaStepError: The rule needs Adam or AdamW, and the optimizer is of another kind or lacks a parameter.
        """
        if self.rule == 'sgd':
            rate = _SGD_LEARNING_RATE if self.learning_rate is None else self.learning_rate
            return {name: weight - rate * g for (name, weight), g in zip(weights.items(), gradient)}
        groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
        if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
            raise MetaStepError(f'inner: {self.rule} needs a student trained by Adam, not by '
                                f'{type(optimizer).__name__}; write inner: sgd')
        unknown = next((name for name, weight in weights.items() if id(weight) not in groups), None)
        if unknown is not None:
            raise MetaStepError(f'the optimizer does not train {unknown} of the student; add it to the optimizer, or '
                                'freeze it with requires_grad_(False)')
        return {name: weight - self._adam(g, groups[id(weight)], optimizer.state.get(weight), momentum)
                for (name, weight), g in zip(weights.items(), gradient)}

    def _adam(self, gradient: Tensor, group: Mapping[str, Any], state: Mapping[str, Tensor] | None,
              momentum: bool) -> Tensor:
        """Compute what is subtracted from a weight."""
        first, second = map(float, group['betas'])
        state = state or {'step': torch.zeros(()), 'exp_avg': torch.zeros_like(gradient),
                          'exp_avg_sq': torch.zeros_like(gradient)}
        time = float(state['step']) + 1
        square = second * state['exp_avg_sq'] + (1 - second) * gradient.detach().square()
        root = (square / (1 - math.pow(second, time))).sqrt() + float(group['eps'])
        rate = float(group['lr'] if self.learning_rate is None else self.learning_rate)
        if self.rule == 'rmsprop':
            return rate * gradient / root
        newest = (1 - first) * gradient
        return rate * (newest + first * state['exp_avg'] if momentum else newest) / (1 - math.pow(first, time)) / root
