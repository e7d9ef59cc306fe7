"""The speech codec: trains it, and uses it as a tool.

    python experiments/codec.py encode x.wav codes.npz      speech to 12.5 frames of codes a second
    python experiments/codec.py decode codes.npz y.wav      and back
    python experiments/codec.py score                       held-out speech: STOI, WER, codebook
        use, how far what is streamed lies from the whole
    python experiments/codec.py train --config=experiments/configs/nano_codec.py:codec_decoder
    python experiments/codec.py export runs/nano_codec/codec_decoder FOLDER

--weights=FOLDER names the codec: exported weights or a run; the shipped one is the default. A sound
at another rate is resampled to 24 kHz. The same `train` command resumes a run that was stopped.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments import _stage  # noqa: E402
from experiments._main import check_output, compilation_cache, launch  # noqa: E402
from omnijax.errors import UserError  # noqa: E402

WEIGHTS = flags.DEFINE_string("weights", "nano", "nano, an exported codec, or a training run.")
EXAMPLES = flags.DEFINE_integer("examples", 100, "score: so many held-out clips.", lower_bound=1)
RECOGNISER = flags.DEFINE_string("recogniser", "nano", "score: whose transcripts give the WER.")
SPLIT = flags.DEFINE_enum("split", "test", ["validation", "test"], "score: of OmniWorld.")
OUT = flags.DEFINE_string("out", None, "score: write the figures here too, as JSON.")
USAGE = "give one of train, encode IN OUT, decode IN OUT, score, export RUN FOLDER"


def encode(source: str, target: str) -> None:
    import numpy as np

    from omnijax.data.codes import fingerprint
    from omnijax.media import load_audio, resample
    from omnijax.models.codec import SAMPLE_RATE, encode_clip
    from omnijax.train.codec import load_codec

    check_output(target, ".npz")
    clip = load_audio(source)
    codec, params = load_codec(WEIGHTS.value)
    samples = resample(clip, SAMPLE_RATE).samples
    codes = encode_clip(codec, {"params": params}, samples)
    mark = fingerprint(params["quantiser"]["codebooks"])
    np.savez(target, codes=codes, samples=len(samples), sample_rate=SAMPLE_RATE, codec=mark)
    kbits = codec.config.frame_rate * codec.config.codebooks * np.log2(codec.config.codes) / 1000
    print(f"{target}: {len(codes)} frames of {codec.config.codebooks} codes, {kbits:.1f} kbit/s")


def decode(source: str, target: str) -> None:
    import numpy as np

    from omnijax.data.codes import UNREADABLE, fingerprint
    from omnijax.media import Audio, save_audio
    from omnijax.models.codec import SAMPLE_RATE, decode_clip
    from omnijax.train.codec import load_codec

    check_output(target, ".wav")
    try:
        with np.load(source) as file:
            codes, length = file["codes"], int(file["samples"])
            made_by = str(file["codec"]) if "codec" in file else None
    except UNREADABLE as error:
        raise UserError(f"cannot read codes from {source}: {error}") from None
    codec, params = load_codec(WEIGHTS.value)
    mark = fingerprint(params["quantiser"]["codebooks"])
    if made_by is None:  # as files were before they said it
        print(f"warning: {source} does not say which codec made it", file=sys.stderr)
    elif made_by != mark:
        raise UserError(
            f"{source} has codes of codec {made_by}, --weights={WEIGHTS.value} is {mark}"
        )
    samples = decode_clip(codec, {"params": params}, codes)
    if not 0 < length <= len(samples):
        raise UserError(f"{source}: {length} samples, {len(codes)} frames are {len(samples)}")
    save_audio(target, Audio(samples[:length], SAMPLE_RATE))
    print(f"{target}: {length / SAMPLE_RATE:.2f} s")


def score() -> None:
    """Held-out sentences: what of them survives the codec."""
    import numpy as np

    from omnijax.data.omniworld import live
    from omnijax.eval.scoring import word_error_rate
    from omnijax.eval.speech import codebook_use, mel_distance, pitch_kept, stoi, streamed_apart
    from omnijax.eval.spoken import transcripts
    from omnijax.media import Audio
    from omnijax.models.codec import SAMPLE_RATE, decode_clip, encode_clip
    from omnijax.pretrained import load
    from omnijax.train.codec import load_codec

    if OUT.value:
        check_output(OUT.value)
    recogniser = load(RECOGNISER.value) if RECOGNISER.value else None
    codec, params = load_codec(WEIGHTS.value)
    source = live(SPLIT.value, tasks=["say"])
    examples = [source[i] for i in range(min(EXAMPLES.value, len(source)))]
    clips, decoded, codes = [], [], []
    for example in examples:
        clip = example["meta"]["speech"]
        codes.append(encode_clip(codec, {"params": params}, clip.samples))
        samples = decode_clip(codec, {"params": params}, codes[-1])[: len(clip.samples)]
        clips.append(clip)
        decoded.append(Audio(samples, SAMPLE_RATE))
    pairs = list(zip(clips, decoded, strict=True))
    use = codebook_use(codes, codec.config.codes)
    pitch = pitch_kept(pairs)
    noise = [clip._replace(samples=_noise(clip.samples)) for clip in clips]
    figures = {
        "split": SPLIT.value,
        "examples": len(examples),
        "stoi": float(np.mean([stoi(a, b) for a, b in pairs])),
        "stoi_of_noise": float(np.mean([stoi(a, b) for a, b in zip(clips, noise, strict=True)])),
        **perceived(pairs),
        "mel_distance": float(np.mean([mel_distance(a, b) for a, b in pairs])),
        "voiced_kept": pitch.voiced,
        "unvoiced_hummed": pitch.hummed,
        **({} if pitch.semitones is None else {"semitones_apart": pitch.semitones}),
        "streamed_apart": streamed_apart(codec, params, codes),
        "codebook_use": use.share.tolist(),
        "codebook_perplexity": use.perplexity.tolist(),
    }
    if recogniser:
        truths = [example["meta"]["answer"] for example in examples]
        figures["wer_original"] = word_error_rate(truths, transcripts(recogniser, clips))
        figures["wer_decoded"] = word_error_rate(truths, transcripts(recogniser, decoded))
    for name, value in figures.items():
        if isinstance(value, list):
            print(f"{name:22}" + " ".join(f"{v:.2f}" for v in value))
        else:
            print(f"{name:22}{value}" if isinstance(value, str) else f"{name:22}{value:.4g}")
    if OUT.value:
        Path(OUT.value).write_text(json.dumps(figures, indent=2) + "\n")


def perceived(pairs) -> dict[str, float]:
    """PESQ, where it is installed."""
    import importlib.util

    from omnijax.eval.speech import pesq

    if importlib.util.find_spec("pesq") is None:
        return {}
    return {"pesq": sum(pesq(a, b) for a, b in pairs) / len(pairs)}


def _noise(samples):
    """White noise as loud as the clip: what STOI says of no speech at all."""
    import numpy as np

    size = np.sqrt(np.mean(np.square(samples)))
    return (np.random.default_rng(0).standard_normal(len(samples)) * size).astype(np.float32)


def main(arguments: list[str]) -> int:
    command, *rest = arguments or [""]
    if command == "train" and not rest:
        return _stage.main_of("codec", "codec_decoder")
    compilation_cache()
    if command == "score" and not rest:
        score()
    elif command in ("encode", "decode") and len(rest) == 2:
        {"encode": encode, "decode": decode}[command](*rest)
    elif command == "export" and len(rest) == 2:
        from omnijax.train.codec import export_codec

        file = export_codec(Path(rest[0]), Path(rest[1]))
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    else:
        raise UserError(f"{USAGE}; got {' '.join(arguments) or 'nothing'}")
    return 0


if __name__ == "__main__":
    launch(main, commands=True)
