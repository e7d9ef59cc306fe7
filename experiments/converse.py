"""Talks with a model about your own files; the answer is written as it is produced.

    python experiments/converse.py --image=x.png --audio=question.wav
    python experiments/converse.py --video=clip.mp4 --text="when does the bell ring?"
    python experiments/converse.py --interactive
    python experiments/converse.py --audio=question.wav --speak --voice=anna --out=answer.wav

With --speak the answer is spoken as well, into --out, which is playable at any moment: in a stored
--voice, in that of a --reference clip, or in one that --describe describes.

In an interactive conversation a line is a turn; /image FILE, /audio FILE and /video FILE add to the
turn that the next line (or an empty one) sends, /result TEXT answers a tool call, /drop takes back
what is not sent yet, /quit ends.
"""

import contextlib
import functools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments._main import check_output, compilation_cache, launch  # noqa: E402
from omnijax.errors import UserError  # noqa: E402

WEIGHTS = flags.DEFINE_string("weights", "nano", "nano, a folder of weights, or a training run.")
IMAGE = flags.DEFINE_string("image", None, "A picture.")
AUDIO = flags.DEFINE_string("audio", None, "A sound, such as a spoken question.")
VIDEO = flags.DEFINE_string("video", None, "A clip, with its sound track.")
TEXT = flags.DEFINE_string("text", None, "Text.")
SYSTEM = flags.DEFINE_string("system", None, "A system message.")
TOOLS = flags.DEFINE_string("tools", None, "A JSON file with a list of tool definitions.")
INTERACTIVE = flags.DEFINE_boolean("interactive", False, "Several turns, read from the terminal.")
MAX_TOKENS = flags.DEFINE_integer("max_tokens", 128, "Longest answer.", lower_bound=1)
MAX_LEN = flags.DEFINE_integer(
    "max_len",
    2048,
    "Longest conversation, tokens; an answer's voice has as many positions, and 1024 at least.",
    lower_bound=1,
)
TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
TOP_K = flags.DEFINE_integer("top_k", 0, "Keep the k likeliest tokens; 0 keeps all.")
TOP_P = flags.DEFINE_float("top_p", 1.0, "Keep the likeliest tokens of this probability mass.")
PENALTY = flags.DEFINE_float("repetition_penalty", 1.0, "Above 1: repeat less.")
SEED = flags.DEFINE_integer("seed", 0, "Of the sampling.")
SPEAK = flags.DEFINE_boolean("speak", False, "Also speak the answer.")
OUT = flags.DEFINE_string("out", "answer.wav", "With --speak: where the speech goes.")
VOICE = flags.DEFINE_string("voice", None, "With --speak: a stored voice.")
REFERENCE = flags.DEFINE_string("reference", None, "With --speak: a clip of the voice to speak in.")
DESCRIBE = flags.DEFINE_string("describe", None, "With --speak: the voice in words.")
LANGUAGE = flags.DEFINE_string("language", None, "With --speak: the answer's, such as en.")


def read_tools(path: str | None) -> list:
    if path is None:
        return []
    try:
        tools = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read tools from {path}: {error}") from None
    if not isinstance(tools, list):
        raise UserError(f"{path} must hold a list of tools, it holds {type(tools).__name__}")
    from omnijax.text.tools import render_definitions

    render_definitions(tools, "")  # says which of them has no name
    return tools


def read_media() -> dict:
    """What the flags give, read and checked before a model is loaded.

    Which frames of a video are wanted is known with the model: here it is only tried.
    """
    from omnijax.media import load_audio, load_image, load_video

    def tried(path: str) -> str:
        load_video(path, max_frames=1)
        return path

    flag_of = {"image": IMAGE, "video": VIDEO, "audio": AUDIO}
    load = {"image": load_image, "video": tried, "audio": load_audio}
    return {kind: load[kind](flag.value) for kind, flag in flag_of.items() if flag.value}


def open_voice(weights: str) -> dict:
    """What a session needs to speak, checked before anything else is loaded."""
    speech = {"voice": VOICE, "reference": REFERENCE, "describe": DESCRIBE, "language": LANGUAGE}
    if not SPEAK.value:
        given = [name for name, flag in (speech | {"out": OUT}).items() if flag.present]
        if given:
            raise UserError(f"--{given[0]} is of the speech: give --speak as well")
        return {}
    check_output(OUT.value, ".wav")
    if REFERENCE.value and (VOICE.value or DESCRIBE.value):
        raise UserError("--reference shows a voice: give no --voice and no --describe with it")
    from omnijax.media import load_audio
    from omnijax.pretrained import load_speaker

    reference = load_audio(REFERENCE.value) if REFERENCE.value else None
    speaker = load_speaker(weights, max_len=max(MAX_LEN.value, 1024))
    if reference is not None:
        voice = speaker.clone(reference)
    else:
        voice = speaker.voice(VOICE.value, describe=DESCRIBE.value)
    if LANGUAGE.value:
        speaker.talker.config.language_id(LANGUAGE.value)
    return {"speaker": speaker, "voice": voice, "language": LANGUAGE.value}


def answer(session, wav) -> None:
    """wav: the writer of speech, by its sample rate."""
    from omnijax.generate.session import AudioChunk, TextDelta, ToolCall, TurnEnd

    first = sound = None
    for event in session.respond(MAX_TOKENS.value):
        first = event.seconds if first is None else first
        if isinstance(event, AudioChunk):
            sound = event.seconds if sound is None else sound
            wav(event.sample_rate).write(event.samples)
        if isinstance(event, TextDelta):
            print(event.text, end="", flush=True)
        elif isinstance(event, ToolCall):
            print(f"[calls {event.name} {json.dumps(event.arguments)}]", flush=True)
        elif isinstance(event, TurnEnd):
            heard = f"first sound after {sound:.2f} s, " if sound is not None else ""
            cut = "; cut off at --max_tokens" if event.reason == "length" else ""
            cut += "; the speech was cut off" if event.speech == "length" else ""
            print(
                f"\n  ({event.tokens} tokens, first after {first:.2f} s, {heard}"
                f"all after {event.seconds:.2f} s{cut})",
                file=sys.stderr,
            )


@contextlib.contextmanager
def survived(session):
    """A slip must not end the conversation."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        if session.unread:
            print("  (not sent yet; /drop takes it back)", file=sys.stderr)


def interact(session, wav) -> None:
    print("Your turn (/image, /audio, /video FILE; /drop; /quit).", file=sys.stderr)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        command, _, value = line.partition(" ")
        with survived(session):
            if command == "/quit":
                return
            if command == "/drop":
                session.drop()
            elif command in ("/image", "/audio", "/video"):
                session.push(**{command[1:]: value.strip()})
            elif command == "/result":
                session.push(tool_result=value)
            elif command.startswith("/"):
                raise UserError(f"{command} is no command: image, audio, video, result, drop, quit")
            else:
                if line:
                    session.push(text=line)
                answer(session, wav)


def main() -> int:
    media = (IMAGE.value, AUDIO.value, VIDEO.value)
    if not any((*media, TEXT.value, INTERACTIVE.value)):
        raise UserError("give --image, --audio, --video, --text or --interactive")
    tools = read_tools(TOOLS.value)
    given = read_media() | ({"text": TEXT.value} if TEXT.value else {})
    from omnijax.generate.sampling import SamplingConfig

    sampling = SamplingConfig(
        temperature=TEMPERATURE.value,
        top_k=TOP_K.value,
        top_p=TOP_P.value,
        repetition_penalty=PENALTY.value,
    )
    compilation_cache()
    from omnijax.generate.session import Session
    from omnijax.media.wav import WavWriter
    from omnijax.pretrained import load

    speaking = open_voice(WEIGHTS.value)
    # Opened at the first sound: until then, what was there stays.
    wav = functools.cache(functools.partial(WavWriter, OUT.value))
    loaded = load(WEIGHTS.value)
    session = Session(
        loaded.generator(sampling, MAX_LEN.value),
        loaded.tokenizer,
        loaded.processor,
        tools=tools,
        system=SYSTEM.value,
        seed=SEED.value,
        **speaking,
    )
    if given:
        with survived(session) if INTERACTIVE.value else contextlib.nullcontext():
            session.push(**given)
            answer(session, wav)
    if INTERACTIVE.value:
        interact(session, wav)
    return 0


if __name__ == "__main__":
    launch(main)
