"""Worker processes of data loaders: signals are their parent's business, and spawned ones are repaired as well."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PLUGINS = 'MIPKD_WORKER_IMPORTS'
"""Environment variable: the plug-ins that a spawned worker imports, as a JSON list of files and modules."""

_OWN_PROGRAMS = {'basicsr', 'mipkd'}


def workers_leave_signals_to_their_parent() -> bool:
    """Let a training finish its step after Ctrl-C: the data workers must live until then.

    A terminal sends Ctrl-C to the whole process group, and torchrun and Slurm send SIGTERM to it. BasicSR's workers die
    of that with tracebacks, and the training with them, in the middle of its step (no BasicSR issue known). The repair
    replaces ``basicsr.data.worker_init_fn``.

    Returns:
        Whether the repair was made.
    """
    import basicsr.data as data

    if hasattr(data.worker_init_fn, 'original'):
        return False
    start_worker.original = data.worker_init_fn  # type: ignore[attr-defined]  # marks the repair
    data.worker_init_fn = start_worker
    return True


def start_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    """Begin a data worker: set what it does at signals, then seed it as BasicSR does."""
    leave_signals_to_the_parent()
    start_worker.original(worker_id, num_workers=num_workers, rank=rank, seed=seed)  # type: ignore[attr-defined]


def leave_signals_to_the_parent() -> None:
    """Ignore Ctrl-C and SIGHUP in this process, and SIGTERM unless its parent sends it, which ends a worker so."""
    for name in ('SIGINT', 'SIGHUP'):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # on Linux it tells the sender
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_the_parent_says_so, args=(os.getppid(), ), daemon=True).start()


def _end_when_the_parent_says_so(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid not in (parent, 0):  # 0: from outside of a container
        pass
    os._exit(0)


@contextmanager
def repaired_when_spawned(imports: Sequence[str]) -> Iterator[None]:
    """Inside the block, spawned processes import this package and the plug-ins before they unpickle a data set.

    Windows and macOS spawn workers, and BasicSR asks for it under torchrun. Such a process first runs the main file of
    its parent again; ``python -c``, ``python -m`` and the programs of Windows have none, and BasicSR fails there for
    what :func:`~mipkd_plugin.compat.provide_functional_tensor` repairs.

    Args:
        imports: Plug-ins, as :func:`~mipkd_plugin.config.plugins.absolute_imports` names them.
    """
    main = sys.modules['__main__']
    file, variable = getattr(main, '__file__', None), os.environ.get(PLUGINS)
    own = Path(__file__).resolve().parents[1] / '__main__.py'
    is_ours = file is None or Path(file).stem in _OWN_PROGRAMS or Path(file).resolve() == own or _is_program(file)
    spec = getattr(main, '__spec__', None)
    os.environ[PLUGINS] = json.dumps(list(imports))
    if is_ours:
        main.__file__, main.__spec__ = str(own), None
    try:
        yield
    finally:
        os.environ.pop(PLUGINS)
        if variable is not None:
            os.environ[PLUGINS] = variable
        if is_ours:
            main.__file__, main.__spec__ = file, spec


def _is_program(file: str) -> bool:
    """Whether a main file is in one of our programs on Windows, as ``basicsr.exe/__main__.py``."""
    return Path(file).parent.stem in _OWN_PROGRAMS and Path(file).parent.suffix == '.exe'


def plugins_of_the_parent() -> list[str]:
    """The plug-ins that a spawned worker imports."""
    return [str(entry) for entry in json.loads(os.environ.get(PLUGINS, '[]'))]
