"""Rendered prompts as one batch, in few different shapes."""

from collections.abc import Sequence

from omnijax.data.batch import RowBudget, collate_thinker
from omnijax.media import ProcessorConfig
from omnijax.models.thinker.inputs import ThinkerInputs
from omnijax.text.chat import Rendered


def collate_prompts(
    rows: Sequence[Rendered], processor: ProcessorConfig, batch_size: int | None = None
) -> ThinkerInputs:
    """One prompt a row, padded to sizes that few batches differ in, so that little is compiled."""

    def longest(field: str, multiple: int) -> int:
        most = max(len(getattr(row, field)) for row in rows)
        return -(-most // multiple) * multiple

    budget = RowBudget(
        max_tokens=longest("tokens", 64),
        max_audio_chunks=longest("audio_lengths", 2),
        max_patches=longest("patch_frames", 48),
    )
    batch, _ = collate_thinker(
        [[row] for row in rows],
        batch_size=batch_size or len(rows),
        budget=budget,
        processor=processor,
    )
    return batch.inputs
