"""From a plan's media items to arrays and to the compact bytes that records hold, both ways.

Sound is FLAC of 12 significant bits, a picture PNG, a clip its raw frames under zlib with its sound
track. What ``render`` gives is what the bytes hold, so a stored example equals one made on the fly.
"""

import io
import struct
import zlib

import numpy as np
import soundfile
from PIL import Image

from omnijax.data.omniworld import sounds, speech, world
from omnijax.media.audio import Audio
from omnijax.media.video import Video

Media = Audio | Video | np.ndarray
_VIDEO_HEADER = struct.Struct("<4I")  # frames, height, width, bytes of the zlib block
_STEP = 16  # 16-bit units that one step of 12 bits is worth


def render(item: dict) -> Media:
    """Draws, plays or speaks one media item of a plan."""
    rng = np.random.default_rng(item["seed"])
    match item["kind"]:
        case "picture":
            return world.picture(item["objects"], rng)
        case "sounds":
            track = sounds.sound_track(item["sounds"], item["duration"], rng)
            return Audio(_quantise(track), sounds.SAMPLE_RATE)
        case "clip":
            frames, times = world.clip_frames(
                item["objects"], item["motions"], item["duration"], rng
            )
            track = sounds.sound_track(item["sounds"], item["duration"], rng)
            return Video(frames, times, Audio(_quantise(track), sounds.SAMPLE_RATE),
                         item["duration"])  # fmt: skip
        case "speech":
            rate = item.get("sample_rate", 16_000)
            samples = speech.speak(item["text"], item["voice"], item["accent"], rng, rate,
                                   item.get("hiss", True))  # fmt: skip
            return Audio(_quantise(samples), rate)
    raise ValueError(f"media kind {item['kind']!r}")


def encode(value: Media) -> bytes:
    """The bytes that a record holds; the first tells the kind."""
    if isinstance(value, Audio):
        return b"A" + _flac(value)
    if isinstance(value, Video):
        packed = zlib.compress(value.frames.tobytes(), 1)
        header = _VIDEO_HEADER.pack(*value.frames.shape[:3], len(packed))
        return b"V" + header + packed + _flac(value.audio)
    buffer = io.BytesIO()
    Image.fromarray(value).save(buffer, "png", compress_level=1)
    return b"I" + buffer.getvalue()


def decode(data: bytes) -> Media:
    kind, body = data[:1], data[1:]
    if kind == b"A":
        return _read_flac(body)
    if kind == b"I":
        with Image.open(io.BytesIO(body)) as image:
            return np.asarray(image)
    count, height, width, packed = _VIDEO_HEADER.unpack_from(body)
    start = _VIDEO_HEADER.size
    frames = np.frombuffer(zlib.decompress(body[start : start + packed]), np.uint8)
    audio = _read_flac(body[start + packed :])
    times = np.arange(count) / world.FRAME_RATE
    frames = frames.reshape(count, height, width, 3)
    return Video(frames, times, audio, count / world.FRAME_RATE)


def _quantise(samples: np.ndarray) -> np.ndarray:
    steps = np.clip(np.rint(samples * (32768 / _STEP)), -32768 // _STEP, 32767 // _STEP)
    return (steps * (_STEP / 32768)).astype(np.float32)


def _flac(audio: Audio) -> bytes:
    buffer = io.BytesIO()
    samples = (audio.samples * 32768).astype(np.int16)
    soundfile.write(buffer, samples, audio.sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _read_flac(data: bytes) -> Audio:
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    return Audio(samples, rate)
