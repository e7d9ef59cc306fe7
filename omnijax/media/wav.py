"""A WAV file that is whole after every piece, so that whoever is stopped leaves a playable one."""

import wave
from pathlib import Path

import numpy as np

from omnijax.errors import UserError
from omnijax.typing import Float


class WavWriter:
    """16-bit mono; after each `write` the header says what the file holds.

    with WavWriter("answer.wav", 24_000) as wav:
        wav.write(samples)
    """

    def __init__(self, path: str | Path, sample_rate: int):
        path = Path(path)
        if path.suffix.lower() != ".wav":
            raise UserError(f"{path}: speech is written to a .wav file")
        try:
            self._file = open(path, "wb")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from None
        self._wave = wave.open(self._file)
        self._wave.setnchannels(1)
        self._wave.setsampwidth(2)
        self._wave.setframerate(sample_rate)
        self.write(np.zeros(0, np.float32))

    def write(self, samples: Float[np.ndarray, " A"]) -> None:
        """More sound, -1..1. Raises UserError for samples that 16 bits cannot hold."""
        if not (np.abs(samples) <= 1).all():  # False for NaN too
            raise UserError(
                f"a sample is {samples[~(np.abs(samples) <= 1)][0]}, limits are -1 and 1"
            )
        pcm = np.rint(samples * 32767).astype("<i2")
        self._wave.writeframes(pcm.tobytes())
        self._file.flush()

    def close(self) -> None:
        self._wave.close()
        self._file.close()

    def __enter__(self) -> "WavWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
