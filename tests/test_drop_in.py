"""The losses in other people's projects: a plain PyTorch loop, and a BasicSR model class that is none of ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from basicsr.archs import build_network
from helpers import STUDENTS, TEACHERS, batch
from torch.nn import functional as F

from mipkd_plugin import KRNetLoss, LogitsKDLoss, MiPKDLoss, bind

STRANGERS_PROJECT = '''
import os
import mipkd_plugin  # repairs BasicSR; registers nothing that this project has to know
import torch
from basicsr.archs import build_network
from basicsr.models.base_model import BaseModel
from basicsr.models.sr_model import SRModel
from basicsr.train import train_pipeline
from basicsr.utils.registry import MODEL_REGISTRY

from mipkd_plugin import MiPKDLoss, bind


@MODEL_REGISTRY.register()
class StrangersModel(SRModel):
    def init_training_settings(self):
        teacher = build_network(self.opt['network_t']).to(self.device)
        self.load_network(teacher, self.opt['path']['pretrain_network_t'])
        self.kd = MiPKDLoss(taps=2, latent_channels=8)
        self.nets = bind([self.kd], self.net_g, teacher, torch.rand(1, 3, 8, 8, device=self.device))
        super().init_training_settings()

    def setup_optimizers(self):
        super().setup_optimizers()
        self.optimizer_g.add_param_group({'params': list(self.kd.parameters())})

    def optimize_parameters(self, current_iter):
        self.optimizer_g.zero_grad()
        step = self.nets.step(self.lq, self.gt, current_iter)
        terms = {'l_pix': self.cri_pix(step.student.output, self.gt), **self.kd(step)}
        sum(terms.values()).backward()
        self.optimizer_g.step()
        self.log_dict = self.reduce_loss_dict(terms)


if __name__ == '__main__':
    train_pipeline(os.getcwd())
'''


def test_plain_pytorch_loop() -> None:
    student, teacher = build_network(STUDENTS['SwinIR']), build_network(TEACHERS['EDSR'])
    lq, gt = batch('EDSR')
    losses = [MiPKDLoss(taps=2, latent_channels=8), LogitsKDLoss()]
    nets = bind(losses, student, teacher, probe=lq[:1])
    optimizer = torch.optim.Adam([*student.parameters(), *losses[0].parameters()], lr=1e-3)
    history = []
    for iteration in range(1, 31):
        step = nets.step(lq, gt, iteration)
        loss = F.l1_loss(step.student.output, gt) + sum(sum(kd(step).values()) for kd in losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.85 * history[0]
    nets.close()
    assert not any(m._forward_hooks for net in (student, teacher) for m in net.modules())


def test_plain_pytorch_loop_with_a_loss_that_trains_itself() -> None:
    student, teacher = build_network(STUDENTS['EDSR']), build_network(TEACHERS['RCAN'])
    lq, gt = batch('EDSR')
    kd = KRNetLoss(taps=2, meta_every=3)
    nets = bind([kd], student, teacher, probe=lq[:1])
    optimizer = torch.optim.Adam([*student.parameters(), *kd.parameters()], lr=1e-3)
    history, generators = [], [p.detach().clone() for p in kd.self_trained_parameters()]
    for iteration in range(1, 31):
        plan = nets.plan(lq, gt, optimizer, F.l1_loss, iteration)
        kd.prepare(plan)
        step = plan.run()
        loss = F.l1_loss(step.student.output, gt) + sum(kd(step).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.9 * history[0]
    assert not any(p in optimizer.state for p in kd.self_trained_parameters()), 'two optimizers train the generators'
    assert not any(torch.equal(a, b) for a, b in zip(generators, kd.self_trained_parameters()))


def test_strangers_project_with_its_own_train_script(train_options: Callable[..., dict[str, Any]],
                                                     tmp_path: Path) -> None:
    opt = train_options(model_type='StrangersModel')
    teacher = opt.pop('teacher')
    del opt['train']['distill_opt'], opt['train']['ema_decay']
    opt['network_t'] = teacher['network']
    opt['path']['pretrain_network_t'] = teacher['weights']
    (tmp_path / 'their_train.py').write_text(STRANGERS_PROJECT)
    (tmp_path / 'their.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    result = subprocess.run([sys.executable, 'their_train.py', '-opt', 'their.yml'], cwd=tmp_path,
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'l_block' in result.stderr + result.stdout
    saved = torch.load(tmp_path / 'experiments/tiny/models/net_g_latest.pth')
    build_network(STUDENTS['EDSR']).load_state_dict(saved['params'], strict=True)
