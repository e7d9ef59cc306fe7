import av
import numpy as np
import pytest
import soundfile

from omnijax.errors import UserError
from omnijax.media.audio import Audio, check_audio, load_audio, resample, save_audio


def tone(rate: int = 16_000, seconds: float = 0.5, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)).astype("f4")


def test_what_save_audio_writes_as_wav_load_audio_reads_back_exactly(tmp_path):
    audio = Audio(tone(24_000), 24_000)
    save_audio(tmp_path / "a.wav", audio)
    back = load_audio(tmp_path / "a.wav")
    assert back.sample_rate == 24_000
    np.testing.assert_array_equal(back.samples, audio.samples)


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3"])
def test_compressed_files_are_read_at_their_own_rate(tmp_path, ending):
    save_audio(tmp_path / f"a.{ending}", Audio(tone(24_000, 1.0), 24_000))
    back = load_audio(tmp_path / f"a.{ending}")
    assert back.sample_rate == 24_000
    assert abs(back.seconds - 1.0) < 0.06
    assert 0.25 < np.sqrt(np.mean(back.samples**2)) < 0.45


def test_a_sound_track_that_libsndfile_does_not_know_is_read_through_ffmpeg(tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(seconds=1.0)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    back = load_audio(tmp_path / "a.m4a")
    assert back.sample_rate == 16_000 and abs(back.seconds - 1.0) < 0.15


def test_two_channels_are_mixed_down_by_their_mean(tmp_path):
    left, right = tone(hertz=300), tone(hertz=500)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "a.wav").samples, (left + right) / 2, 1e-6)


def test_sixteen_bit_samples_are_scaled_to_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([-32768, 0, 16384], np.int16), 8000)
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav").samples, [-1, 0, 0.5])


def test_resampling_keeps_length_in_seconds_and_pitch():
    out = resample(Audio(tone(48_000, 1.0), 48_000), 16_000)
    assert out.sample_rate == 16_000 and len(out.samples) == 16_000
    np.testing.assert_allclose(out.samples[500:-500], tone(16_000, 1.0)[500:-500], atol=2e-3)


def test_resampling_to_its_own_rate_changes_nothing():
    audio = Audio(tone(), 16_000)
    assert resample(audio, 16_000) is audio


@pytest.mark.parametrize(
    "audio, message",
    [
        (Audio(tone(), 0), "sample rate is 0 Hz"),
        (Audio(tone(), -1), "sample rate is -1 Hz"),
        (Audio(np.zeros(0, np.float32), 16_000), "no samples"),
        (Audio(np.array([0, np.nan], np.float32), 16_000), "sample 1 is nan"),
        (Audio(np.array([np.inf, 0], np.float32), 16_000), "sample 0 is inf"),
        (Audio(np.zeros((2, 9), np.float32), 16_000), r"shape \(2, 9\)"),
        (Audio(np.zeros(9, np.int16), 16_000), "int16"),
        (Audio(20_000 * tone(), 16_000), r"samples reach \d+, must be float32 in -1..1"),
        (Audio([0.0, 0.1], 16_000), "shape list"),
    ],
)
def test_bad_sound_is_refused_with_the_value_that_is_wrong(audio, message):
    for call in (check_audio, lambda a: resample(a, 8000)):
        with pytest.raises(UserError, match=message):
            call(audio)


def test_a_length_limit_is_an_error_and_only_where_one_is_given(tmp_path):
    save_audio(tmp_path / "a.wav", Audio(tone(seconds=2.0), 16_000))
    assert load_audio(tmp_path / "a.wav").seconds == 2.0
    assert load_audio(tmp_path / "a.wav", max_seconds=2.0).seconds == 2.0
    with pytest.raises(UserError, match=r"a\.wav: lasts 2.00 s, over the limit of 1.5 s"):
        load_audio(tmp_path / "a.wav", max_seconds=1.5)


def test_resampling_to_a_rate_of_zero_is_refused():
    with pytest.raises(UserError, match="0 Hz"):
        resample(Audio(tone(), 16_000), 0)


def test_an_unreadable_file_is_refused_by_name(tmp_path):
    (tmp_path / "text.wav").write_text("not a sound " * 50)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "folder.wav").mkdir()
    save_audio(tmp_path / "whole.wav", Audio(tone(), 16_000))
    for name, message in {
        "text.wav": "cannot be read as sound",
        "empty.wav": r"empty \(0 bytes\)",
        "missing.wav": "no such file",
        "folder.wav": "not a file",
    }.items():
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            load_audio(tmp_path / name)


def test_a_damaged_file_is_read_or_refused_by_name(tmp_path):
    soundfile.write(tmp_path / "whole.mp3", tone(), 16_000)
    whole = (tmp_path / "whole.mp3").read_bytes()
    refused = 0
    for seed in range(24):  # seed 2: a header that tells of 7 TiB
        rng, damaged = np.random.default_rng(seed), bytearray(whole)
        for place in rng.integers(0, 200, 8):
            damaged[place] = rng.integers(256)
        (tmp_path / "damaged.mp3").write_bytes(damaged)
        try:
            assert len(load_audio(tmp_path / "damaged.mp3").samples)
        except UserError as error:
            assert "damaged.mp3" in str(error)
            refused += 1
    assert refused < 24


def test_a_wav_file_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 16_000)
    with pytest.raises(UserError, match="no samples"):
        load_audio(tmp_path / "a.wav")


def test_a_wav_file_whose_header_says_a_rate_of_zero_is_refused(tmp_path):
    save_audio(tmp_path / "a.wav", Audio(tone(), 16_000))
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"fmt ") + 12
    data[at : at + 4] = bytes(4)
    (tmp_path / "a.wav").write_bytes(bytes(data))
    with pytest.raises(UserError, match="a.wav"):
        load_audio(tmp_path / "a.wav")


def test_nan_in_a_file_is_refused(tmp_path):
    samples = tone()
    samples[5] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(UserError, match="a.wav: sample 5 is nan"):
        load_audio(tmp_path / "a.wav")


def test_saving_what_the_format_would_clip_or_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match="peak is 1.000|peak is 1.5"):
        save_audio(tmp_path / "a.flac", Audio(3 * tone(), 16_000))
    with pytest.raises(UserError, match="a.xyz: cannot be written"):
        save_audio(tmp_path / "a.xyz", Audio(tone(), 16_000))


def test_two_channels_in_a_video_container_are_mixed_down_by_their_mean(tmp_path):
    planes = np.stack([np.full(8000, 8192, np.int16), np.full(8000, 16384, np.int16)])
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="stereo")
        interleaved = np.ascontiguousarray(planes.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout="stereo")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    back = load_audio(tmp_path / "a.mkv")
    np.testing.assert_array_equal(back.samples, np.full(8000, 0.375, np.float32))


def test_a_gap_in_a_sound_track_is_silence_so_that_what_follows_keeps_its_time(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for start in (0, 4000):
            part = np.full((1, 800), 16384, np.int16)
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    samples = load_audio(tmp_path / "a.mkv").samples
    expected = np.zeros(4800, np.float32)
    expected[:800] = expected[4000:] = 0.5
    np.testing.assert_array_equal(samples, expected)
