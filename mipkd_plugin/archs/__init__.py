"""Networks that only training uses, in ARCH_REGISTRY. Importing this package registers them."""

from mipkd_plugin.archs.block_mixer_arch import BlockPriorMixer
from mipkd_plugin.archs.feature_mixer_arch import FeaturePriorMixer
from mipkd_plugin.archs.krnet_arch import KRNet
from mipkd_plugin.archs.projection_arch import FeatureProjection

__all__ = ['BlockPriorMixer', 'FeaturePriorMixer', 'FeatureProjection', 'KRNet']
