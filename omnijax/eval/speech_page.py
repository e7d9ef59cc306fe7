"""A spoken answer on a page: its player, its ARIA stream, its waveform and its spectrogram."""

from collections.abc import Sequence

import numpy as np

from omnijax.eval import page
from omnijax.media import Audio, log_mel, resample
from omnijax.media.mel import MelConfig
from omnijax.typing import Float

MEL = MelConfig()


def stream_order(read: Sequence[int], frames: Sequence[int]) -> list[bool]:
    """The stream's positions, True for frames.

    read: text tokens that had been read when each packet was made; frames: frames in each.
    """
    order: list[bool] = []
    before = 0
    for tokens, count in zip(read, frames, strict=True):
        order += [False] * (tokens - before) + [True] * count
        before = tokens
    return order


def spoken(
    samples: Float[np.ndarray, " A"], sample_rate: int, read: Sequence[int], frames: Sequence[int]
) -> str:
    """HTML of one answer."""
    if not len(samples):
        return page.note("nothing was said")
    heard = resample(Audio(samples, sample_rate), MEL.sample_rate)
    mel = np.asarray(log_mel(heard.samples, MEL))
    return "".join(
        (
            page.audio(samples, sample_rate),
            _stream(stream_order(read, frames)),
            _waveform(samples, sample_rate),
            page.spectrogram(mel),
        )
    )


def _stream(order: Sequence[bool]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 0.8), dpi=90, layout="constrained")
    axis.imshow([order], aspect="auto", cmap="coolwarm", vmin=0, vmax=1, interpolation="nearest")
    axis.set(yticks=[], xlabel="position in the ARIA stream: blue is text, red is a frame")
    return page.plot(figure, alt="which positions are text and which are frames")


def _waveform(samples: np.ndarray, sample_rate: int) -> str:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 1.1), dpi=90, layout="constrained")
    axis.plot(np.arange(len(samples)) / sample_rate, samples, linewidth=0.5)
    axis.set(xlim=(0, len(samples) / sample_rate), yticks=[], xlabel="seconds")
    return page.plot(figure, alt="waveform")
