"""The Talker: text in, codec frames out, in one stream (ARIA) or two tracks."""

from omnijax.models.talker.config import TalkerConfig
from omnijax.models.talker.inputs import TalkerBatch, TalkerInputs, speech_inputs
from omnijax.models.talker.mtp import MTP, predict_residuals
from omnijax.models.talker.talker import Talker, TalkerOutput

__all__ = [
    "MTP",
    "Talker",
    "TalkerBatch",
    "TalkerConfig",
    "TalkerInputs",
    "TalkerOutput",
    "predict_residuals",
    "speech_inputs",
]
