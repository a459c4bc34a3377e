"""What teacher and students cost and how good they are, side by side: as data, and as Markdown."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mipkd_plugin.inference import cost, memory, quality
from mipkd_plugin.inference.tiles import Enlarger
from mipkd_plugin.utils.errors import UsageError
from mipkd_plugin.utils.words import counted, gigabytes
from mipkd_plugin.version import __version__

Size = tuple[int, int]
"""Width and height of a low-resolution image."""
OUTPUT = (1280, 720)
"""The large image for which papers count multiply-accumulates."""
_SECONDS = 20  # for each size; slow networks are timed less often


def measured(networks: Mapping[str, Enlarger], sizes: Sequence[Size], on_step: Callable[[], None] = lambda: None
             ) -> dict[str, Any]:
    """Measure what networks cost.

    Args:
        networks: Networks by role: ``teacher``, ``student``, …; all of one scale, on one device.
        sizes: Sizes of low-resolution images; each is rounded up to what all networks take.
        on_step: Called behind each size.

    Returns:
        ``scale``, ``sizes``, and in ``networks`` by role ``type``, ``parameters``, ``macs_1280x720`` and by size
        ``macs``, ``milliseconds``, ``peak_bytes``.

    Raises:
        UsageError: An image of one of the sizes does not fit into memory.
    """
    nets = {role: enlarger.net for role, enlarger in networks.items()}
    scale = next(iter(networks.values())).scale
    rounded = list(dict.fromkeys(fitting(networks, size) for size in sizes))
    for size in rounded:
        _require_memory(networks, size)
    found: dict[str, Any] = {}
    for role, enlarger in networks.items():
        large = [_up(-(-side // scale), enlarger.multiple) for side in OUTPUT]
        total = cost.cost(enlarger.net, (enlarger.channels, large[1], large[0]))
        found[role] = {'type': type(enlarger.net).__name__, 'parameters': total.parameters,
                       'macs_1280x720': total.macs, 'sizes': {}}
    for width, height in rounded:
        times = times_of(networks, (width, height))
        for role, net in nets.items():
            shape = (networks[role].channels, height, width)
            found[role]['sizes'][f'{width}x{height}'] = {
                'macs': cost.cost(net, shape).macs, 'milliseconds': times[role],
                'peak_bytes': memory.peak_memory(net, shape)}
        on_step()
    return {'scale': scale, 'sizes': [f'{width}x{height}' for width, height in rounded], 'networks': found}


def add_quality(data: dict[str, Any], networks: Mapping[str, Enlarger], hr: Path, lr: Path | None,
                on_step: Callable[[], None] = lambda: None) -> None:
    """Measure PSNR and SSIM on a folder, and add them to the data of a report.

    Args:
        data: From :func:`measured`; it gets ``images``, and each network and ``bicubic`` get ``psnr``, ``ssim``, and
            those of each image.
        networks: Networks by role.
        hr: Folder of high-resolution images.
        lr: Folder of low-resolution images; None makes them as MATLAB's ``imresize`` does.
        on_step: Called behind each image.

    Raises:
        QualityError: A folder or an image cannot be used.
    """
    scale = data['scale']
    scores = quality.measure(networks, quality.read_pairs(hr, scale, lr), scale, lambda pair, outputs: on_step())
    for name, found in scores.items():
        place = data.setdefault(quality.BICUBIC, {}) if name == quality.BICUBIC else data['networks'][name]
        place.update(psnr=found.psnr, ssim=found.ssim, images={
            image: {'psnr': psnr, 'ssim': ssim} for image, (psnr, ssim) in found.images.items()})
    data['images'] = {'hr': str(hr), 'lr': 'made as MATLAB\'s imresize does' if lr is None else str(lr),
                      'number': len(scores[quality.BICUBIC].images)}


def circumstances(device: torch.device, commit: str) -> dict[str, Any]:
    """Versions, machine, threads and time, for the data of a report; ``commit`` is that of this package."""
    return {'date': datetime.now(timezone.utc).isoformat(timespec='seconds'), 'mipkd-plugin': __version__,
            'commit': commit, 'basicsr': version('basicsr'), 'torch': torch.__version__,
            'python': platform.python_version(), 'system': platform.platform(), 'device': name_of(device),
            'threads': torch.get_num_threads(), 'precision': 'float32'}


def name_of(device: torch.device) -> str:
    """Name of a GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else _processor()


def fitting(networks: Mapping[str, Enlarger], size: Size) -> Size:
    """A size, rounded up to what all networks take."""
    multiple = math.lcm(*(enlarger.multiple for enlarger in networks.values()))
    return _up(size[0], multiple), _up(size[1], multiple)


def times_of(networks: Mapping[str, Enlarger], size: Size, of: Callable[[Sequence[float]], float] = min
             ) -> dict[str, float]:
    """Measure how long networks take for one image, in turn.

    Args:
        networks: Networks by role.
        size: Of the low-resolution image, from :func:`fitting`.
        of: What to take of the times of a network; see :func:`cost.milliseconds`.

    Returns:
        Milliseconds by role.
    """
    channels = {enlarger.channels for enlarger in networks.values()}
    if len(channels) == 1:
        nets = [enlarger.net for enlarger in networks.values()]
        return dict(zip(networks, cost.milliseconds(nets, (channels.pop(), *size[::-1]), seconds=_SECONDS, of=of)))
    return {role: cost.milliseconds([enlarger.net], (enlarger.channels, *size[::-1]), seconds=_SECONDS, of=of)[0]
            for role, enlarger in networks.items()}


def as_markdown(data: Mapping[str, Any]) -> str:
    """Write the data of a report as Markdown.

    Args:
        data: From :func:`measured`, with ``made`` from :func:`circumstances`, ``weights`` by role, and perhaps with
            quality.

    Returns:
        The text.
    """
    made = data['made']
    return '\n'.join([
        f'# {" and ".join(data["networks"])}, x{data["scale"]}', '', *_overview(data), '', *_costs(data), '',
        *(f'- {role}: {data["weights"][role]}' for role in data['networks']),
        *([f'- images: {data["images"]["hr"]}; low-resolution images: {data["images"]["lr"]}',
           f'- PSNR and SSIM: {quality.CONVENTION}'] if 'images' in data else []),
        f'- {cost.CONVENTION}', f'- {memory.CONVENTION}',
        f'- Milliseconds: least of up to 5 runs in turn, on {made["device"]}, '
        f'{counted(made["threads"], "thread")}, float32; speed-up: time of the teacher divided by time of the student',
        f'- {made["date"]}, mipkd-plugin {made["mipkd-plugin"]} ({made["commit"]}), basicsr {made["basicsr"]}, '
        f'torch {made["torch"]}, Python {made["python"]}, {made["system"]}', ''])


def _overview(data: Mapping[str, Any]) -> list[str]:
    first = next(iter(data['networks'].values()))
    ratios, scored = 'teacher' in data['networks'], 'images' in data
    header = ['network', 'architecture', 'parameters', 'MACs for 1280×720']
    header += [f'PSNR ({counted(data["images"]["number"], "image")})', 'SSIM'] if scored else []
    rows = []
    for role, net in data['networks'].items():
        share = [_ratio(first[key], net[key], ratios and role != 'teacher') for key in ('parameters', 'macs_1280x720')]
        rows.append([role, net['type'], f'{net["parameters"]:,d}{share[0]}',
                     f'{_giga(net["macs_1280x720"])}{share[1]}', *(_scores(net) if scored else [])])
    if scored:
        rows.append([quality.BICUBIC, '', '', '', *_scores(data[quality.BICUBIC])])
    return list(_table(header, rows))


def _costs(data: Mapping[str, Any]) -> list[str]:
    teacher = data['networks'].get('teacher')
    header = ['low-resolution image', 'network', 'MACs', 'milliseconds', *(['speed-up'] if teacher else []),
              'peak memory']
    rows = []
    for size in data['sizes']:
        for role, net in data['networks'].items():
            found = net['sizes'][size]
            faster = [] if teacher is None else [
                '' if net is teacher else f'{teacher["sizes"][size]["milliseconds"] / found["milliseconds"]:.2f}']
            rows.append([size.replace('x', '×'), role, _giga(found['macs']), f'{found["milliseconds"]:.1f}', *faster,
                         f'{found["peak_bytes"] / 1e6:.1f} MB'])
    return list(_table(header, rows))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (header, ['---'] * len(header), *rows):
        yield f'| {" | ".join(row)} |'


def _ratio(teacher: int, own: int, wanted: bool) -> str:
    return f' (1/{teacher / own:.1f})' if wanted and own else ''


def _giga(number: int) -> str:
    return f'{number / 1e9:.2f} G' if number >= 1e8 else f'{number / 1e6:.2f} M'


def _scores(place: Mapping[str, Any]) -> list[str]:
    return [f'{place["psnr"]:.3f} dB', f'{place["ssim"]:.4f}']


def _require_memory(networks: Mapping[str, Enlarger], size: Size) -> None:
    """Refuse a size that would fill the memory, before the work: the system may end the program without a word."""
    width, height = size
    for enlarger in networks.values() if width * height >= memory.LARGE else ():
        needed = memory.memory_for(enlarger.net, (enlarger.channels, height, width), enlarger.multiple)
        free = memory.free_memory(enlarger.device)
        if free is not None and needed > free:
            raise UsageError(f'--sizes {width}x{height}: would take about {gigabytes(needed)} of memory, and '
                             f'{gigabytes(free)} are free; measure with smaller images')


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')),
                platform.machine())
