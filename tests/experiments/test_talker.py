"""talker.py as its user gives its commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from omnijax.data import omniworld
from omnijax.data.codes import CodesSource, ThinkerStream
from omnijax.data.omniworld.aloud import question_of
from omnijax.generate.prompts import collate_prompts
from omnijax.media import load_audio
from omnijax.models.talker.context import users_turn
from omnijax.pretrained import load
from omnijax.text import render

ROOT = Path(__file__).parents[2]


def codes(*arguments: str) -> subprocess.CompletedProcess:
    return talker("codes", *arguments)


def talker(*arguments: str, packages: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, "experiments/talker.py", *arguments]
    environment = {**os.environ, **({"PYTHONPATH": packages} if packages else {})}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, timeout=900, env=environment
    )


def test_only_answers_have_a_question_to_read():
    refused = codes("--thinker=nano")
    assert refused.returncode == 2
    assert "--thinker reads the questions of say_reply, --task is say" in refused.stderr


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_encoded_or_counted(tmp_path):
    (tmp_path / "file").write_text("")
    refused = codes("--count=20", f"--out={tmp_path / 'file' / 'codes'}")
    assert refused.returncode == 2 and "file/codes/train.npz" in refused.stderr
    assert not refused.stdout  # not even the bar
    refused = talker("recode", "no", "codes", f"{tmp_path / 'file' / 'begun'}")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: cannot write") and "file/begun/" in refused.stderr


def test_a_score_of_no_part_or_of_an_unknown_one_is_refused():
    refused = talker("score", "--only=speech,singing")
    assert refused.returncode == 2
    assert "--only has 'singing', it must be of speech, long, " in refused.stderr
    for nothing in (("--only=",), ("--only=long", "--long=0")):
        refused = talker("score", *nothing)
        assert refused.returncode == 2 and "there is nothing to score" in refused.stderr


def test_a_speaker_encoder_that_is_broken_is_said_before_anything_is_loaded(tmp_path):
    (tmp_path / "resemblyzer.py").write_text("import torch_that_is_missing\n")
    score = "score", "--weights=typo"
    refused = talker(*score, packages=str(tmp_path))
    assert refused.returncode == 2 and "torch_that_is_missing" in refused.stderr
    # Where nothing is cloned, nobody asks for it.
    refused = talker(*score, "--only=speech", packages=str(tmp_path))
    assert refused.returncode == 2 and "no voice beside the weights 'typo'" in refused.stderr


@pytest.mark.slow
def test_what_cannot_be_said_to_its_end_is_an_error_and_what_was_said_can_be_played(tmp_path):
    target = tmp_path / "out.wav"
    said = talker("say", "the red circle is left of the blue cross", str(target), "--max_len=64")
    assert said.returncode == 2
    assert "is not the whole text of 40 characters: the limit (--max_len) is 64" in said.stderr
    assert 0 < load_audio(target).seconds < 3


@pytest.mark.slow
def test_a_score_on_validation_speaks_as_a_config_says(tmp_path):
    report = tmp_path / "figures.json"
    scored = talker(
        "score", "--only=speech", "--split=validation", "--examples=2", f"--report={report}",
        "--config=experiments/configs/nano_talker.py", "--config.speech.longest_token=1",
        "--config.speech.context=False", "--config.speech.lead=0",
    )  # fmt: skip
    assert scored.returncode == 0, scored.stderr
    figures = json.loads(report.read_text())
    assert figures["split"] == "validation" and figures["examples"] == 2
    assert figures["speech"]["longest_token"] == 1
    others = ("conversation", "sentences an answer", "voices never heard")
    assert not any(other in name for other in others for name in figures)
    first = omniworld.live("validation", tasks=["say"])
    source = sum(first[i]["meta"]["speech"].seconds for i in range(2))
    assert figures["seconds of source"] == pytest.approx(source)
    # A frame a token once the text is over: what is said breaks off.
    assert figures["seconds spoken"] < 0.8 * figures["seconds of source"]


@pytest.mark.slow
def test_answers_are_stored_with_what_the_thinker_has_read_of_their_questions(tmp_path):
    made = ("--task=say_reply", "--count=20", f"--out={tmp_path}")
    assert codes(*made).returncode == 0
    assert "utterances of this codec are there" in codes(*made).stdout
    stored, nano = CodesSource(tmp_path), load("nano")
    source, generator = omniworld.live("train", tasks=["say_reply"]), nano.generator()
    assert stored.thinker == ThinkerStream(generator.mark, 3)
    seen = 0
    for place in range(8):
        context, chat = stored[place].context, question_of(source[place])
        row = render(chat, nano.tokenizer, nano.processor, add_generation_prompt=True)
        turn = users_turn(nano.tokenizer, row.tokens)
        np.testing.assert_array_equal(context.tokens, row.tokens[turn])
        # Read alone, where it was read in a batch.
        inputs = collate_prompts([row], nano.processor)
        _, (stream,) = generator.read(generator.start(1), inputs, 3)
        expected = np.asarray(stream)[turn][context.media]
        np.testing.assert_allclose(context.hidden, expected, rtol=2e-3, atol=2e-3)
        seen += len(expected)
    assert seen
