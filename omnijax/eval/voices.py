"""How alike two voices are, by one of two measures; `measure` says which is at hand.

The speaker encoder of Resemblyzer (a GE2E d-vector, Wan et al. 2018), a released one that carries
its weights in its package: the extra `speakers`. Voices are compared by cosine.

Else pitch and long-term spectrum. A voice is a point: the mean log F0, and the long-term average
spectrum of its voiced frames in mel bands without its level and tilt by loudness. Each coordinate
is divided by its spread over the voices that are compared, so that neither rules.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.eval.speech import PITCH_HOP, PITCH_RATE, pitch_track
from omnijax.generate.speaker import Speaker
from omnijax.media.audio import Audio, resample
from omnijax.media.mel import MelConfig, log_mel
from omnijax.typing import Float

RATE = PITCH_RATE
MEL = MelConfig(sample_rate=RATE, bins=40, window=512, hop=PITCH_HOP, floor_log10=-8.0)
SHORTEST = 0.3  # seconds of voiced sound that show a voice


class VoicePrint(NamedTuple):
    """What a clip says of its speaker."""

    pitch: float  # mean log2 of F0 in Hz: an octave is 1
    spectrum: Float[np.ndarray, "M"]  # log10 power, mean 0


def voice_print(clip: Audio) -> VoicePrint:
    """Of the voiced frames of a clip.

    Raises:
      UserError: under 0.3 s of it is voiced.
    """
    if clip.seconds * RATE < 2 * MEL.window or np.abs(clip.samples).max() < 1e-4:
        raise UserError(f"a clip of {clip.seconds:.2f} s shows no voice: it is silent or too short")
    f0, samples = pitch_track(clip)
    mel = 4 * np.asarray(log_mel(samples, MEL)) - 4
    frames = min(len(f0), len(mel))
    f0 = f0[:frames]
    voiced = np.isfinite(f0)
    if voiced.sum() * MEL.hop < SHORTEST * RATE:
        raise UserError(
            f"{voiced.sum() * MEL.hop / RATE:.2f} s of the clip are voiced, a voice is told by "
            f"{SHORTEST} s"
        )
    spectrum = mel[:frames][voiced].mean(0)
    return VoicePrint(float(np.log2(f0[voiced]).mean()), spectrum - spectrum.mean())


def distances(clip: VoicePrint, voices: Mapping[str, Sequence[VoicePrint]]) -> dict[str, float]:
    """From a clip to each voice, that of several clips: 0 is the same voice.

    The spreads by which coordinates are divided are those between the voices.
    """
    if len(voices) < 2:
        raise UserError(f"there is nothing to compare: voices are {', '.join(voices) or 'none'}")
    pitch = {name: np.mean([one.pitch for one in own]) for name, own in voices.items()}
    spectra = {name: np.mean([one.spectrum for one in own], axis=0) for name, own in voices.items()}
    pitch_spread = max(float(np.std(list(pitch.values()))), 1e-3)
    spread = np.maximum(np.std(list(spectra.values()), axis=0), 1e-3)
    return {
        name: float(
            abs(clip.pitch - pitch[name]) / pitch_spread
            + np.sqrt(np.mean(((clip.spectrum - spectra[name]) / spread) ** 2))
        )
        for name in voices
    }


@functools.cache
def _speaker_encoder():
    try:
        from resemblyzer import VoiceEncoder
    except ImportError as error:
        raise UserError(
            f'the speaker encoder needs a package ({error}): pip install -e ".[speakers]"'
        ) from None
    return VoiceEncoder("cpu", verbose=False)


def speaker_embedding(clip: Audio) -> Float[np.ndarray, "256"]:
    """By Resemblyzer's encoder, from what its own detector takes for voice; of length 1.

    Raises:
      UserError: the package is not installed, or under 0.3 s of the clip is voice.
    """
    encoder = _speaker_encoder()
    from resemblyzer import preprocess_wav

    samples = resample(clip, RATE).samples
    heard = np.zeros(0)
    if np.abs(samples).max(initial=0) >= 1e-4:
        heard = preprocess_wav(samples)
    if len(heard) < SHORTEST * RATE:
        raise UserError(
            f"{len(heard) / RATE:.2f} s of the clip are voice, a voice is told by {SHORTEST} s"
        )
    return encoder.embed_utterance(heard)


def cosine_distances(
    clip: Float[np.ndarray, "D"], voices: Mapping[str, Sequence[Float[np.ndarray, "D"]]]
) -> dict[str, float]:
    """From a clip's embedding to each voice's, the mean of several clips': 0 is the same voice."""
    means = {name: np.mean(own, axis=0) for name, own in voices.items()}
    return {name: 1 - float(clip @ mean / np.linalg.norm(mean)) for name, mean in means.items()}


class Measure(NamedTuple):
    """show: what a clip says of its speaker, a UserError if it has no voice; distances: from that
    to each of several voices, of each what some clips say."""

    name: str
    show: Callable[[Audio], Any]
    distances: Callable[[Any, Mapping[str, Sequence[Any]]], dict[str, float]]


PITCH_AND_SPECTRUM = Measure("pitch and long-term spectrum", voice_print, distances)
SPEAKER_ENCODER = Measure("Resemblyzer's speaker encoder", speaker_embedding, cosine_distances)


def measure() -> Measure:
    """The speaker encoder where its package is installed, else pitch and spectrum.

    Raises:
      UserError: the package is there but cannot be imported.
    """
    if importlib.util.find_spec("resemblyzer") is None:
        return PITCH_AND_SPECTRUM
    _speaker_encoder()
    return SPEAKER_ENCODER


def score_cloning(
    speaker: Speaker,
    clips: Mapping[str, Sequence[Audio]],
    new: Sequence[str],
    texts: Sequence[str],
    by: Measure = PITCH_AND_SPECTRUM,
    *,
    language: str | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """How often a voice that was cloned from one clip is nearer to its own than to any other.

    Args:
      clips: what each voice says, at least two clips; new: those of the voices that are cloned.
      texts: what the clones say, one trial of each new voice for each.
      by: what nearness is.

    Returns:
      "cloned": the share of trials; "copied": the same of the references through the codec alone,
      "told": of the references as they are, which bounds both; "chance".
    """
    if not (texts and new):
        raise UserError("there is nothing to clone: give new voices and texts for them to say")
    few = [name for name, own in clips.items() if len(own) < 2]
    if few or len(clips) < 2:
        raise UserError(
            f"nothing to compare: {len(clips)} voices, and under two clips of {few or 'none'}"
        )
    prints = {name: [by.show(clip) for clip in own] for name, own in clips.items()}
    won = {"cloned": 0, "copied": 0, "told": 0}
    trials = 0
    for name in new:
        for i, text in enumerate(texts):
            place = i % len(clips[name])
            reference = clips[name][place]
            # The reference is not among what its voice is told by, so that nothing is itself.
            others = {**prints, name: prints[name][:place] + prints[name][place + 1 :]}
            voice = speaker.clone(reference)
            said = {"languages": [language], "seed": seed + i, "whole": False}
            (samples,) = speaker.say([text], [voice], **said)
            tried = {
                "cloned": samples,
                "copied": speaker.decode(speaker.encode(reference)),
                "told": reference.samples,
            }
            trials += 1
            for kind, sound in tried.items():
                try:
                    there = by.distances(by.show(Audio(sound, speaker.sample_rate)), others)
                except UserError:
                    continue  # a clone that has no voice is none
                won[kind] += min(there, key=there.get) == name
    shares = {kind: count / trials for kind, count in won.items()}
    return shares | {"chance": 1 / len(clips), "trials": trials}
