"""Each repair does its job, and does nothing where it is not needed."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mipkd_plugin import compat


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)


def test_functional_tensor_is_supplied_once() -> None:
    result = python('import mipkd_plugin.compat as c; import torchvision.transforms.functional_tensor as t, torch;'
                    'assert t.rgb_to_grayscale(torch.rand(3, 4, 4)).shape == (1, 4, 4);'
                    'assert c.provide_functional_tensor() is False')
    assert result.returncode == 0, result.stderr


def test_repairs_are_made_once() -> None:
    assert compat.resume_without_gpu() is False
    assert compat.distributed_without_gpu() is False


@pytest.mark.timeout(60)
def test_an_error_in_the_prefetching_thread_reaches_the_training() -> None:
    from basicsr.data.prefetch_dataloader import PrefetchGenerator

    def batches(count: int, error: Exception | None) -> Iterator[int]:
        yield from range(count)
        if error is not None:
            raise error

    for count in (0, 3):
        failing = PrefetchGenerator(batches(count, OSError('image 3')), 1)
        assert [next(failing) for _ in range(count)] == list(range(count))
        for _ in range(2):  # a second time too, instead of waiting
            with pytest.raises(OSError, match='image 3'):
                next(failing)
    whole = PrefetchGenerator(batches(3, None), 2)
    assert list(whole) == [0, 1, 2]
    assert list(whole) == []
    assert compat.pass_on_prefetch_errors() is False


def test_a_run_on_a_gpu_resumes_as_basicsr_does_and_one_beside_it_does_not(monkeypatch: pytest.MonkeyPatch,
                                                                           tmp_path: Path) -> None:
    import basicsr.train

    (tmp_path / '1.state').touch()
    places: list[object] = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 3)
    monkeypatch.setattr(torch, 'load', lambda path, map_location: places.append(map_location) or {'iter': 1})
    monkeypatch.setattr(basicsr.train, 'check_resume', lambda *args: None)
    for gpus in (1, 0):
        opt = {'num_gpu': gpus, 'auto_resume': False, 'path': {'resume_state': str(tmp_path / '1.state')}}
        assert basicsr.train.load_resume_state(opt) == {'iter': 1}
    assert callable(places[0])
    assert places[1] == 'cpu'


def test_distribution_is_not_repaired_on_a_machine_with_a_gpu() -> None:
    result = python('import torch; torch.cuda.is_available = lambda: True\n'
                    'import mipkd_plugin, basicsr.train\n'
                    'from basicsr.models.base_model import BaseModel\n'
                    'assert BaseModel.model_to_device.__module__ == "basicsr.models.base_model"')
    assert result.returncode == 0, result.stderr


def test_an_old_torchvision_keeps_its_own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SimpleNamespace()
    monkeypatch.setitem(sys.modules, 'torchvision.transforms.functional_tensor', own)
    assert compat.provide_functional_tensor() is False
    assert sys.modules['torchvision.transforms.functional_tensor'] is own


@pytest.mark.parametrize(('given', 'expected'), [
    (['train', '--local-rank=3', '-opt', 'a.yml'], ['train', '--local_rank=3', '-opt', 'a.yml']),
    (['--local-rank', '3'], ['--local_rank', '3']),
    (['--local_rank=3', '-opt', '--local-ranking'], ['--local_rank=3', '-opt', '--local-ranking'])])
def test_dashed_local_rank(given: list[str], expected: list[str]) -> None:
    assert compat.accept_dashed_local_rank(given) == expected


def test_importing_twice_does_not_raise() -> None:
    result = python('import sys, mipkd_plugin\n'
                    'for name in [n for n in sys.modules if n.startswith("mipkd_plugin")]: del sys.modules[name]\n'
                    'import mipkd_plugin\n'
                    'from basicsr.utils.registry import LOSS_REGISTRY\n'
                    'assert LOSS_REGISTRY.get("MiPKDLoss") is mipkd_plugin.MiPKDLoss')
    assert result.returncode == 0, result.stderr


def test_a_name_of_another_plugin_is_not_taken() -> None:
    from basicsr.utils.registry import Registry

    from mipkd_plugin.utils.registry import register
    registry = Registry('test')
    register(registry)(type('Loss', (), {'__module__': 'theirs'}))
    with pytest.raises(ValueError, match="the name 'Loss' in the registry 'test' is taken by theirs"):
        register(registry)(type('Loss', (), {'__module__': 'ours'}))


def test_several_threads_may_import_at_once() -> None:
    code = """
import threading
import mipkd_plugin
errors = []
def use(name):
    try:
        getattr(mipkd_plugin, name)
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=use, args=(name, )) for name in mipkd_plugin.__all__ if name != '__version__']
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert not errors, errors[:2]
"""
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], check=True, timeout=240)


def test_classes_with_a_suffix_are_found_quietly(capsys: pytest.CaptureFixture[str]) -> None:
    from basicsr.utils.registry import ARCH_REGISTRY

    assert ARCH_REGISTRY.get('SRVGGNetCompact').__name__ == 'SRVGGNetCompact'
    assert capsys.readouterr().out == ''
    with pytest.raises(KeyError, match='SRVGGNetCompac'):
        ARCH_REGISTRY.get('SRVGGNetCompac')
    assert compat.find_suffixed_names_quietly() is False
    assert compat.degradation_on_device() is False


def test_niqe_of_a_flat_image_is_nan_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    from basicsr.metrics import calculate_metric
    from basicsr.utils import get_root_logger

    white = np.full((200, 200, 3), 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    get_root_logger().propagate = True
    with np.errstate(all='ignore'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        options = {'type': 'calculate_niqe', 'crop_border': 0, 'better': 'lower'}
        assert np.isfinite(calculate_metric({'img': noise}, options))
        assert 'NIQE' not in caplog.text
        assert np.isnan(calculate_metric({'img': white}, options))
    assert 'NIQE is nan for an image, and so is the mean' in caplog.text
    assert compat.niqe_of_flat_images_is_nan() is False
