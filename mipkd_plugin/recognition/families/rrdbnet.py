"""RRDBNet of BasicSR (ESRGAN, Real-ESRGAN), and the two older layouts of https://github.com/xinntao/ESRGAN."""

from __future__ import annotations

import re
from typing import Any

from mipkd_plugin.recognition.layout import Family, Found, Layout, UnfitError

_MIDDLE = {'trunk_conv': 'conv_body', 'upconv1': 'conv_up1', 'upconv2': 'conv_up2', 'HRconv': 'conv_hr'}
_OLD = {'model.0': 'conv_first', 'model.3': 'conv_up1', 'model.6': 'conv_up2', 'model.8': 'conv_hr',
        'model.10': 'conv_last'}


def _read(layout: Layout) -> Found:
    num_feat, num_in_ch = layout.kernel('conv_first.weight')
    num_out_ch = layout.kernel('conv_last.weight')[0]
    scale = {4 * num_out_ch: 2, 16 * num_out_ch: 1}.get(num_in_ch, 4)  # x2 and x1 begin with a pixel unshuffle
    network: dict[str, Any] = {
        'type': 'RRDBNet', 'num_in_ch': num_in_ch // (4 // scale) ** 2, 'num_out_ch': num_out_ch, 'scale': scale,
        'num_feat': num_feat, 'num_block': layout.count('body'),
        'num_grow_ch': layout.kernel('body.0.rdb1.conv1.weight')[0]}
    return Found(network, scale, layout.state)


def _read_middle(layout: Layout) -> Found:
    def name_of(name: str) -> str:
        module, _, kind = name.rpartition('.')
        return re.sub(r'^RRDB_trunk\.(\d+)\.RDB', r'body.\1.rdb', f'{_MIDDLE.get(module, module)}.{kind}')

    found = _read(Layout(layout.renamed(name_of)))
    return Found(found.network, found.scale, found.state, 'official ESRGAN')


def _read_old(layout: Layout) -> Found:
    if layout.count('model') != 11:
        raise UnfitError(f'it has {layout.count("model")} layers at the top level, and an ESRGAN x4 has 11')
    last = layout.count('model.1.sub') - 1

    def name_of(name: str) -> str:
        module, _, kind = name.rpartition('.')
        if module == f'model.1.sub.{last}':
            return f'conv_body.{kind}'
        module = re.sub(r'^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0$', r'body.\1.rdb\2.conv\3', module)
        return f'{_OLD.get(module, module)}.{kind}'

    found = _read(Layout(layout.renamed(name_of)))
    return Found(found.network, found.scale, found.state, 'official ESRGAN (old layout)')


FAMILIES = (
    Family('RRDBNet', ('conv_first.weight', 'body.0.rdb1.conv1.weight', 'conv_up2.weight', 'conv_last.weight'), _read),
    Family('official ESRGAN', ('conv_first.weight', 'RRDB_trunk.0.RDB1.conv1.weight', 'upconv2.weight',
                               'conv_last.weight'), _read_middle),
    Family('official ESRGAN', ('model.0.weight', 'model.1.sub.0.RDB1.conv1.0.weight', 'model.10.weight'), _read_old))
