"""Answers of the other tasks, said aloud a sentence at a time."""

import numpy as np
import pytest

from omnijax.data import omniworld
from omnijax.data.omniworld import replies
from omnijax.data.omniworld.tasks import plan
from omnijax.errors import UserError


def test_a_reply_is_one_line_or_sentence_of_an_answer_and_never_a_call():
    seen = set()
    for index in range(400):
        made = plan(index)
        for text in replies.replies_of(made):
            assert text == text.strip() and "\n" not in text and "tool_call" not in text
            seen.add(made["task"])
    assert seen == {*omniworld.MIXTURE} - {"transcribe"}


def test_a_time_in_brackets_is_spoken_without_them(monkeypatch):
    aloud = []

    def spoken(rng, text, language, split):
        aloud.append(text)
        return {"kind": "speech", "text": "yes", "language": language, "voice": "anna",
                "accent": "en"}  # fmt: skip

    monkeypatch.setattr(replies, "spoken", spoken)
    texts = [replies.reply(index, "train")["meta"]["answer"] for index in range(60)]
    timed = [pair for pair in zip(texts, aloud, strict=True) if pair[0].startswith("<")]
    assert timed
    for text, said in timed:
        assert said == text.replace("<", "").replace(">", ",")


def test_replies_are_the_same_for_the_same_index_and_others_for_another_split():
    train, again = (omniworld.live("train", tasks=["say_reply"]) for _ in range(2))
    one, two = train[3], again[3]
    assert one["meta"]["answer"] == two["meta"]["answer"]
    np.testing.assert_array_equal(one["meta"]["speech"].samples, two["meta"]["speech"].samples)
    assert one["meta"]["speech"].sample_rate == 24_000 and one["meta"]["speech"].seconds >= 1
    test = omniworld.live("test", tasks=["say_reply"])
    assert len(test) == 500 < len(train)
    assert [test[i]["meta"]["answer"] for i in range(8)] != [
        train[i]["meta"]["answer"] for i in range(8)
    ]
    with pytest.raises(IndexError):
        test[500]


def test_replies_stand_alone_in_a_source():
    with pytest.raises(UserError, match="say_reply is a source of its own in train"):
        omniworld.live("train", tasks=["say_reply", "say"])
    with pytest.raises(UserError, match="say_reply is a source of its own in train"):
        omniworld.live("test_voice", tasks=["say_reply"])
