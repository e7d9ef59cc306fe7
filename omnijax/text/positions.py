"""TM-RoPE ids (time, height, width) on the host, one block at a time.

A stream's next chunk gets the ids that the whole would have had, because all that matters of the
past is in `PositionState`. Text and audio count up by one on all three axes (an audio token is
160 ms). A picture's tokens, and those of a video's temporal patch, share one time id and spread
over rows and columns; what follows starts at the overall maximum plus one. [REFERENCE §4]
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from omnijax.typing import Bool, Int, Num


class PositionState(NamedTuple):
    """Where a stream of tokens stands.

    next: the id of the next text token, the overall maximum plus one.
    beside: the id at which sound that belongs to the last vision block goes on.
    """

    next: float = 0
    beside: float = 0

    def text(self, count: int) -> tuple["PositionState", Num[np.ndarray, "T 3"]]:
        """Text, or audio that stands alone."""
        ids = self.next + np.arange(count)
        return PositionState(self.next + count, self.next + count), _on_all_axes(ids)

    def vision(self, rows: int, columns: int) -> tuple["PositionState", Num[np.ndarray, "T 3"]]:
        """One picture or temporal patch of rows x columns merged tokens, row by row."""
        ids = np.empty((rows, columns, 3), np.asarray(self.next).dtype)
        ids[..., 0] = self.next
        ids[..., 1] = self.next + np.arange(rows)[:, None]
        ids[..., 2] = self.next + np.arange(columns)
        return PositionState(self.next + max(rows, columns), self.next), ids.reshape(-1, 3)

    def sound_beside(self, count: int) -> tuple["PositionState", Num[np.ndarray, "T 3"]]:
        """Audio tokens of the last vision block: they restart at its first id. May come in parts.

        How sound and picture of one patch share ids is unpublished; this is our own choice [C].
        """
        ids = self.beside + np.arange(count)
        end = self.beside + count
        return PositionState(max(self.next, end), end), _on_all_axes(ids)


def audio_of_patches(
    times: Sequence[float],
    patch_seconds: float,
    frames_per_patch: int,
    tokens_per_second: float,
    available: int,
) -> list[int]:
    """How many audio tokens go with each temporal patch: those that begin before the next does.

    With even spacing, patch i has floor((i + 1) s r) - floor(i s r), so nothing drifts [C]; uneven
    spacing follows the true times. What is left of `available` comes after the last patch.
    """
    lead = patch_seconds * (frames_per_patch - 1) / (2 * frames_per_patch)
    starts = [time - lead for time in times]  # When each patch's first frame comes on.
    if len(starts) > 1:  # The last patch may be half a patch, its frame repeated.
        starts[-1] = max(starts[-1], starts[-2] + patch_seconds)
    ends = [*starts[1:], starts[-1] + patch_seconds]
    # A rounding guard: 3 x 0.1 s must not lose a token to 0.30000000000000004 and its like.
    edges = [min(available, int(max(end, 0) * tokens_per_second + 1e-6)) for end in ends]
    return [end - start for start, end in zip([0, *edges[:-1]], edges, strict=True)]


def qwen3_omni_video(
    state: PositionState,
    frames: int,
    rows: int,
    columns: int,
    seconds_per_frame: float,
    ids_per_second: float,
    audio_tokens: int = 0,
) -> tuple[PositionState, Num[np.ndarray, "T 3"], Bool[np.ndarray, "T"]]:
    """Qwen3-Omni's video: time ids from seconds, no stamps; sound merged in by time id.

    Returns the state, the ids and which tokens are audio; at equal time ids video comes first.
    Ids are float32, since half steps occur (`Qwen3OmniMoe…get_rope_index`).
    """
    one = np.float32
    times = np.arange(frames, dtype=one) * one(seconds_per_frame) * one(ids_per_second)
    axes = np.meshgrid(times, np.arange(rows), np.arange(columns), indexing="ij")
    video = np.stack(axes, -1).reshape(-1, 3).astype(one) + one(state.next)
    audio = _on_all_axes(np.arange(audio_tokens, dtype=one) + one(state.next))
    both = np.concatenate([video, audio])
    is_audio = np.arange(len(both)) >= len(video)
    order = np.argsort(both[:, 0], kind="stable")
    end = both.max() + 1 if len(both) else state.next
    return PositionState(end, end), both[order], is_audio[order]


def _on_all_axes(ids: Num[np.ndarray, "T"]) -> Num[np.ndarray, "T 3"]:
    return np.repeat(ids[:, None], 3, axis=1)


def as_int(ids: Num[np.ndarray, "T 3"]) -> Int[np.ndarray, "T 3"] | Num[np.ndarray, "T 3"]:
    """int32 where every id is whole (always, but in Qwen3-Omni's merged mode), else float32."""
    whole = ids.astype(np.int32)
    return whole if ids.dtype.kind == "i" or np.array_equal(whole, ids) else ids.astype(np.float32)
