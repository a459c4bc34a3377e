"""The networks that are recognized by rules of our own; one module a family, and this list of them."""

from mipkd_plugin.recognition.families import ecbsr, edsr, mamba_lite, msrresnet, rcan, rrdbnet, srvgg, swinir
from mipkd_plugin.recognition.layout import Family

FAMILIES: list[Family] = [
    *edsr.FAMILIES, *rcan.FAMILIES, *rrdbnet.FAMILIES, *srvgg.FAMILIES, *swinir.FAMILIES, *msrresnet.FAMILIES,
    *ecbsr.FAMILIES, *mamba_lite.FAMILIES]
"""All families; a state dict is tried against each whose signature it has. A plug-in may append its own."""
