"""One loss bound to one tiny pair of networks, and steps taken with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.binding import bind
from mipkd_plugin.losses.trial_step import ITERATIONS, trial_problem
from mipkd_plugin.networks.step import Step
from mipkd_plugin.testing.tiny import batch, make_pair, scale_of

Terms = dict[str, Tensor]


class Bench:
    """A loss, built and bound.

    Args:
        cls: Class of the loss.
        options: Its options.
        arch: Architecture of student and teacher, whose weights are always the same.
        draw: Which initial weights the loss draws.
    """

    def __init__(self, cls: type[DistillationLoss], options: Mapping[str, Any], arch: str, draw: int = 7) -> None:
        self.cls, self.options, self.arch = cls, options, arch
        self.student, self.teacher = make_pair(arch)
        self.teacher_before = copy.deepcopy(self.teacher.state_dict())
        torch.manual_seed(draw)
        self.loss = cls(**options)
        self.loss.seed(3)
        self.nets = bind([self.loss], self.student, self.teacher, batch(arch)[0][:1])
        self.samples = max(2, self.loss.min_batch_size)

    def trial(self) -> str:
        """What the trial step finds wrong, or ''."""
        return trial_problem(self.loss, self.nets, (3, 8, 8), scale_of(self.arch))

    def step(self, seed: int = 0, samples: int | None = None) -> Step:
        """A step on random images. Each seed is at another iteration: some terms begin late."""
        return self.nets.step(*batch(self.arch, seed=seed, samples=samples or self.samples),
                              iteration=ITERATIONS[seed % len(ITERATIONS)])

    def terms(self, seed: int = 0, samples: int | None = None) -> Terms:
        """The terms of such a step."""
        return self.loss(self.step(seed, samples))

    def prepare(self, iteration: int) -> Any:
        """What ``prepare`` returns, if the loss trains something itself: as the model calls it."""
        if not self.loss.self_trained_parameters():
            return {}
        optimizer = torch.optim.Adam(self.student.parameters(), lr=1e-3)
        images = batch(self.arch, seed=iteration, samples=self.samples)
        return self.loss.prepare(self.nets.plan(*images, optimizer, F.l1_loss, iteration))

    def own(self) -> dict[str, nn.Parameter]:
        """Name → parameter that the loss trains itself."""
        ids = {id(p) for p in self.loss.self_trained_parameters()}
        return {name: p for name, p in self.loss.named_parameters() if id(p) in ids}

    def trained_by_terms(self) -> dict[str, nn.Parameter]:
        """Name → parameter of the loss that the student's optimizer trains."""
        own = self.own()
        return {name: p for name, p in self.loss.named_parameters() if p.requires_grad and name not in own}
