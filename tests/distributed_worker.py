"""One rank of tests/test_distributed.py: a training step of DistillModel; writes gradients and state to a folder.

Run as ``torchrun --nproc_per_node=2 tests/distributed_worker.py OPTIONS OUT``.
"""

import json
import sys
from pathlib import Path

import torch
from helpers import as_parsed, batch

from mipkd_plugin import compat
from basicsr.models import build_model
from basicsr.utils.dist_util import get_dist_info, init_dist


def main(options: str, out: str) -> None:
    init_dist('pytorch')
    rank, world_size = get_dist_info()
    torch.manual_seed(0)
    model = build_model(as_parsed(json.loads(Path(options).read_text()), Path(out), rank, world_size))
    for iteration in (1, 2):
        lq, gt = batch('EDSR', seed=10 * iteration + rank)
        model.feed_data({'lq': lq, 'gt': gt})
        model.optimize_parameters(iteration)
    bare = model.get_bare_model(model.net_g)
    torch.save({
        'wrapped': [type(model.net_g).__name__, *(type(runner).__name__ for runner in model.loss_runners),
                    type(model.teacher).__name__],
        'student': {name: p.grad for name, p in bare.named_parameters()},
        'losses': {name: p.grad for name, p in model.losses.named_parameters()},
        'weights': {**bare.state_dict(), **{k: v for k, v in model.losses.state_dict().items()
                                            if not k.endswith('_extra_state')}},
        'random': model.losses[0].get_extra_state()}, Path(out) / f'rank{rank}.pth')
    model.save(0, 2)
    compat.leave_without_gpu()


if __name__ == '__main__':
    main(*sys.argv[1:])
