"""Networks that only training uses, and students, in ARCH_REGISTRY. Importing this package registers them."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.archs.base import ScaledFeatures
from mipkd_plugin.archs.feature_mixer_arch import FeaturePriorMixer
from mipkd_plugin.archs.knowledge_aggregator_arch import AggregatedTeachers, KnowledgeAggregator
from mipkd_plugin.archs.krnet_arch import KRNet
from mipkd_plugin.archs.mamba_lite_arch import MambaLite
from mipkd_plugin.archs.projection_arch import FeatureProjection
from mipkd_plugin.archs.supply import supply_unknown_names

__all__ = ['AggregatedTeachers', 'FeaturePriorMixer', 'FeatureProjection', 'KRNet', 'KnowledgeAggregator', 'MambaLite',
           'ScaledFeatures']

supply_unknown_names()
