"""How text and speech are interleaved, and what it does to what is said.

    python experiments/aria_ablation.py                     # runs/aria_ablation/index.html
    python experiments/aria_ablation.py --variants=chunked,dual_track --seeds=3 --steps=5000
    python experiments/aria_ablation.py --starts_from=weights:nano/talker --steps=400 \
        --into=runs/aria_ablation_tuned

Talkers that are alike but for their streams learn from the same codes (`talker.py codes`), from
random weights or all from one Talker's, then say held-out sentences: by language, by how much of
the text is there before the first frame, and in answers of up to twice as many sentences as any in
training. What they say is written down by nano's Thinker; its error on the source speech stands
beside. Results are kept in results.json as they come: the same command goes on where it stopped,
more seeds or variants are added. Where all start from one Talker, the schedules that it was trained
under have a head start, and so has the window that it was trained with (the shipped one's:
128, in its last stage); seeds differ in the order of the data and in what is drawn.
"""

import dataclasses
import itertools
import json
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments import _aria_page  # noqa: E402
from experiments._main import compilation_cache, launch  # noqa: E402
from experiments._results import INTO, SEEDS, STEPS, Results  # noqa: E402
from experiments.configs import nano_talker  # noqa: E402
from omnijax.errors import UserError  # noqa: E402


class Variant(NamedTuple):
    """A way to interleave: how it is trained, and what the inference does."""

    schedules: tuple[str, ...]
    speech: dict[str, Any]  # of SpeechConfig
    form: str = "aria"
    asks: bool = False
    window: int = 0  # of the Talker's attention; 0: all


CHUNKED = {"policy": "chunked", "text_chunk": 4, "frame_chunk": 4}
VARIANTS = {
    # One text token beside each frame, then padding: what Qwen3-Omni does.
    "dual_track": Variant(("earliest=1",), CHUNKED, form="dual_track"),
    # OmniWorld's speech has about 3.3 frames a text token, most in English, least in French.
    "fixed_rate": Variant(
        ("fixed_rate:1:3=1",), {"policy": "chunked", "text_chunk": 1, "frame_chunk": 3}
    ),
    "chunked": Variant(("chunked:4:4=1",), CHUNKED),
    # Text nearer to the pace of speech: in a long answer it runs less far ahead.
    "paced": Variant(("chunked:4:8=1",), CHUNKED | {"frame_chunk": 8}),
    # What nano speaks with: text held back, and attention that sees no further than it lies.
    "held": Variant(("chunked:4:4=1",), CHUNKED | {"lead": 12}, window=128),
    "paced_local": Variant(("chunked:4:8=1",), CHUNKED | {"frame_chunk": 8}, window=128),
    "earliest": Variant(("earliest=1",), {"policy": "chunked", "text_chunk": 1, "frame_chunk": 3}),
    "random": Variant(("random=1",), CHUNKED),
    # Requests at the item's own pace, which can be guessed from what was said; drawn ones cannot.
    "learned": Variant(("earliest:4=1",), {"policy": "learned"}, asks=True),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Results of other settings cannot be mixed, but for those that MAY_GROW."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    seeds: int = 2
    steps: int = 3000
    starts_from: str = ""  # "weights:FOLDER" of a Talker; "" = random weights
    languages: tuple[str, ...] = ("en", "de", "es", "fr")
    prefixes: tuple[int, ...] = (0, 8)  # text tokens before the first frame
    sentences: tuple[int, ...] = (1, 3, 6)  # an answer; training joins at most three
    answers: int = 6  # of each language and length
    codes: str = f"{nano_talker.RUNS}/{nano_talker.CODES['say'].folder}"
    codec: str = "nano"
    recogniser: str = "nano"
    # Of the weights of both and of the start, and of how long clips are heard: `run` finds them.
    marks: tuple[str, ...] = ()


MAY_GROW = ("variants", "seeds")
_DEFAULT = Settings()
NAMES = flags.DEFINE_list("variants", [*_DEFAULT.variants], f"Of {', '.join(VARIANTS)}.")
ANSWERS = flags.DEFINE_integer(
    "answers", _DEFAULT.answers, "Scored, of each language and length.", lower_bound=1
)
STARTS_FROM = flags.DEFINE_string(
    "starts_from", _DEFAULT.starts_from, "A Talker's weights:FOLDER; by default random weights."
)
CODES = flags.DEFINE_string("codes", _DEFAULT.codes, "Speech as frames: talker.py codes.")
CODEC = flags.DEFINE_string("codec", _DEFAULT.codec, "The codec that made them.")
RECOGNISER = flags.DEFINE_string(
    "recogniser", _DEFAULT.recogniser, "Whose transcripts give the WER."
)


def config_of(variant: Variant, settings: Settings, seed: int) -> dict[str, Any]:
    """nano's Talker with this variant's streams."""
    config = nano_talker.get_config("talker")
    config.talker.form = variant.form
    config.talker.decoder.attention_window = variant.window
    config.training.schedules = ",".join(variant.schedules)
    config.training.asks = variant.asks
    config.training.codes = ""  # `codes` is the whole path
    config.training.mtp_frames, config.training.frame_noise = 128, 0.0  # whatever the recipe's
    config.stage.batch, config.stage.tokens = 2, 1024
    config.stage.steps = settings.steps
    config.stage.seed = seed
    config.stage.starts_from = (settings.starts_from,) if settings.starts_from else ()
    config.stage.mixture = f"codes:{settings.codes}=1"
    return config.to_dict()


def speaker_of(run: Path, variant: Variant, prefix: int, codec, source):
    """A trained run as a speaker of the voices in a source that is not scored."""
    from omnijax.generate.speaker import Speaker
    from omnijax.models.talker import Talker, TalkerConfig
    from omnijax.pretrained import paces, stored_voices
    from omnijax.train.checkpoint import read_params
    from omnijax.train.kinds import open_tokenizer
    from omnijax.train.stages import from_dict

    params, config = read_params(run / "checkpoints")
    talker = Talker(from_dict(TalkerConfig, config["talker"], "config.talker."))
    voices = stored_voices(source, config["training"]["reference_frames"][1])
    ways = {"lead": 0, "text_prefix": prefix} | variant.speech
    speech = dataclasses.replace(nano_talker.SPEECH, **ways)
    tokenizer = open_tokenizer(config["tokenizer"])
    pace = paces((source[i] for i in range(len(source))), tokenizer)
    return Speaker(talker, params, *codec, tokenizer, voices, speech, max_len=1536, pace=pace)


def answers_of(source, language: str, sentences: int, count: int) -> list[tuple[str, str, Any]]:
    """(text, voice, the source's frames) of so many sentences of one voice, none twice."""
    from omnijax.eval.spoken import in_turn

    by_voice = sorted(source.by_voice.items())
    own = {voice: places for (voice, spoken), places in by_voice if spoken == language}
    found = in_turn(own, sentences)
    if len(found) < count:
        raise UserError(
            f"the codes have {len(found)} answers of {sentences} sentences in {language!r}, "
            f"--answers is {count}"
        )
    answers = []
    for voice, places in found[:count]:
        said = [source[place] for place in places]
        answers.append((" ".join(one.text for one in said), voice, [one.codes for one in said]))
    return answers


class Original(NamedTuple):
    """Answers of a language and length, and what is heard of their own speech."""

    answers: list[tuple[str, str, Any]]  # of `answers_of`
    wer: float
    seconds: float


def original(speaker, recogniser, answers) -> Original:
    """The recogniser's errors on the source speech, through the codec: the same of every run."""
    import numpy as np

    from omnijax.eval.scoring import word_error_rate
    from omnijax.eval.spoken import transcripts

    clips = [sound(speaker, np.concatenate(codes)) for _, _, codes in answers]
    heard = transcripts(recogniser, clips)
    return Original(
        answers,
        word_error_rate([text for text, _, _ in answers], heard),
        sum(clip.seconds for clip in clips) / len(clips),
    )


def sound(speaker, codes):
    """Frames as a clip; no frames, no samples."""
    import numpy as np

    from omnijax.media import Audio

    samples = speaker.decode(codes) if len(codes) else np.zeros(0, np.float32)
    return Audio(samples, speaker.sample_rate)


def cell(speaker, recogniser, language: str, source: Original, seed: int) -> dict[str, float]:
    """What is heard of the answers, and how they begin and pause."""
    import numpy as np

    from omnijax.eval.scoring import word_error_rate
    from omnijax.eval.spoken import BATCH, pause_share, skips_and_repeats, transcripts

    answers = source.answers
    truths = [text for text, _, _ in answers]
    frames = []
    for i in range(0, len(answers), BATCH):
        part = answers[i : i + BATCH]
        frames += speaker.say_codes(
            [text for text, _, _ in part],
            [speaker.voice(voice) for _, voice, _ in part],
            languages=[language] * len(part),
            seed=seed + i,
            whole=False,  # a schedule that runs away is scored, too
        )
    clips = [sound(speaker, codes) for codes in frames]
    heard = transcripts(recogniser, clips)
    skipped, repeated = skips_and_repeats(truths, heard)
    rate = speaker.sample_rate
    return {
        "wer": word_error_rate(truths, heard),
        "wer source": source.wer,
        "skipped": skipped,
        "repeated": repeated,
        "pauses": float(np.mean([pause_share(clip.samples, rate) for clip in clips])),
        "seconds": sum(clip.seconds for clip in clips) / len(clips),
        "seconds source": source.seconds,
    }


def first_sound(speaker, language: str, answer, seed: int) -> dict[str, float]:
    """One answer by itself: text tokens and seconds before its first frame."""
    import time

    from omnijax.models.talker.prompt import prompt_row

    text, voice, _ = answer
    if speaker.talker.config.form == "dual_track":
        return {"tokens": 1}
    prompt = prompt_row(
        speaker.talker.config, speaker._marks, voice=speaker.voice(voice), language=language
    )
    ids = speaker.tokenizer.encode(text, literal=True)
    seconds = []
    for _ in range(4):  # the first one compiles
        began = time.perf_counter()
        stream = speaker.generator.start([prompt], seed=seed)
        stream.push(ids, last=True)
        stream.step(1)
        seconds.append(time.perf_counter() - began)
    return {"tokens": stream.read[0], "seconds": sorted(seconds[1:])[1]}


def losses_of(run: Path) -> dict[str, float]:
    """The last evaluation's, by what is predicted: from the run's file, so that one that ended
    before it was scored has them too."""
    kinds = ("semantic", "residual", "end", "request")
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    *_, last = (line for line in lines if "eval_semantic" in line)
    return {kind: last[f"eval_{kind}"] for kind in kinds if f"eval_{kind}" in last}


def run(settings: Settings, folder: Path) -> Path:
    """Trains and scores what results.json lacks; returns the page."""
    from omnijax.data.codes import CodesSource, codec_of, fingerprint, fingerprint_of
    from omnijax.eval.spoken import HEARD
    from omnijax.pretrained import load
    from omnijax.train.checkpoint import load_weights
    from omnijax.train.codec import load_codec
    from omnijax.train.kinds import weights_folder
    from omnijax.train.recipe import run_stage
    from omnijax.train.stages import WEIGHTS

    start = settings.starts_from
    if start and not start.startswith(WEIGHTS):
        raise UserError(f"--starts_from={start}: give {WEIGHTS}FOLDER, as {WEIGHTS}nano/talker")
    begun = load_weights(weights_folder(start.removeprefix(WEIGHTS)))[0] if start else {}
    codec, thinker = load_codec(settings.codec), load(settings.recogniser)
    mark = fingerprint(codec[1]["quantiser"]["codebooks"])
    if codec_of(settings.codes) != mark:
        raise UserError(f"the codes in {settings.codes} are of another codec than {settings.codec}")
    source, shown, train = (
        CodesSource(settings.codes, split) for split in ("test", "validation", "train")
    )
    marks = (mark, fingerprint_of(codec[1]), fingerprint_of(thinker.params), f"{HEARD}")
    marks += tuple(split.speech for split in (train, shown, source))
    if start:
        marks += (fingerprint_of(begun),)
    settings = dataclasses.replace(settings, marks=marks)
    results = Results(folder, settings, may_grow=MAY_GROW, parts=("runs",))
    lengths = [*itertools.product(settings.languages, settings.sentences)]
    # Too few: said before any training.
    answers = {kind: answers_of(source, *kind, settings.answers) for kind in lengths}
    originals: dict[tuple[str, int], Original] = {}
    # Seeds outermost: stopped early, every variant has been trained as often as the others.
    for seed, name in itertools.product(range(settings.seeds), settings.variants):
        key, variant = f"{name}/{seed}", VARIANTS[name]
        defined = json.loads(json.dumps(variant._asdict()))
        if key in results.data["runs"]:
            before = results.data["runs"][key]["variant"]
            if before != defined:
                raise UserError(f"{key} in {results.path} was {before}, it is {defined} here")
            print(f"{key} is in {results.path}")
            continue
        workdir = folder / name / f"{seed}"
        print(f"{key}: {workdir}", flush=True)
        trained = run_stage(config_of(variant, settings, seed), workdir, lambda stage: folder)
        if not trained.finished:
            sys.exit(130 if trained.signal == signal.SIGINT else 143)
        found = {"variant": defined, "losses": losses_of(workdir), "cells": {}}
        for prefix in settings.prefixes if variant.form == "aria" else settings.prefixes[:1]:
            speaker = speaker_of(workdir, variant, prefix, codec, shown)
            for language, count in lengths:
                kind = language, count
                if kind not in originals:
                    originals[kind] = original(speaker, thinker, answers[kind])
                cells = found["cells"].setdefault(f"{prefix}", {}).setdefault(language, {})
                cells[f"{count}"] = cell(speaker, thinker, language, originals[kind], seed)
            answer = answers_of(source, settings.languages[0], 1, 1)[0]
            first = first_sound(speaker, settings.languages[0], answer, seed)
            found.setdefault("first sound", {})[f"{prefix}"] = first
        results.data["runs"][key] = found
        results.save()
        _aria_page.write(results.data, results.page)
    results.save()
    print(_aria_page.summary_text(results.data))
    return _aria_page.write(results.data, results.page)


def main() -> int:
    unknown = [name for name in NAMES.value if name not in VARIANTS]
    if unknown or not NAMES.value:
        raise UserError(f"--variants: {', '.join(unknown) or 'none'}; there are {[*VARIANTS]}")
    settings = Settings(
        variants=tuple(NAMES.value),
        seeds=SEEDS.value or _DEFAULT.seeds,
        steps=STEPS.value or _DEFAULT.steps,
        starts_from=STARTS_FROM.value,
        answers=ANSWERS.value,
        codes=CODES.value,
        codec=CODEC.value,
        recogniser=RECOGNISER.value,
    )
    folder = Path(INTO.value or "runs/aria_ablation")
    compilation_cache()
    print(f"The page is {run(settings, folder)}.")
    return 0


if __name__ == "__main__":
    launch(main)
