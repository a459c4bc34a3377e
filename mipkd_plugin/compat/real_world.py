"""Repairs of BasicSR's Real-ESRGAN models: they degrade images on a GPU whatever ``num_gpu`` says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any


def degradation_on_device() -> bool:
    """Let ``RealESRNetModel`` and ``RealESRGANModel`` degrade images where the networks are, on the CPU too.

    They call ``.cuda()`` on the JPEG and sharpening modules and on their pool of pairs, which raises without a GPU, and
    mixes devices with ``num_gpu: 0`` (no BasicSR issue known). On the CPU JPEG compression and padding keep another
    memory layout, which ``filter2D`` does not take. And a validation sharpens each HR image for nobody, with a kernel
    of 51×51 pixels, which takes a CPU some seconds an image.

    Returns:
        Whether the repair was made.
    """
    from basicsr.models import realesrgan_model, realesrnet_model

    models = (realesrnet_model.RealESRNetModel, realesrgan_model.RealESRGANModel)
    if hasattr(models[0].__init__, '__wrapped__'):
        return False
    for module, model in zip((realesrnet_model, realesrgan_model), models):
        _let_modules_stay(module)
        module.filter2D = _of_contiguous(module.filter2D)
        model.__init__ = _with_modules_on_device(model.__init__)
        model._dequeue_and_enqueue = _with_pool_on_device(model._dequeue_and_enqueue)
        model.feed_data = _unsharpened_in_validation(model.feed_data)
    return True


def find_suffixed_names_quietly() -> bool:
    """Let registries find ``SRVGGNetCompact`` and its kin without a line on the screen each time.

    BasicSR registers the classes of Real-ESRGAN with ``_basicsr`` behind their names, and prints how it found one at
    each lookup, in the middle of other output (no BasicSR issue known).

    Returns:
        Whether the repair was made.
    """
    from basicsr.utils.registry import Registry

    if hasattr(Registry.get, 'aloud'):
        return False
    original: Callable[..., Any] = Registry.get

    def get(self: Any, name: str, suffix: str = 'basicsr') -> Any:
        longer = f'{name}_{suffix}'
        return original(self, longer if name not in self and longer in self else name, suffix)

    get.aloud = original  # type: ignore[attr-defined]  # marks the repair
    Registry.get = get
    return True


def niqe_of_flat_images_is_nan() -> bool:
    """Let a validation with NIQE go on behind an image that NIQE cannot measure, with a warning.

    NIQE wants two blocks of 96×96 pixels that are not flat. For a white page or a black frame ``calculate_niqe`` raises
    an error of linear algebra, which names no image, in the middle of the training (no BasicSR issue known). It returns
    NaN now, and so does the mean over the images.

    Returns:
        Whether the repair was made.
    """
    import numpy as np
    from basicsr.metrics import niqe
    from basicsr.utils import get_root_logger
    from basicsr.utils.registry import METRIC_REGISTRY

    original: Callable[..., Any] = niqe.calculate_niqe
    if hasattr(original, '__wrapped__'):
        return False

    @functools.wraps(original)
    def calculate_niqe(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except np.linalg.LinAlgError:
            get_root_logger().warning('NIQE is nan for an image, and so is the mean: it has no two blocks of 96×96 '
                                      'pixels that are not flat, as a white page. Remove the image from the data set.')
            return np.nan

    niqe.calculate_niqe = METRIC_REGISTRY._obj_map['calculate_niqe'] = calculate_niqe
    return True


def _let_modules_stay(module: ModuleType) -> None:
    """Replace the classes of a module by ones whose ``cuda()`` leaves them where they are."""
    for name in ('DiffJPEG', 'USMSharp'):
        plain = getattr(module, name)
        setattr(module, name, type(name, (plain, ), {'cuda': lambda self, device=None: self,
                                                     '__module__': plain.__module__}))


def _of_contiguous(original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    @functools.wraps(original)
    def filter2d(img: Any, kernel: Any) -> Any:
        return original(img.contiguous(), kernel)

    return filter2d


def _with_modules_on_device(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, opt: dict[str, Any]) -> None:
        original(self, opt)
        self.jpeger.to(self.device)
        self.usm_sharpener.to(self.device)

    return init


def _with_pool_on_device(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """The pool is made before BasicSR would make it on a GPU."""
    @functools.wraps(original)
    def dequeue_and_enqueue(self: Any) -> None:
        if not hasattr(self, 'queue_lr'):
            self.queue_lr, self.queue_gt = (images.new_zeros(self.queue_size, *images.shape[1:])
                                            for images in (self.lq, self.gt))
            self.queue_ptr = 0
        original(self)

    return dequeue_and_enqueue


def _unsharpened_in_validation(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    @functools.wraps(original)
    def feed_data(self: Any, data: Any) -> None:
        if self.is_train:
            original(self, data)
            return
        sharpener, self.usm_sharpener = self.usm_sharpener, lambda images: images
        try:
            original(self, data)
        finally:
            self.usm_sharpener = sharpener

    return feed_data
