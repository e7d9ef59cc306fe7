"""converse.py as its user meets it; five processes start, since each costs seconds."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from PIL import Image

from omnijax.media import Audio, ProcessorConfig, Video, save_audio, write_video
from omnijax.models import presets
from omnijax.models.thinker import Thinker, text_inputs
from omnijax.text import nano_tokenizer
from omnijax.train.checkpoint import save_weights
from omnijax.train.stages import to_dict

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments" / "converse.py"
TONE = (np.sin(np.arange(8000) / 9) / 2).astype(np.float32)

# Calls converse's `launch(main)` once for each list of arguments on stdin, in one process.
DRIVER = f"""
import contextlib, io, json, sys
sys.path.insert(0, {str(ROOT)!r})
from absl.testing import flagsaver
from experiments import converse
from experiments._main import launch
told = []
for arguments in json.load(sys.stdin):
    stderr = io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stderr(stderr):
        try:
            launch(converse.main, ["converse.py", *arguments])
        except SystemExit as exit:
            told.append((exit.code, stderr.getvalue(), "omnijax.pretrained" in sys.modules))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of a tiny model, and files to talk about."""
    folder = tmp_path_factory.mktemp("converse")
    tokenizer = nano_tokenizer()
    config = dataclasses.replace(
        presets.tiny(),
        vocab_size=tokenizer.vocab_size,
        audio_token_id=tokenizer.special("audio_pad"),
        image_token_id=tokenizer.special("image_pad"),
        video_token_id=tokenizer.special("video_pad"),
    )
    processor = ProcessorConfig(
        mel_bins=16, audio_chunk_frames=32, audio_window_chunks=2, patch_size=2, min_pixels=16,
        max_pixels=64,
    )  # fmt: skip
    thinker = Thinker(config)
    init = jax.jit(lambda key: thinker.init(key, text_inputs(jnp.zeros((1, 4), jnp.int32))))
    saved = {"model": to_dict(config), "processor": to_dict(processor), "tokenizer": "nano"}
    params = init(jax.random.key(0))["params"]
    save_weights(folder / "weights", params, saved)
    save_weights(folder / "bare", params, {"model": saved["model"]})
    other = to_dict(dataclasses.replace(config, vocab_size=2048))
    save_weights(folder / "other", params, {**saved, "model": other})

    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "good.png")
    Image.fromarray(pixels[:1, :1]).save(folder / "dot.png")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    save_audio(folder / "good.wav", Audio(TONE, 16_000))
    soundfile.write(folder / "nan.wav", np.where(TONE > 0.4, np.nan, TONE), 16_000, subtype="FLOAT")
    data = bytearray((folder / "good.wav").read_bytes())
    at = data.index(b"fmt ") + 12
    data[at : at + 4] = bytes(4)
    (folder / "rate0.wav").write_bytes(bytes(data))
    frames = np.stack([np.kron(pixels, np.ones((4, 4, 1), np.uint8))] * 4)
    write_video(folder / "good.mp4", Video(frames, np.arange(4) / 4, Audio(TONE, 16_000)))
    (folder / "broken.json").write_text("[{")
    (folder / "object.json").write_text('{"name": "play"}')
    (folder / "nameless.json").write_text('[{"type": "function", "function": {}}]')
    return folder


def run(folder, *arguments, code=None, stdin=""):
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # Compiles faster.
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = [sys.executable, *(("-c", code) if code else (str(SCRIPT),)), *arguments]
    return subprocess.run(
        command, input=stdin, env=environment, cwd=folder, capture_output=True, text=True
    )


BEFORE_THE_MODEL = (
    ([], "give --image, --audio, --video, --text or --interactive"),
    (["--text="], "give --image"),
    (["--sound=good.wav"], "sound"),
    (["good.wav"], "cannot read the argument 'good.wav'"),
    (["--max_tokens=0", "--text=hi"], "max_tokens"),
    (["--max_len=many", "--text=hi"], "max_len"),
    (["--image=none.png"], "none.png: no such file"),
    (["--image=empty.png"], "empty.png: the file is empty (0 bytes)"),
    (["--image=text.png"], "text.png: cannot be read as a picture"),
    (["--audio=nan.wav"], "is nan, must be a finite number"),
    (["--audio=rate0.wav"], "rate0.wav"),
    (["--video=good.wav"], "good.wav: has no frames"),
    (["--image=good.png", "--audio=none.wav"], "none.wav: no such file"),
    (["--text=hi", "--tools=none.json"], "cannot read tools from none.json"),
    (["--text=hi", "--tools=broken.json"], "cannot read tools from broken.json"),
    (["--text=hi", "--tools=object.json"], "object.json must hold a list of tools"),
    (["--text=hi", "--tools=nameless.json"], "a tool needs a name"),
    (["--text=hi", "--temperature=-1"], "temperature is -1.0"),
)
WITH_THE_MODEL = (
    (["--text=hi", "--weights=none"], "no weights at 'none'"),
    (["--text=hi", "--weights=."], "no readable weights in ."),
    (["--text=hi", "--weights=bare"], "the config in bare has no processor"),
    (["--text=hi", "--weights=other"], "is (1024, 32), the model's is (2048, 32)"),
    (["--weights=weights", "--image=dot.png"], "1x1 pixels, each side must be at least 8"),
    (
        ["--weights=weights", "--text=hi", "--max_len=20", "--max_tokens=16"],
        "an answer of up to 16, the conversation has room for 20",
    ),
    (["--weights=weights", "--text=hi", "--out=kept.wav"], "--out is of the speech: give --speak"),
    (["--text=hi", "--speak", "--out=no/x.wav"], "cannot write no/x.wav: its folder does not"),
    (["--text=hi", "--speak", "--out=x.mp3"], "give the name of a .wav file"),
    (
        ["--text=hi", "--speak", "--max_len=20", "--out=kept.wav"],
        "the conversation has room for 20",
    ),
)


def test_bad_input_is_one_line_and_exit_2_and_media_are_read_before_the_model(folder):
    (folder / "kept.wav").write_text("an answer of before")
    cases = (*BEFORE_THE_MODEL, *WITH_THE_MODEL)
    done = run(folder, code=DRIVER, stdin=json.dumps([arguments for arguments, _ in cases]))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told) == len(cases)
    for (arguments, message), (code, said, loaded) in zip(cases, told, strict=True):
        assert code == 2, arguments
        assert said.startswith("error: ") and said.count("\n") == 1, (arguments, said)
        assert message in said, arguments
        assert loaded == ((arguments, message) in WITH_THE_MODEL), arguments
    assert (folder / "kept.wav").read_text() == "an answer of before"


def test_a_clip_is_tried_before_the_model_but_its_frames_are_not_kept(folder):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from absl import flags
from experiments import converse
flags.FLAGS(["converse.py", "--video=good.mp4"])
print(converse.read_media())
"""
    done = run(folder, code=code)
    assert done.stdout == "{'video': 'good.mp4'}\n", done.stderr


def test_help_tells_what_it_does_and_its_flags(folder):
    done = run(folder, "--help")
    assert done.returncode == 0 and not done.stderr
    assert "Talks with a model about your own files" in done.stdout and "--image" in done.stdout


def test_a_question_about_files_is_answered_as_a_stream(folder):
    done = run(
        folder, "--weights=weights", "--image=good.png", "--audio=good.wav", "--video=good.mp4",
        "--text=what is this?", "--max_tokens=12", "--max_len=256",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "(12 tokens, first after" in done.stderr and "cut off at --max_tokens" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interactive_conversation_survives_slips(folder):
    lines = [
        "/image good.png", "/image none.png", "/louder", "/result 3", "what is it?", "",
        "1 2 3 4 5 6 7 8 9 " * 20, "/drop", "/audio good.wav", "", "/quit", "never read",
    ]  # fmt: skip
    done = run(
        folder, "--weights=weights", "--image=dot.png", "--interactive", "--max_tokens=12",
        "--max_len=256",
        stdin="\n".join(lines),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    expected = (
        "each side must be at least 8",  # the turn that the flags give
        "none.png: no such file", "/louder is no command", "no tool call waits",
        "nothing to answer", "the turn does not fit",
    )  # fmt: skip
    assert len(said) == len(expected)
    for line, message in zip(said, expected, strict=True):
        assert message in line
    assert done.stderr.count("/drop takes it back") == 4
    assert done.stderr.count("(12 tokens, first after") == 2
