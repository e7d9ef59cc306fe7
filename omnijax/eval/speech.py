"""How close decoded speech is to what was spoken: intelligibility, mel distance, pitch; how many
codes it takes; and whether it is the same when it is streamed."""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from omnijax.errors import UserError
from omnijax.media.audio import Audio, resample
from omnijax.media.mel import MelConfig, log_mel
from omnijax.models.codec import Codec, init_decode_state, stream_decode
from omnijax.typing import Float, Int

STOI_RATE = 10_000  # samples a second that STOI is defined at
PESQ_RATE = 16_000  # the same of wideband PESQ
SHORTEST_STOI = 0.4  # seconds that are not silence: STOI compares runs of 30 frames
MEL = MelConfig(sample_rate=24_000, bins=80, window=1024, hop=256, floor_log10=-5.0)  # the loss'
PITCH_RATE, PITCH_HOP = 16_000, 160
PITCH_FLOOR, PITCH_CEILING = 60.0, 500.0  # Hz


class PitchKept(NamedTuple):
    """What copies have of the originals' pitch, over all frames of all clips."""

    voiced: float  # the share of voiced frames that are voiced in the copy
    hummed: float  # the share of the others that are
    semitones: float | None  # median distance where both are voiced; None: nowhere


class CodebookUse(NamedTuple):
    """Of each codebook: the share of its codes that occur, and the perplexity of all."""

    share: Float[np.ndarray, " Q"]
    perplexity: Float[np.ndarray, " Q"]


def stoi(clean: Audio, decoded: Audio) -> float:
    """Short-time objective intelligibility (Taal et al. 2011), 0 to 1, by `pystoi`.

    Raises:
      UserError: the clips differ in rate or length, or hold under 0.4 s that is within 40 dB of
        the loudest.
    """
    import pystoi

    _check_pair(clean, decoded)
    a, b = (resample(clip, STOI_RATE).samples.astype(np.float64) for clip in (clean, decoded))
    silent = UserError(
        f"STOI needs {SHORTEST_STOI} s of speech, the clip of {clean.seconds:.2f} s has less"
    )
    if not a.any():
        raise silent
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return float(pystoi.stoi(a, b, STOI_RATE))
        except RuntimeWarning:
            raise silent from None


def pesq(clean: Audio, decoded: Audio) -> float:
    """Perceived quality (ITU-T P.862.2, wideband), 1.0 to 4.6, by `pesq` (the extra of that name).

    Raises:
      UserError: `pesq` is not installed, the clips differ in rate or length, or hold no speech.
    """
    try:
        from pesq import NoUtterancesError
        from pesq import pesq as measure
    except ImportError:
        raise UserError('PESQ needs a package: pip install -e ".[pesq]"') from None
    _check_pair(clean, decoded)
    a, b = (resample(clip, PESQ_RATE).samples for clip in (clean, decoded))
    try:
        return float(measure(PESQ_RATE, a, b, "wb"))
    except NoUtterancesError:
        raise UserError(f"PESQ finds no speech in the clip of {clean.seconds:.2f} s") from None


def mel_distance(clean: Audio, decoded: Audio) -> float:
    """Mean absolute difference of log10 mel power, 80 bins of 24 kHz speech, below -5 silence."""
    _check_pair(clean, decoded)
    if clean.sample_rate != MEL.sample_rate:
        raise UserError(f"the clips are at {clean.sample_rate} Hz, mels are of {MEL.sample_rate}")
    # log_mel is (log10 power + 4) / 4.
    ours, theirs = (np.asarray(log_mel(clip.samples, MEL)) for clip in (clean, decoded))
    return float(4 * np.mean(np.abs(ours - theirs)))


def pitch_track(clip: Audio) -> tuple[Float[np.ndarray, " T"], Float[np.ndarray, " A"]]:
    """(F0 in Hz, a hundred times a second, nan where there is none; the samples at 16 kHz).

    By pYIN (Mauch and Dixon 2014), of `librosa`.
    """
    import librosa

    samples = resample(clip, PITCH_RATE).samples
    f0, _, _ = librosa.pyin(
        samples,
        fmin=PITCH_FLOOR,
        fmax=PITCH_CEILING,
        sr=PITCH_RATE,
        frame_length=1024,
        hop_length=PITCH_HOP,
    )
    return f0, samples


def pitch_kept(pairs: Sequence[tuple[Audio, Audio]]) -> PitchKept:
    """Whether copies have a voice where the originals have, and how high; pairs (original, copy).

    Raises:
      UserError: a pair differs in rate or length, or no original has a pitch anywhere.
    """
    for pair in pairs:
        _check_pair(*pair)
    tracks = [[pitch_track(clip)[0] for clip in pair] for pair in pairs]
    ours, theirs = (np.concatenate(side) for side in zip(*tracks, strict=True))
    voiced, copied = np.isfinite(ours), np.isfinite(theirs)
    if not voiced.any():
        raise UserError(f"nothing in the {len(pairs)} clips has a pitch")
    both = voiced & copied
    apart = 12 * np.abs(np.log2(ours[both] / theirs[both]))
    return PitchKept(
        float(copied[voiced].mean()),
        float(copied[~voiced].mean()) if not voiced.all() else 0.0,
        float(np.median(apart)) if both.any() else None,
    )


def codebook_use(codes: Sequence[Int[np.ndarray, "_ Q"]], size: int) -> CodebookUse:
    """Over all frames of all clips."""
    if not len(codes):
        raise UserError("there are no codes to count")
    rows = np.concatenate(codes)
    counts = np.stack([np.bincount(column, minlength=size) for column in rows.T]).astype(float)
    shares = counts / counts.sum(1, keepdims=True)
    entropy = -np.sum(shares * np.log(np.where(shares > 0, shares, 1)), axis=1)
    return CodebookUse((counts > 0).mean(1), np.exp(entropy))


def _check_pair(clean: Audio, decoded: Audio) -> None:
    if clean.sample_rate != decoded.sample_rate or len(clean.samples) != len(decoded.samples):
        raise UserError(
            f"the clips must be of one length and rate: {len(clean.samples)} samples at "
            f"{clean.sample_rate} Hz and {len(decoded.samples)} at {decoded.sample_rate} Hz"
        )


def streamed_apart(
    codec: Codec,
    params: dict,
    clips: Sequence[Int[np.ndarray, "_ Q"]],
    frames: int = 100,
    longest: int = 8,
) -> float:
    """The largest difference of a sample, streamed in pieces of 1 to `longest` frames and whole.

    clips: the codes of each, laid end to end, cut into runs of `frames`, what is over left out; if
      they are not even one run, they are one of their own length.
    """
    if not sum(map(len, clips)):
        raise UserError("there are no codes to stream")
    for name, value in (("frames", frames), ("longest", longest)):
        if value < 1:
            raise UserError(f"{name} is {value}, it must be at least 1")
    params, rng = {"params": params}, np.random.default_rng(0)
    whole = jax.jit(lambda codes: codec.apply(params, codes, method="decode"))
    codes = np.concatenate(clips)
    apart = []
    for start in range(0, max(len(codes) - frames, 0) + 1, frames):
        left = codes[None, start : start + frames]
        at_once = np.asarray(whole(left)[0])
        state, streamed = init_decode_state(codec), []
        while left.shape[1]:
            piece = left[:, : rng.integers(1, longest + 1)]
            left = left[:, piece.shape[1] :]
            state, samples = stream_decode(codec, params, state, piece)
            streamed.append(samples[0])
        apart.append(np.abs(np.concatenate(streamed) - at_once).max())
    return float(np.max(apart))  # a NaN stays one
