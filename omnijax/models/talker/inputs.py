"""What a Talker reads and, in training, predicts."""

from typing import NamedTuple

import jax.numpy as jnp

from omnijax.typing import Array, Bool, Float, Int


class TalkerInputs(NamedTuple):
    """One batch; a position reads the sum of what it has, -1 (or False) is what it has not.

    In an ARIA stream that is one thing: a text token, a mark, a frame, or the Thinker's stream at
    a media position. Dual-track positions have a text token and a frame.
    """

    tokens: Int[Array, "B T"]  # ids in the text table
    codes: Int[Array, "B T Q"]  # of a frame; a mark of the codec table alone in column 0
    media: Bool[Array, "B T"]  # the k-th of a row takes its k-th valid ``hidden``
    positions: Int[Array, "3 B T"]
    segment_ids: Int[Array, "B T"]  # document of the position in its row; 0 = padding
    hidden: Float[Array, "B S H"] | None = None  # the Thinker's stream at media positions
    hidden_valid: Bool[Array, "B S"] | None = None


class TalkerBatch(NamedTuple):
    """Packed rows; position t predicts what its document reads at t + 1."""

    inputs: TalkerInputs
    targets: Int[Array, "B T Q"]  # codes; of an end or a request column 0 only
    kinds: Int[Array, "B T"]  # aria.NOTHING, FRAME, END or ASK

    def counts(self) -> tuple[int, int]:
        """(positions that are no padding, those that predict something) of a host batch."""
        return int((self.inputs.segment_ids > 0).sum()), int((self.kinds > 0).sum())


def speech_inputs(codes: Int[Array, "B T Q"]) -> TalkerInputs:
    """Frames alone, one document a row, no padding."""
    rows = codes.shape[:2]
    return TalkerInputs(
        tokens=jnp.full(rows, -1),
        codes=codes,
        media=jnp.zeros(rows, bool),
        positions=jnp.broadcast_to(jnp.arange(rows[1]), (3, *rows)),
        segment_ids=jnp.ones(rows, jnp.int32),
    )
