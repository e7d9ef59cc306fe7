"""The Talker: makes its data with a codec, trains it, packs a voice, speaks.

    python experiments/talker.py codes                        speech of OmniWorld as codec frames
    python experiments/talker.py codes --task=say_reply       the answers of its other tasks, and
        what --thinker has read of each question
    python experiments/talker.py codes --task=say_by_many     sentences in drawn voices
    python experiments/talker.py codes --task=say_words       words in no order
    python experiments/talker.py train --config=experiments/configs/nano_talker.py:talker_voices
    python experiments/talker.py export RUN FOLDER            the Talker and its stored voices
    python experiments/talker.py recode OLD NEW FOLDER        the Talker as it begins on codes of
        another codec: OLD and NEW are folders of codes of the same speech
    python experiments/talker.py say "the red circle" out.wav --voice=anna --language=en
    python experiments/talker.py score                        held-out sentences: WER and more; of
        --split=validation, or --only=speech,long

With --config=..., `export`, `say` and `score` speak as that config's `speech` says, not as the run
or the weights do. `codes` encodes --count utterances of the training split, and a twentieth as many
of the others, with the codec in --codec, into --out; what that codec has made before, of the same
voices and as many, is kept. A stage reads the train and validation splits of the folders that its
mixture names, where --config.training.codes says. The same `train` command resumes a run that was
stopped.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments import _stage  # noqa: E402
from experiments._main import check_output, compilation_cache, launch  # noqa: E402
from experiments.configs import nano_talker  # noqa: E402
from omnijax.errors import UserError  # noqa: E402

CODEC = flags.DEFINE_string("codec", "nano", "nano, an exported codec, or a training run.")
WEIGHTS = flags.DEFINE_string(
    "weights", "nano", "nano, or a folder with codec/ and talker/, as `export` writes them."
)
TASK = flags.DEFINE_enum(
    "task", "say", [*nano_talker.CODES], "codes: sentences, answers, many voices, mere words."
)
THINKER = flags.DEFINE_string(
    "thinker",
    "nano",
    "codes --task=say_reply: whose stream of the questions is kept, empty: none; score: who talks.",
)
OUT = flags.DEFINE_string("out", None, "codes: the folder they go to, by default the task's own.")
COUNT = flags.DEFINE_integer(
    "count", None, "codes: utterances to train on, by default as nano's recipe.", lower_bound=20
)
VOICE = flags.DEFINE_string("voice", None, "say: a stored voice.")
LANGUAGE = flags.DEFINE_string("language", None, "say: the language's name, such as en.")
MAX_LEN = flags.DEFINE_integer(
    "max_len", 1024, "say: positions of an answer: voice, text and frames.", lower_bound=1
)
SEED = flags.DEFINE_integer("seed", 0, "say, score: of the sampling; conversations take 0.")
EXAMPLES = flags.DEFINE_integer("examples", 100, "score: so many sentences.", lower_bound=1)
SENTENCES = 6  # of `score`'s long answers: twice as many as any in training
LONG = flags.DEFINE_integer(
    "long", 8, f"score: answers of {SENTENCES} sentences in each language.", lower_bound=0
)
PARTS = ("speech", "long", "conversation", "cloning")
ONLY = flags.DEFINE_list("only", [*PARTS], f"score: of {', '.join(PARTS)}.")
SPLIT = flags.DEFINE_enum("split", "test", ["validation", "test"], "score: of OmniWorld.")
RECOGNISER = flags.DEFINE_string("recogniser", "nano", "score: whose transcripts give the WER.")
REPORT = flags.DEFINE_string("report", None, "score: write the figures here too, as JSON.")
SESSIONS, CLIPS = 20, 10  # of `score`: conversations that are timed; clips of each voice
USAGE = (
    "give one of codes, train, export RUN FOLDER, recode OLD NEW FOLDER, say TEXT OUT.wav, score"
)


def codes() -> None:
    """Each utterance through the codec's encoder, several of a length at a time."""
    from rich.progress import track

    from omnijax.data.codes import ThinkerStream, fingerprint, made_before, write_codes
    from omnijax.data.omniworld import OmniWorld, live
    from omnijax.data.omniworld.voices import fingerprint_of_voices
    from omnijax.pretrained import load
    from omnijax.train.codec import load_codec

    reader, thinker = None, None
    if THINKER.present and TASK.value != "say_reply":
        raise UserError(f"--thinker reads the questions of say_reply, --task is {TASK.value}")
    if THINKER.value and TASK.value == "say_reply":
        config = _stage.CONFIG.value or nano_talker.get_config()
        if "talker" not in config:
            raise UserError("--config has no section talker: give a Talker's, or none")
        reader = Reader(load(THINKER.value), config.talker.accept_hidden_layer)
        thinker = ThinkerStream(reader.mark, reader.layer)
    codec, params = load_codec(CODEC.value)
    mark = fingerprint(params["quantiser"]["codebooks"])
    speech = f"omniworld {OmniWorld.VERSION} {fingerprint_of_voices()}"
    size = codec.config.samples_per_frame
    recipe = nano_talker.CODES[TASK.value]
    folder = Path(OUT.value or f"{nano_talker.RUNS}/{recipe.folder}")
    shares = {"train": 1, "validation": 20, "test": 20}
    for split, share in shares.items():
        source = live(split, tasks=[TASK.value])
        count = min((COUNT.value or recipe.count) // share, len(source))
        if made_before(folder, split, source.__getitem__, count, (mark, thinker, speech), size):
            print(f"{folder / split}.npz: {count} utterances of this codec are there")
            continue
        check_output(str(folder / f"{split}.npz"), make_folder=True)
        bar = encoded(codec, params, source, count, reader)
        bar = track(bar, total=count, description=split)
        written = write_codes(folder, split, bar, mark, thinker, speech)
        print(f"{folder / split}.npz: {written} utterances", flush=True)


class Reader:
    """What a Thinker reads of the questions that replies answer."""

    def __init__(self, thinker, layer: int):
        self._thinker, self.layer = thinker, layer
        self._generator = thinker.generator()
        self.mark = self._generator.mark

    def __call__(self, examples: list[dict]) -> list:
        """The context of each."""
        import numpy as np

        from omnijax.data.omniworld.aloud import question_of
        from omnijax.generate.prompts import collate_prompts
        from omnijax.models.talker.context import context_of
        from omnijax.text import render

        thinker, generator = self._thinker, self._generator
        media = thinker.model.config.media_ids
        rows = [
            render(
                question_of(example), thinker.tokenizer, thinker.processor,
                add_generation_prompt=True,
            )
            for example in examples
        ]  # fmt: skip
        inputs = collate_prompts(rows, thinker.processor)
        _, stream = generator.read(generator.start(len(rows)), inputs, self.layer)
        return [
            context_of(thinker.tokenizer, media, row.tokens, row.positions, own[: len(row.tokens)])
            for row, own in zip(rows, np.asarray(stream, np.float32), strict=True)
        ]


def encoded(codec, params, source, count: int, reader: Reader | None = None, batch: int = 16):
    """Utterances of a source with their frames; clips of a batch are filled with silence."""
    import jax
    import numpy as np

    from omnijax.data.codes import Utterance, said_of

    size = codec.config.samples_per_frame
    encode = jax.jit(lambda samples: codec.apply({"params": params}, samples, method="encode"))
    starts = range(0, count, batch)

    def read(start: int) -> list[dict]:
        return [source[i] for i in range(start, min(start + batch, count))]

    for examples in ahead(read, starts):
        clips = [example["meta"]["speech"].samples for example in examples]
        frames = [-(-len(clip) // size) for clip in clips]
        longest = -(-max(frames) // 10) * 10  # few shapes to compile
        samples = np.zeros((batch, longest * size), np.float32)
        for row, clip in zip(samples, clips, strict=False):
            row[: len(clip)] = clip
        rows = np.asarray(encode(samples))
        contexts = reader(examples) if reader else [None] * batch
        for example, row, length, context in zip(examples, rows, frames, contexts, strict=False):
            yield Utterance(*said_of(example["meta"]), row[:length], context)


def ahead(make, arguments, depth: int = 4):
    """make(argument) for each, in order, some made by a thread while others are used."""
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        waiting = deque()
        for argument in arguments:
            waiting.append(pool.submit(make, argument))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def recode(old: Path, new: Path, folder: Path) -> None:
    from omnijax.pretrained import recode_weights
    from omnijax.train.kinds import weights_folder

    check_output(str(folder / "model.safetensors"), make_folder=True)
    talker = weights_folder(WEIGHTS.value) / "talker"
    counted, there = recode_weights(talker, old, new, folder)
    print(f"{folder}: counted on {counted} of {there} utterances; a stage begins there by")
    print(f"    --config.stage.starts_from=weights:{folder}")


def speech_settings():
    """How to speak, of --config; without one, as the weights or the run say: None."""
    from omnijax.generate.speech import SpeechConfig
    from omnijax.train.stages import from_dict

    if not _stage.CONFIG.value:
        return None
    given = _stage.CONFIG.value.to_dict()
    if "speech" not in given:
        raise UserError("--config has no section speech: give a Talker's, or none")
    return from_dict(SpeechConfig, given["speech"], "config.speech.")


def say(text: str, target: str) -> None:
    import numpy as np

    from omnijax.generate.speaker import Speaker, speakable
    from omnijax.media import Audio, save_audio
    from omnijax.pretrained import load_speaker

    check_output(target, ".wav")
    speakable(text)
    speaker: Speaker = load_speaker(WEIGHTS.value, speech_settings(), MAX_LEN.value)
    speech = speaker.start(speaker.voice(VOICE.value), language=LANGUAGE.value, seed=SEED.value)
    speech.push(text, last=True)
    packets = list(speech.packets())
    limit = f"the limit (--max_len) is {MAX_LEN.value} positions of voice, text and frames"
    if not packets and speech.cut:
        raise UserError(
            f"the text of {len(text)} characters is too long to be said at once: {limit}"
        )
    if not packets:
        raise UserError(f"the Talker ended before it said anything of {text!r}: try another --seed")
    samples = np.concatenate(packets)
    save_audio(target, Audio(samples, speaker.sample_rate))
    print(f"{target}: {len(samples) / speaker.sample_rate:.2f} s, ended by {speech.reason}")
    if speech.cut:
        raise UserError(f"{target} is not the whole text of {len(text)} characters: {limit}")


def score() -> None:
    """What a recogniser makes of what the Talker says, beside the source speech's."""
    from omnijax.data.omniworld import live
    from omnijax.data.omniworld.voices import UNSEEN_VOICES
    from omnijax.eval.spoken import joined, score_latency, score_speech
    from omnijax.eval.voices import measure, score_cloning
    from omnijax.pretrained import load, load_speaker
    from omnijax.train.stages import to_dict

    if REPORT.value:
        check_output(REPORT.value)
    for part in ONLY.value:
        if part not in PARTS:
            raise UserError(f"--only has {part!r}, it must be of {', '.join(PARTS)}")
    wanted = [part for part in ONLY.value if part != "long" or LONG.value]
    if not wanted:
        raise UserError(
            f"there is nothing to score: --only={','.join(ONLY.value)}, --long={LONG.value}"
        )
    by = measure() if "cloning" in wanted else None
    speaker = load_speaker(WEIGHTS.value, speech_settings())
    source = live(SPLIT.value, tasks=["say"])
    recogniser = load(RECOGNISER.value)
    if "conversation" in wanted:
        thinker = load(THINKER.value)
        mark = thinker.generator().mark
        if speaker.generator.config.context and mark != speaker.thinker.mark:
            raise UserError(
                f"the voice reads the stream of Thinker {speaker.thinker.mark}, --thinker="
                f"{THINKER.value} is {mark}"
            )
    speaks = to_dict(speaker.generator.config)
    figures: dict[str, Any] = {"split": SPLIT.value, "seed": SEED.value, "speech": speaks}

    def report(found: dict[str, float], of: str = "") -> None:
        """Each group as it comes: what follows may take long, or be stopped."""
        found = {f"{of}{name}": value for name, value in found.items()}
        for name, value in found.items():
            print(f"{name:60} {value:.4g}", flush=True)
        figures.update(found)
        if REPORT.value:
            Path(REPORT.value).write_text(json.dumps(figures, indent=2) + "\n")

    if "speech" in wanted:
        examples = [source[i] for i in range(min(EXAMPLES.value, len(source)))]
        report(score_speech(speaker, recogniser, examples, seed=SEED.value))
    if "long" in wanted:
        long = joined([source[i] for i in range(len(source))], SENTENCES)
        found = {answer["meta"]["language"]: [] for answer in long}
        for answer in long:
            found[answer["meta"]["language"]].append(answer)
        few = [answer for own in found.values() for answer in own[: LONG.value]]
        of = f"{SENTENCES} sentences an answer: "
        report(score_speech(speaker, recogniser, few, seed=SEED.value), of)
    if "conversation" in wanted:
        asked = live(SPLIT.value, tasks=["picture_question_spoken"])
        questions = [asked[i] for i in range(min(SESSIONS, len(asked)))]
        report(score_latency(speaker, thinker, questions), "conversation: ")
    if "cloning" in wanted:
        clips, texts = spoken_by_all(source)
        new = [voice.name for voice in UNSEEN_VOICES]
        cloning = score_cloning(speaker, clips, new, texts, by, language="en", seed=SEED.value)
        report(cloning, f"voices never heard, by {by.name}: ")


def spoken_by_all(source) -> tuple[dict, list[str]]:
    """(CLIPS English sentences by each voice, those never heard in training too; others to say)."""
    import numpy as np

    from omnijax.data.omniworld.speech import speak
    from omnijax.data.omniworld.voices import ACCENTS, BY_NAME
    from omnijax.media import Audio

    own: dict[str, None] = {}  # in order, none twice; enough whatever --examples is
    for example in source:
        if example["meta"]["language"] == "en":
            own[example["meta"]["answer"]] = None
        if len(own) == 2 * CLIPS:
            break
    own = list(own)
    clips = {}
    for n, name in enumerate(BY_NAME):
        rng = np.random.default_rng([17, n])
        spoken = [speak(t, name, ACCENTS["en"][0], rng, 24_000, hiss=False) for t in own[:CLIPS]]
        clips[name] = [Audio(samples.astype(np.float32), 24_000) for samples in spoken]
    return clips, own[CLIPS : 2 * CLIPS]


def main(arguments: list[str]) -> int:
    command, *rest = arguments or [""]
    if command == "train" and not rest:
        return _stage.main_of("talker", nano_talker.LAST)
    compilation_cache()
    if command in ("codes", "score") and not rest:
        {"codes": codes, "score": score}[command]()
    elif command == "export" and len(rest) == 2:
        from omnijax.pretrained import export_talker

        file = export_talker(Path(rest[0]), Path(rest[1]), speech_settings())
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    elif command == "recode" and len(rest) == 3:
        recode(*map(Path, rest))
    elif command == "say" and len(rest) == 2:
        say(*rest)
    else:
        raise UserError(f"{USAGE}; got {' '.join(arguments) or 'nothing'}")
    return 0


if __name__ == "__main__":
    launch(main, commands=True)
