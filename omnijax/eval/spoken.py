"""What a recogniser makes of what a Talker says."""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omnijax.eval.answers import answer
from omnijax.eval.scoring import plain, word_error_rate
from omnijax.generate.events import AudioChunk, TextDelta
from omnijax.generate.session import Session
from omnijax.generate.speaker import Speaker
from omnijax.media.audio import Audio
from omnijax.typing import Float

TRANSCRIBE = "write down what is said."
BATCH = 8
# Of a recogniser's row: the question and what is written down, and what a second of sound takes.
POSITIONS, POSITIONS_A_SECOND = 256, 32


def transcripts(recogniser: Any, clips: Sequence[Audio]) -> list[str]:
    """What a loaded Thinker writes down; of a clip without samples, nothing.

    A clip longer than any sentence is heard in pieces that `at_pauses` makes: the recogniser has
    learned to write down one sentence.
    """
    pieces = [at_pauses(clip) if len(clip.samples) else [] for clip in clips]
    chats = [
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "audio", "audio": piece},
                        {"type": "text", "text": TRANSCRIBE},
                    ],
                }
            ]
        }
        for parts in pieces
        for piece in parts
    ]
    seconds = max((piece.seconds for parts in pieces for piece in parts), default=0.0)
    room = -(-int(POSITIONS + POSITIONS_A_SECOND * seconds) // 256) * 256
    generator = recogniser.generator(max_len=room)
    written = iter(
        answer(generator, recogniser.tokenizer, recogniser.processor, chats, batch_size=BATCH)
        if chats
        else ()
    )
    return [" ".join(next(written) for _ in parts) for parts in pieces]


def skips_and_repeats(truths: Sequence[str], heard: Sequence[str]) -> tuple[float, float]:
    """(words left out, words said again) as shares of the words, by alignment.

    Words that were added are said again if they stand in a run, of any length, that comes twice
    with nothing between.
    """
    import jiwer

    words = skipped = repeated = 0
    for truth, said in zip(truths, heard, strict=True):
        truth, said = plain(truth), plain(said)
        words += len(truth.split())
        if not (truth and said):
            skipped += len(truth.split())
            continue
        aligned = jiwer.process_words(truth, said)
        skipped += aligned.deletions
        twice = _said_twice(said.split())
        for chunk in aligned.alignments[0]:
            if chunk.type == "insert":
                repeated += len(twice.intersection(range(chunk.hyp_start_idx, chunk.hyp_end_idx)))
    return skipped / max(words, 1), repeated / max(words, 1)


def _said_twice(words: Sequence[str]) -> set[int]:
    """Places in runs that follow on their like, both runs: which was added is nobody's to say."""
    return {
        place
        for size in range(1, len(words) // 2 + 1)
        for i in range(len(words) - 2 * size + 1)
        if words[i : i + size] == words[i + size : i + 2 * size]
        for place in range(i, i + 2 * size)
    }


LONGEST = 3.6  # seconds; OmniWorld's longest sentence has 3.5
PAUSE = 0.24  # seconds; a shorter gap belongs to speech
# Seconds of quiet: between most sentences, where inside of one it is never (of 200, at most 0.14);
# the least in which a piece is cut that is too long for one sentence.
_BETWEEN, _CUT = 0.15, 0.08
HEARD = (LONGEST, _BETWEEN, _CUT)  # figures of other cuts are not to be compared
_WINDOW = 0.02
_QUIET = 0.02  # of the loudest window


def _gaps(samples: Float[np.ndarray, "A"], sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """(windows that are not quiet, quiet windows between each and the next)."""
    size = int(_WINDOW * sample_rate)
    windows = samples[: len(samples) // size * size].reshape(-1, size)
    level = np.sqrt(np.mean(np.square(windows), axis=1)) if len(windows) else np.zeros(0)
    loud = np.flatnonzero(level > _QUIET * level.max(initial=0.0))
    return loud, np.diff(loud) - 1


def pause_share(samples: Float[np.ndarray, "A"], sample_rate: int) -> float:
    """The share of a clip, between its first sound and its last, that lies in pauses."""
    loud, gaps = _gaps(samples, sample_rate)
    if len(loud) < 2:
        return 0.0
    return float(gaps[gaps * _WINDOW >= PAUSE].sum() / (loud[-1] - loud[0] + 1))


def at_pauses(clip: Audio) -> list[Audio]:
    """A clip of up to LONGEST seconds whole; a longer one in pieces that may be sentences.

    It is cut in the middle of its longest pause, and each half again, while a piece has a pause as
    long as those between sentences, or is longer than LONGEST and has any of 80 ms: else a piece
    stays as long as it is. Nothing is lost: the pieces joined are the clip.
    """
    return _cut(clip) if clip.seconds > LONGEST else [clip]


def _cut(clip: Audio) -> list[Audio]:
    loud, gaps = _gaps(clip.samples, clip.sample_rate)
    least = _CUT if clip.seconds > LONGEST else _BETWEEN
    if not len(gaps) or gaps.max() * _WINDOW < least:
        return [clip]
    # Of equally long pauses, the one nearest to the middle.
    middles = loud[:-1] + 1 + gaps / 2
    off = np.abs(middles * _WINDOW - clip.seconds / 2)
    place = max(range(len(gaps)), key=lambda i: (gaps[i], -off[i]))
    cut = int(middles[place] * int(_WINDOW * clip.sample_rate))
    halves = (clip.samples[:cut], clip.samples[cut:])
    return [piece for half in halves for piece in _cut(Audio(half, clip.sample_rate))]


def in_turn(groups: Mapping[Any, Sequence[Any]], count: int) -> list[tuple[Any, list[Any]]]:
    """(group, so many of its members in turn), none twice; what is left over is in none.

    Every group stands there once, before a group's second.
    """
    found = [
        (i, group, [*members[i : i + count]])
        for group, members in groups.items()
        for i in range(0, len(members) - count + 1, count)
    ]
    return [entry[1:] for entry in sorted(found, key=lambda entry: entry[0])]


def joined(examples: Sequence[dict], sentences: int) -> list[dict]:
    """Longer answers for `score_speech`: so many examples of one voice and language in turn."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for example in examples:
        meta = example["meta"]
        groups.setdefault((meta["voice"], meta["language"]), []).append(meta)
    answers = []
    for _, parts in in_turn(groups, sentences):
        samples = np.concatenate([part["speech"].samples for part in parts])
        speech = Audio(samples, parts[0]["speech"].sample_rate)
        text = " ".join(part["answer"] for part in parts)
        answers.append({"meta": {**parts[0], "answer": text, "speech": speech}})
    return answers


def score_speech(
    speaker: Speaker, recogniser: Any, examples: Sequence[dict], *, seed: int = 0
) -> dict[str, float]:
    """Figures over examples of OmniWorld's `say`, each in its own voice and language.

    The recogniser's WER on the source speech, and on it through the codec, stand beside. Of an
    answer that does not fit the speaker's ``max_len`` the words that are missing count as errors.
    """
    truths = [example["meta"]["answer"] for example in examples]
    languages = [example["meta"]["language"] for example in examples]
    sources = [example["meta"]["speech"] for example in examples]
    voices = [speaker.voice(example["meta"]["voice"]) for example in examples]
    spoken: list[np.ndarray] = []
    speak = functools.partial(speaker.say, whole=False)
    speak(truths[:BATCH], voices[:BATCH], languages=languages[:BATCH])  # compiles
    began = time.monotonic()
    for i in range(0, len(examples), BATCH):
        part = slice(i, i + BATCH)
        spoken += speak(truths[part], voices[part], languages=languages[part], seed=seed + i)
    seconds = time.monotonic() - began
    clips = [Audio(samples, speaker.sample_rate) for samples in spoken]
    through = [Audio(speaker.decode(speaker.encode(clip)), speaker.sample_rate) for clip in sources]
    said = transcripts(recogniser, clips)
    original, coded = transcripts(recogniser, sources), transcripts(recogniser, through)
    figures: dict[str, float] = {"examples": len(examples)}
    for language in sorted(set(languages)):
        own = [i for i, name in enumerate(languages) if name == language]
        for name, heard in (("talker", said), ("codec", coded), ("source", original)):
            figures[f"wer {name} {language}"] = word_error_rate(
                [truths[i] for i in own], [heard[i] for i in own]
            )
    figures["wer talker"] = word_error_rate(truths, said)
    figures["wer codec"] = word_error_rate(truths, coded)
    figures["wer source"] = word_error_rate(truths, original)
    figures["skipped"], figures["repeated"] = skips_and_repeats(truths, said)
    figures["skipped source"], figures["repeated source"] = skips_and_repeats(truths, original)
    length = sum(clip.seconds for clip in clips)
    figures["seconds spoken"] = length
    figures["seconds of source"] = sum(clip.seconds for clip in sources)
    figures["longest piece heard, s"] = max(p.seconds for clip in clips for p in at_pauses(clip))
    figures["RTF, batches of 8, compiling"] = seconds / length
    return figures


def score_latency(
    speaker: Speaker, thinker: Any, examples: Sequence[dict], *, language: str | None = None
) -> dict[str, float]:
    """Whole conversations of one turn: medians over the examples, the programs compiled before.

    Returns:
      "first text" and "first sound" in seconds after the question's end, "RTF": seconds of
      computing, from the first sound to the last, for a second of sound after the first packet.
    """
    firsts, sounds, factors = [], [], []
    for n, example in enumerate([*examples, *examples]):
        session = Session(
            thinker.generator(), thinker.tokenizer, thinker.processor, speaker=speaker,
            language=language,
        )  # fmt: skip
        question = example["chat"]["messages"][0]["content"]
        session.push(*question)
        events = list(session.respond())
        chunks = [event for event in events if isinstance(event, AudioChunk)]
        words = [event.seconds for event in events if isinstance(event, TextDelta)]
        # The first round compiles; a call is not spoken.
        if n < len(examples) or not chunks or not words:
            continue
        firsts.append(words[0])
        sounds.append(chunks[0].seconds)
        if len(chunks) > 1:
            seconds = sum(len(chunk.samples) for chunk in chunks[1:]) / speaker.sample_rate
            factors.append((chunks[-1].seconds - chunks[0].seconds) / seconds)
    medians = {"first text": firsts, "first sound": sounds, "RTF": factors}
    return {name: float(np.median(values)) for name, values in medians.items() if values} | {
        "slowest first sound": max(sounds, default=float("nan")),
        "answers": len(sounds),
    }
