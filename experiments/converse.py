"""Talks with a model about your own files; the answer is written as it is produced.

    python experiments/converse.py --image=x.png --audio=question.wav
    python experiments/converse.py --video=clip.mp4 --text="when does the bell ring?"
    python experiments/converse.py --interactive

In an interactive conversation a line is a turn; /image FILE, /audio FILE and /video FILE add to the
turn that the next line (or an empty one) sends, /result TEXT answers a tool call, /drop takes back
what is not sent yet, /quit ends.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags  # noqa: E402

from experiments._main import compilation_cache, launch  # noqa: E402
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
MAX_LEN = flags.DEFINE_integer("max_len", 2048, "Longest conversation, tokens.", lower_bound=1)
TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
TOP_K = flags.DEFINE_integer("top_k", 0, "Keep the k likeliest tokens; 0 keeps all.")
TOP_P = flags.DEFINE_float("top_p", 1.0, "Keep the likeliest tokens of this probability mass.")
PENALTY = flags.DEFINE_float("repetition_penalty", 1.0, "Above 1: repeat less.")
SEED = flags.DEFINE_integer("seed", 0, "Of the sampling.")


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


def answer(session) -> None:
    from omnijax.generate.session import TextDelta, ToolCall, TurnEnd

    first = None
    for event in session.respond(MAX_TOKENS.value):
        first = event.seconds if first is None else first
        if isinstance(event, TextDelta):
            print(event.text, end="", flush=True)
        elif isinstance(event, ToolCall):
            print(f"[calls {event.name} {json.dumps(event.arguments)}]", flush=True)
        elif isinstance(event, TurnEnd):
            cut = "; cut off at --max_tokens" if event.reason == "length" else ""
            print(
                f"\n  ({event.tokens} tokens, first after {first:.2f} s, "
                f"all after {event.seconds:.2f} s{cut})",
                file=sys.stderr,
            )


def interact(session) -> None:
    print("Your turn (/image, /audio, /video FILE; /drop; /quit).", file=sys.stderr)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        command, _, value = line.partition(" ")
        try:
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
                answer(session)
        except UserError as error:  # A slip must not end the conversation.
            print(f"error: {error}", file=sys.stderr)
            if session.unread:
                print("  (not sent yet; /drop takes it back)", file=sys.stderr)


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
    from omnijax.pretrained import load

    loaded = load(WEIGHTS.value)
    session = Session(
        loaded.generator(sampling, MAX_LEN.value),
        loaded.tokenizer,
        loaded.processor,
        tools=tools,
        system=SYSTEM.value,
        seed=SEED.value,
    )
    if given:
        session.push(**given)
        answer(session)
    if INTERACTIVE.value:
        interact(session)
    return 0


if __name__ == "__main__":
    launch(main)
