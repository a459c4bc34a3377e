"""Where a network's weights would be after one step of its optimizer, as a differentiable function of the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

RULES = ('adam', 'sgd')
_SGD_LEARNING_RATE = 0.1


def trainable(net: nn.Module) -> dict[str, Tensor]:
    """Name → parameter of all parameters that train."""
    return {name: p for name, p in net.named_parameters() if p.requires_grad}


def gradients(loss: Tensor, weights: Mapping[str, Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradient of a scalar for each of the weights, zero where it does not depend on them."""
    return list(torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph, materialize_grads=True))


class InnerStep:
    """One step of the optimizer, without taking it: θ' = θ − α g / (√v̂ + ε).

    v̂ is Adam's current running mean of g², bias-corrected and detached; where Adam has not stepped yet it is g², as
    in its first step. Momentum is left out: it depends on the past alone. All our choice.

    Args:
        rule: ``adam``, or ``sgd``: θ' = θ − α g.
        learning_rate: α; by default that of the parameter's group in the optimizer (``adam``) or 0.1 (``sgd``).

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, rule: str = 'adam', learning_rate: float | None = None) -> None:
        if rule not in RULES:
            raise ValueError(f'inner must be one of {", ".join(RULES)}, got {rule!r}')
        number = learning_rate
        if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float)) or number <= 0):
            raise ValueError(f'inner_lr must be a number above 0, got {learning_rate!r}')
        self.rule = rule
        self.learning_rate = learning_rate

    def __call__(self, weights: Mapping[str, Tensor], gradient: Sequence[Tensor],
                 optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Move the weights; neither they nor the optimizer change.

        Args:
            weights: Name → parameter, as the optimizer has them.
            gradient: One tensor for each of them; what it depends on gets a gradient through the result.
            optimizer: The optimizer that trains them.

        Returns:
            Name → θ'.

        Raises:
            ValueError: ``adam`` is asked for, and the optimizer is of another kind or does not know a parameter.
        """
        groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
        return {name: weight - self._rate(name, weight, g, groups, optimizer) * g
                for (name, weight), g in zip(weights.items(), gradient)}

    def _rate(self, name: str, weight: Tensor, gradient: Tensor, groups: Mapping[int, dict[str, object]],
              optimizer: torch.optim.Optimizer) -> Tensor | float:
        if self.rule == 'sgd':
            return _SGD_LEARNING_RATE if self.learning_rate is None else self.learning_rate
        group = groups.get(id(weight), {})
        if 'betas' not in group or 'eps' not in group:
            raise ValueError(f'inner: adam needs {name} to be trained by Adam, not by {type(optimizer).__name__}; '
                             'write inner: sgd, or give the optimizer that trains the student')
        state = optimizer.state.get(weight, {})  # type: ignore[call-overload]
        if 'exp_avg_sq' in state:
            root = (state['exp_avg_sq'] / (1 - group['betas'][1]**float(state['step']))).sqrt()  # type: ignore[index]
        else:
            root = gradient.detach().abs()
        rate = group['lr'] if self.learning_rate is None else self.learning_rate
        return rate / (root + group['eps'])  # type: ignore[operator]
