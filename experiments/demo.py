"""Holds a conversation about held-out OmniWorld examples and writes it as one HTML page.

    python experiments/demo.py            (make demo)

Every example shows combinations that training never saw. What the model is asked, what it answers
and what is true is printed as it goes, and the answers are spoken as they are written; the page
adds pictures, frames, sounds, spectrograms, and of each spoken answer its ARIA stream.
"""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from absl import flags  # noqa: E402

from experiments._main import check_output, compilation_cache, launch  # noqa: E402

WEIGHTS = flags.DEFINE_string("weights", "nano", "nano, a folder of weights, or a training run.")
OUT = flags.DEFINE_string("out", "demo/index.html", "The page to write.")
EXAMPLES = flags.DEFINE_integer("examples", 24, "Of each task in the score table.", lower_bound=1)

# (what it shows, task, which of the split's examples of that task)
SCENES = (
    ("A spoken question about a picture", "picture_question_spoken", 0),
    ("Another spoken question", "picture_question_spoken", 3),
    ("A written question about a picture", "picture_question_written", 1),
    ("A clip with its sound, described with times", "caption", 0),
    ("When did the sound happen?", "sound_time", 0),
    ("Speech to text", "transcribe", 2),
    ("A tool, called by voice", "tool_call", 0),
    ("Plain text", "text_question", 0),
)


def held_out(task: str) -> Iterator[dict]:
    """The test examples of a task, made on the fly: no corpus is built."""
    from omnijax.data import omniworld

    for index in itertools.count():
        if omniworld.task_of(index, "test") == task:
            yield omniworld.example(index, "test")


def question_of(chat: dict) -> list[dict]:
    """The items of the user's turn."""
    content = next(m for m in chat["messages"] if m["role"] == "user")["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def show_item(item: dict, meta: dict, processor) -> str:
    """An item of the question as HTML."""
    from omnijax.eval import page
    from omnijax.media import log_mel

    def sound(audio) -> str:
        mel = np.asarray(log_mel(audio.samples, processor.mel))
        return page.audio(audio.samples, audio.sample_rate) + page.spectrogram(mel)

    if item["type"] == "image":
        return page.image(item["image"], alt="picture", scale=3)
    if item["type"] == "audio":
        said = f"what is said: {meta['transcript']}" if meta.get("transcript") else ""
        return sound(item["audio"]) + page.note(said)
    if item["type"] == "video":
        video = item["video"]
        chosen = (
            np.linspace(0, len(video.frames) - 1, min(8, len(video.frames))).round().astype(int)
        )
        strip = page.frames(video.frames[chosen], video.times[chosen], scale=2)
        return strip + (sound(video.audio) if video.audio is not None else "")
    return page.turn("user", item["text"])


def open_speaker(weights: str):
    """The voice that lies beside the weights, or None where none does, which is said."""
    from omnijax.pretrained import has_voice, load_speaker

    if has_voice(weights):
        return load_speaker(weights)
    print(f"No Talker lies beside the weights {weights}: the answers are text alone.")
    return None


def converse(loaded, speaker, title: str, example: dict) -> str:
    """Asks, prints and checks one example; returns its part of the page."""
    from omnijax.eval import page
    from omnijax.eval.scoring import is_right
    from omnijax.eval.speech_page import spoken
    from omnijax.generate.session import AudioChunk, Session, TextDelta, ToolCall, TurnEnd
    from omnijax.text.tools import as_call, render_call

    chat, meta = example["chat"], example["meta"]
    session = Session(
        loaded.generator(),
        loaded.tokenizer,
        loaded.processor,
        tools=chat.get("tools", ()),
        speaker=speaker,
        language=meta.get("language", "en") if speaker else None,
    )
    items = question_of(chat)
    asked = meta.get("transcript") or " ".join(i["text"] for i in items if i["type"] == "text")
    kinds = [item["type"] for item in items]
    print(f"\n{title}  ({' + '.join(kinds)})")
    print(f"  question: {asked}")
    print("  answer:   ", end="", flush=True)
    session.push(*items)
    first, calls, sound = None, [], []
    for event in session.respond(96):
        first = event.seconds if first is None else first
        if isinstance(event, TextDelta):
            print(event.text.replace("\n", "\n            "), end="", flush=True)
        elif isinstance(event, AudioChunk):
            sound.append(event)
        elif isinstance(event, ToolCall):
            calls.append(event)
            print(f"[{event.name} {json.dumps(event.arguments)}]", end="", flush=True)
        elif isinstance(event, TurnEnd):
            said, seconds = event.text, event.seconds
    truth = meta["answer"] or render_call(as_call(meta["call"]))
    right = is_right(example["task"], example, said)
    print("\n  truth:    " + truth.replace("\n", "\n            "))
    heard = f"first sound {sound[0].seconds:.2f} s, " if sound else ""
    times = f"first token {first:.2f} s, {heard}all {seconds:.2f} s after the question"
    print(f"  {'right' if right else 'WRONG'}; {times}")
    parts = [show_item(item, meta, loaded.processor) for item in items]
    if chat.get("tools"):
        names = ", ".join(tool["function"]["name"] for tool in chat["tools"])
        parts.insert(0, page.note(f"tools on offer: {names}"))
    parts += [page.turn("omnijax nano", said, right=right), page.turn("truth", truth)]
    if sound:
        samples = np.concatenate([chunk.samples for chunk in sound])
        frames = [len(codes) for codes in session.speech.codes]
        parts.append(spoken(samples, speaker.sample_rate, session.speech.read, frames))
    parts.append(page.note(times))
    return page.section(title, *parts)


def scores(loaded) -> str:
    """A small score table on the spot; the README has the one over the whole split."""
    from omnijax.eval import page
    from omnijax.eval.answers import answer
    from omnijax.eval.scoring import score

    print(f"\nScores on {EXAMPLES.value} held-out examples of each task:")
    rows = []
    for task in dict.fromkeys(task for _, task, _ in SCENES):
        examples = list(itertools.islice(held_out(task), EXAMPLES.value))
        answers = answer(
            loaded.generator(max_len=768),
            loaded.tokenizer,
            loaded.processor,
            [example["chat"] for example in examples],
            batch_size=8,
        )
        result = score(task, examples, answers)
        rows.append((task.replace("_", " "), result.figure, f"{result.value:.3f}", result.count))
        print(f"  {rows[-1][0]:28}{result.figure:16}{result.value:.3f}")
    return page.section("Scores", page.table(("task", "figure", "score", "examples"), rows))


def main() -> int:
    began = time.monotonic()
    check_output(OUT.value, ".html", make_folder=True)
    compilation_cache()
    from omnijax.eval import page
    from omnijax.pretrained import load

    loaded = load(WEIGHTS.value)
    speaker = open_speaker(WEIGHTS.value)
    count = sum(x.size for x in _leaves(loaded.params))
    print(
        f"omnijax nano: {count / 1e6:.1f} M parameters, loaded in {time.monotonic() - began:.1f} s"
    )
    print("Compiling for this machine: the first answer takes longest.")
    sections = []
    for title, task, number in SCENES:
        example = next(itertools.islice(held_out(task), number, None))
        sections.append(converse(loaded, speaker, title, example))
    sections.append(scores(loaded))
    intro = page.note(
        "A small model, trained from scratch on OmniWorld by this repository's own recipe, answers "
        "questions about pictures, clips and sounds in combinations that it has never met. The "
        "first answer of each length also waits for its program to be compiled."
    )
    path = page.write(OUT.value, "A conversation with omnijax nano", intro, *sections)
    print(f"\nThe conversation is in {path} ({time.monotonic() - began:.0f} s in all).")
    return 0


def _leaves(tree):
    import jax

    return jax.tree.leaves(tree)


if __name__ == "__main__":
    launch(main)
