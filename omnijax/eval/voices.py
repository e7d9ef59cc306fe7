"""How alike two voices are, by pitch and long-term spectrum: no released speaker encoder carries
its weights in its package, so what tells speakers apart by signal processing stands in for one.

A voice is a point: the mean log F0, and the long-term average spectrum of its voiced frames in
mel bands without its level and tilt by loudness. Each coordinate is divided by its spread over the
voices that are compared, so that neither rules.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.generate.speaker import Speaker
from omnijax.media.audio import Audio, resample
from omnijax.media.mel import MelConfig, log_mel
from omnijax.typing import Float

RATE = 16_000
FLOOR, CEILING = 60.0, 500.0  # Hz, of F0
MEL = MelConfig(sample_rate=RATE, bins=40, window=512, hop=160, floor_log10=-8.0)
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
    import librosa

    samples = resample(clip, RATE).samples
    if len(samples) < 2 * MEL.window or np.abs(samples).max() < 1e-4:
        raise UserError(f"a clip of {clip.seconds:.2f} s shows no voice: it is silent or too short")
    f0, voiced, _ = librosa.pyin(
        samples, fmin=FLOOR, fmax=CEILING, sr=RATE, frame_length=1024, hop_length=MEL.hop
    )
    mel = 4 * np.asarray(log_mel(samples, MEL)) - 4
    frames = min(len(voiced), len(mel))
    voiced, f0 = voiced[:frames], f0[:frames]
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


def score_cloning(
    speaker: Speaker,
    clips: Mapping[str, Sequence[Audio]],
    new: Sequence[str],
    texts: Sequence[str],
    *,
    language: str | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """How often a voice that was cloned from one clip is nearer to its own than to any other.

    Args:
      clips: what each voice says, at least two clips; new: those of the voices that are cloned.
      texts: what the clones say, one trial of each new voice for each.

    Returns:
      "cloned": the share of trials; "copied": the same of the references through the codec alone,
      "told": of the references as they are, which bounds both; "chance".
    """
    if not (texts and new):
        raise UserError("there is nothing to clone: give new voices and texts for them to say")
    prints = {name: [voice_print(clip) for clip in own] for name, own in clips.items()}
    won = {"cloned": 0, "copied": 0, "told": 0}
    trials = 0
    for name in new:
        for i, text in enumerate(texts):
            place = i % len(clips[name])
            reference = clips[name][place]
            # The reference is not among what its voice is told by, so that nothing is itself.
            others = {**prints, name: prints[name][:place] + prints[name][place + 1 :]}
            voice = speaker.clone(reference)
            (samples,) = speaker.say([text], [voice], languages=[language], seed=seed + i)
            tried = {
                "cloned": samples,
                "copied": speaker.decode(speaker.encode(reference)),
                "told": reference.samples,
            }
            trials += 1
            for kind, sound in tried.items():
                try:
                    there = distances(voice_print(Audio(sound, speaker.sample_rate)), others)
                except UserError:
                    continue  # a clone that has no voice is none
                won[kind] += min(there, key=there.get) == name
    shares = {kind: count / trials for kind, count in won.items()}
    return shares | {"chance": 1 / len(clips), "trials": trials}
