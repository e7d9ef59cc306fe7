"""Linen layers: they own parameters and wiring; the mathematics is in ops."""

from omnijax.nn.cache import DecoderCache, init_cache
from omnijax.nn.config import DecoderConfig
from omnijax.nn.decoder import DecoderAux, HybridDecoder
from omnijax.nn.embed import Embed
from omnijax.nn.feed_forward import FeedForward
from omnijax.nn.linear import Einsum
from omnijax.nn.norm import GatedRMSNorm, RMSNorm

__all__ = [
    "DecoderAux",
    "DecoderCache",
    "DecoderConfig",
    "Einsum",
    "Embed",
    "FeedForward",
    "GatedRMSNorm",
    "HybridDecoder",
    "RMSNorm",
    "init_cache",
]
