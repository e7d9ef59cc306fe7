"""From sources of chats to packed, static-shaped batches with a state that checkpoints keep."""

from omnijax.data.batch import AedBatch, RowBudget, TrainBatch
from omnijax.data.config import PipelineConfig
from omnijax.data.pipeline import Pipeline, make_pipeline, merge_states
from omnijax.data.sources import FolderSource, TfdsSource, open_source, open_sources

__all__ = [
    "AedBatch",
    "FolderSource",
    "Pipeline",
    "PipelineConfig",
    "RowBudget",
    "TfdsSource",
    "TrainBatch",
    "make_pipeline",
    "merge_states",
    "open_source",
    "open_sources",
]
