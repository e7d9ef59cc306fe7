"""A WAV file is playable after every piece."""

import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.media import load_audio
from omnijax.media.wav import WavWriter


def test_the_file_is_whole_after_every_piece(tmp_path):
    rng = np.random.default_rng(0)
    pieces = [rng.uniform(-1, 1, n).astype(np.float32) for n in (100, 1, 500)]
    wav = WavWriter(tmp_path / "x.wav", 24_000)  # never closed: as after a kill
    for n, piece in enumerate(pieces, start=1):
        wav.write(piece)
        clip = load_audio(tmp_path / "x.wav")
        assert clip.sample_rate == 24_000
        np.testing.assert_allclose(clip.samples, np.concatenate(pieces[:n]), atol=1e-4)


def test_what_cannot_be_written_is_said(tmp_path):
    with pytest.raises(UserError, match="written to a .wav file"):
        WavWriter(tmp_path / "x.mp3", 24_000)
    with pytest.raises(UserError, match="cannot write"):
        WavWriter(tmp_path / "nowhere" / "x.wav", 24_000)
    with WavWriter(tmp_path / "x.wav", 24_000) as wav:
        for bad in (1.5, np.nan):
            with pytest.raises(UserError, match="a sample is"):
                wav.write(np.array([0.0, bad], np.float32))
