"""Which architectures can be distilled, without a tap named: training steps with every one, and a table.

    python tests/benchmarks/architectures.py                          # BasicSR's own and spandrel's
    python tests/benchmarks/architectures.py --extra my_archs.py      # and others
    python tests/benchmarks/architectures.py --only SPAN EDSR --json after.json --compare before.json

Each architecture, at a small size, is the student of EDSR, the teacher of EDSR, and narrow student of its own wide
teacher, with FitNets, KRNets and MiPKD at `taps: 3`: binding and two training steps. Each runs in a process of its own,
with limits on time and memory. An extra file has a list CASES of (name, constructor, taps), or of Case from
architecture_trials.py: the constructor takes one argument, whether the network is wide, and taps are the module paths
that a person would choose, such as ('body.#',). Without the package spandrel its architectures are skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from benchmarks.architecture_cases import all_cases
from benchmarks.architecture_table import changes, table
from benchmarks.architecture_trials import LOSSES, ROLES, Case, is_right, short, try_role

TRY_SECONDS = 60
MEMORY_GIB = 12


def measure(case: Case, pipe: Connection | None = None, seconds: int = TRY_SECONDS) -> dict[str, Any]:
    """Try one architecture with every loss in every role; each result is sent through the pipe as soon as it is there.

    Returns:
        What :func:`summary` makes of the results.
    """
    torch.set_num_threads(1)
    if pipe is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_GIB * 2**30, MEMORY_GIB * 2**30))
    results = {}
    try:
        case.build(False)
    except Exception as error:  # noqa: BLE001 - a package that is missing, an option that is too small: said in the table
        results['build'] = {'result': f'cannot be built: {short(error)}', 'taps': {}, 'reentry': None}
        if pipe is not None:
            pipe.send(('build', results['build']))
        return summary(case, results)
    for loss in LOSSES:
        for role in ROLES:
            results[f'{loss}/{role}'] = found = try_role(case, loss, role, seconds)
            if pipe is not None:
                pipe.send((f'{loss}/{role}', found))
    return summary(case, results)


def measure_apart(case: Case, seconds: int = TRY_SECONDS) -> dict[str, Any]:
    """The same in a process of its own: a crash, an endless loop or too much memory ends that process alone."""
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(case, sender, seconds), daemon=True)
    process.start()
    sender.close()
    results: dict[str, Any] = {}
    reason = 'its process ended'
    while True:
        if not receiver.poll(2 * seconds):
            reason = f'took over {2 * seconds} s'
            process.kill()
            break
        try:
            name, found = receiver.recv()
        except EOFError:
            break
        results[name] = found
    process.join()
    return summary(case, results, reason)


def summary(case: Case, results: Mapping[str, Any], reason: str = '') -> dict[str, Any]:
    """What the table shows of one architecture."""
    if 'build' in results:
        reason = results['build']['result']
    names = [f'{loss}/{role}' for loss in LOSSES for role in ROLES]
    tapped = [paths for found in results.values() for paths in found['taps'].values()]
    chosen = max(tapped, key=len, default=[])
    return {'name': case.name, 'source': case.source, 'scale': case.scale, 'expected': list(case.taps),
            'note': case.note, 'taps': chosen, 'built': 'build' not in results,
            'right': bool(tapped) and all(is_right(paths, case.taps) for paths in tapped),
            'reentry': largest(results, 'reentry'), 'gradient': largest(results, 'gradient'),
            'results': {name: results[name]['result'] if name in results else reason for name in names},
            'seconds': round(sum(found.get('seconds', 0) for found in results.values()), 1)}


def largest(results: Mapping[str, Any], name: str) -> float | None:
    """Largest of the errors that were measured."""
    return max((found[name] for found in results.values() if found.get(name) is not None), default=None)


def extra_cases(path: Path) -> list[Case]:
    """The architectures of a file of somebody's own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f'{path} is no Python file')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [case if isinstance(case, Case) else Case(*case) for case in module.CASES]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--extra', type=Path, nargs='*', default=[], help='files with further architectures')
    parser.add_argument('--only', nargs='*', help='names of architectures; all by default')
    parser.add_argument('--json', type=Path, help='write all results here, after each architecture')
    parser.add_argument('--markdown', type=Path, help='write the table here too')
    parser.add_argument('--compare', type=Path, help='results of another run: print what has changed since')
    parser.add_argument('--seconds', type=int, default=TRY_SECONDS, help='limit of each try')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cases, skipped = all_cases()
    cases += [case for path in args.extra for case in extra_cases(path)]
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=Path(__file__).parent, capture_output=True,
                            text=True, check=False).stdout.strip()
    found: dict[str, Any] = {'commit': commit, 'torch': torch.__version__, 'architectures': {}}
    for case in cases:
        if args.only and case.name not in args.only and case.key not in args.only:
            continue
        found['architectures'][case.key] = one = measure_apart(case, args.seconds)
        good = sum(result == 'ok' for result in one['results'].values())
        sys.stderr.write(f'{case.key}: {good} of {len(one["results"])}, {one["seconds"]} s, taps {one["taps"]}\n')
        if args.json:
            args.json.write_text(json.dumps(found, indent=1))
    text = '\n'.join([*table(found['architectures']), *(f'Skipped: {reason}' for reason in skipped)])
    if args.markdown:
        args.markdown.write_text(f'{text}\n')
    sys.stdout.write(f'{text}\n')
    if args.compare:
        sys.stdout.write('\n'.join(changes(json.loads(args.compare.read_text())['architectures'],
                                           found['architectures'])) + '\n')


if __name__ == '__main__':
    main()
