"""The Talker: makes its data with a codec, trains it, packs a voice, speaks.

    python experiments/talker.py codes                        speech of OmniWorld as codec frames
    python experiments/talker.py train --config=experiments/configs/nano_talker.py:talker_speakers
    python experiments/talker.py export RUN FOLDER            the Talker and its stored voices
    python experiments/talker.py say "the red circle" out.wav --voice=anna --language=en
    python experiments/talker.py score                        held-out sentences: WER and more

`codes` encodes --count utterances of the training split, and a twentieth as many of the others,
with the codec in --codec, into --out. The same `train` command resumes a run that was stopped.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments import _stage  # noqa: E402
from experiments._main import compilation_cache, launch  # noqa: E402
from omnijax.errors import UserError  # noqa: E402

CODEC = flags.DEFINE_string("codec", "nano", "nano, an exported codec, or a training run.")
WEIGHTS = flags.DEFINE_string("weights", "nano", "nano, or a folder that `export` wrote.")
OUT = flags.DEFINE_string("out", "runs/nano_codec/codes", "codes: the folder they go to.")
COUNT = flags.DEFINE_integer("count", 12_000, "codes: utterances to train on.", lower_bound=20)
CODES = flags.DEFINE_string("codes", "runs/nano_codec/codes", "export: voices are taken from it.")
VOICE = flags.DEFINE_string("voice", None, "say: a stored voice.")
LANGUAGE = flags.DEFINE_string("language", None, "say: the language's name, such as en.")
SEED = flags.DEFINE_integer("seed", 0, "say: of the sampling.")
EXAMPLES = flags.DEFINE_integer("examples", 100, "score: so many sentences.", lower_bound=1)
RECOGNISER = flags.DEFINE_string("recogniser", "nano", "score: whose transcripts give the WER.")
REPORT = flags.DEFINE_string("report", None, "score: write the figures here too, as JSON.")
USAGE = "give one of codes, train, export RUN FOLDER, say TEXT OUT.wav, score"


def codes() -> None:
    """Each utterance through the codec's encoder, several of a length at a time."""
    from rich.progress import track

    from omnijax.data.codes import fingerprint, write_codes
    from omnijax.data.omniworld import live
    from omnijax.train.codec import load_codec

    codec, params = load_codec(CODEC.value)
    mark = fingerprint(params["quantiser"]["codebooks"])
    for split, count in (
        ("train", COUNT.value),
        ("validation", COUNT.value // 20),
        ("test", COUNT.value // 20),
    ):
        source = live(split, tasks=["say"])
        made = encoded(codec, params, source, min(count, len(source)))
        bar = track(made, total=min(count, len(source)), description=split)
        written = write_codes(OUT.value, split, bar, mark)
        print(f"{Path(OUT.value) / split}.npz: {written} utterances")


def encoded(codec, params, source, count: int, batch: int = 16):
    """Utterances of a source with their frames; clips of a batch are filled with silence."""
    import jax
    import numpy as np

    from omnijax.data.codes import Utterance

    size = codec.config.samples_per_frame
    encode = jax.jit(lambda samples: codec.apply({"params": params}, samples, method="encode"))
    for start in range(0, count, batch):
        examples = [source[i] for i in range(start, min(start + batch, count))]
        clips = [example["meta"]["speech"].samples for example in examples]
        frames = [-(-len(clip) // size) for clip in clips]
        longest = -(-max(frames) // 10) * 10  # few shapes to compile
        samples = np.zeros((batch, longest * size), np.float32)
        for row, clip in zip(samples, clips, strict=False):
            row[: len(clip)] = clip
        rows = np.asarray(encode(samples))
        for example, row, length in zip(examples, rows, frames, strict=False):
            meta = example["meta"]
            yield Utterance(
                meta["answer"],
                meta["language"],
                meta["voice"],
                meta["voice_description"],
                row[:length],
            )


def say(text: str, target: str) -> None:
    import numpy as np

    from omnijax.generate.speaker import Speaker, speakable
    from omnijax.media import Audio, save_audio
    from omnijax.pretrained import load_speaker

    if Path(target).suffix != ".wav" or not Path(target).absolute().parent.is_dir():
        raise UserError(f"cannot write {target}: give a .wav file in a folder that exists")
    speakable(text)
    speaker: Speaker = load_speaker(WEIGHTS.value)
    speech = speaker.start(speaker.voice(VOICE.value), language=LANGUAGE.value, seed=SEED.value)
    speech.push(text, last=True)
    packets = list(speech.packets())
    if not packets:
        raise UserError(f"the Talker ended before it said anything of {text!r}: try another --seed")
    samples = np.concatenate(packets)
    save_audio(target, Audio(samples, speaker.sample_rate))
    print(f"{target}: {len(samples) / speaker.sample_rate:.2f} s, ended by {speech.reason}")


def score() -> None:
    """What a recogniser makes of what the Talker says, beside the source speech's."""
    from omnijax.data.omniworld import live
    from omnijax.eval.spoken import score_speech
    from omnijax.pretrained import load, load_speaker

    source = live("test", tasks=["say"])
    examples = [source[i] for i in range(min(EXAMPLES.value, len(source)))]
    figures = score_speech(load_speaker(WEIGHTS.value), load(RECOGNISER.value), examples)
    for name, value in figures.items():
        print(f"{name:28}{value:.4g}")
    if REPORT.value:
        Path(REPORT.value).write_text(json.dumps(figures, indent=2) + "\n")


def main(arguments: list[str]) -> int:
    command, *rest = arguments or [""]
    if command == "train" and not rest:
        return _stage.main_of("talker", "talker_speakers")
    compilation_cache()
    if command in ("codes", "score") and not rest:
        {"codes": codes, "score": score}[command]()
    elif command == "export" and len(rest) == 2:
        from omnijax.pretrained import export_talker

        file = export_talker(Path(rest[0]), Path(rest[1]), CODES.value)
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    elif command == "say" and len(rest) == 2:
        say(*rest)
    else:
        raise UserError(f"{USAGE}; got {' '.join(arguments) or 'nothing'}")
    return 0


if __name__ == "__main__":
    launch(main, commands=True)
