import re

import numpy as np
import pytest

from omnijax.errors import UserError
from omnijax.eval.answers import answer, prompt, with_noise
from omnijax.generate.text import TextGenerator
from omnijax.media import Audio, ProcessorConfig, Video
from omnijax.text import nano_tokenizer, render

TOKENIZER = nano_tokenizer()
PROCESSOR = ProcessorConfig(patch_size=2, min_pixels=16, max_pixels=256, min_side=4)
RNG = np.random.default_rng(0)
SOUND = Audio((RNG.standard_normal(4000) / 10).astype(np.float32), 8_000)
IMAGE = RNG.integers(0, 256, (6, 10, 3), dtype=np.uint8)
CLIP = Video(RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8), np.arange(3) / 4, SOUND, 0.75)
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?"},
                {"type": "image", "image": IMAGE, "detail": "high"},
                {"type": "audio", "audio": SOUND},
                {"type": "video", "video": CLIP},
                {"type": "video", "video": CLIP._replace(audio=None)},
            ],
        },
    ],
    "tools": [],
}


def media(chat: dict) -> dict[str, list[np.ndarray]]:
    """Everything with pixels or samples in it, by modality."""
    items = chat["messages"][1]["content"]
    clips = [items[3]["video"], items[4]["video"]]
    return {
        "image": [items[1]["image"]],
        "audio": [items[2]["audio"].samples, clips[0].audio.samples],
        "video": [clip.frames for clip in clips],
    }


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_noise_keeps_sizes_and_rates_and_touches_only_its_modality(modality):
    before = {kind: [array.copy() for array in arrays] for kind, arrays in media(CHAT).items()}
    noisy = with_noise(CHAT, modality, np.random.default_rng(1))
    for kind, arrays in media(noisy).items():
        for array, old, ours in zip(arrays, before[kind], media(CHAT)[kind], strict=True):
            assert (array.shape, array.dtype) == (old.shape, old.dtype)
            assert np.array_equal(array, old) == (kind != modality)
            np.testing.assert_array_equal(ours, old)  # The chat that was given is as it was.
    items = noisy["messages"][1]["content"]
    assert items[0] == {"type": "text", "text": "What?"} and items[1]["detail"] == "high"
    assert items[2]["audio"].sample_rate == items[3]["video"].audio.sample_rate == 8_000
    np.testing.assert_array_equal(items[3]["video"].times, CLIP.times)
    assert items[3]["video"].duration == 0.75 and items[4]["video"].audio is None
    assert noisy["messages"][0] == CHAT["messages"][0] and noisy["tools"] == []


def test_noise_is_as_loud_as_the_sound_and_silence_gets_some_too():
    loud = media(with_noise(CHAT, "audio", np.random.default_rng(1)))["audio"][0]
    assert np.std(loud) == pytest.approx(np.std(SOUND.samples), rel=0.1)
    silent = {"type": "audio", "audio": Audio(np.zeros(4000, np.float32), 8_000)}
    chat = {"messages": [{"role": "user", "content": [silent]}]}
    (item,) = with_noise(chat, "audio", np.random.default_rng(1))["messages"][0]["content"]
    assert np.std(item["audio"].samples) > 0


def test_a_modality_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="modality is 'smell'"):
        with_noise(CHAT, "smell", np.random.default_rng(0))


class Parrot(TextGenerator):
    """Stands for a generator: says the number that it reads in each row's question."""

    stop_ids = (TOKENIZER.special("im_end"),)

    def __init__(self, max_len=1024):
        self.batches, self.max_len = [], max_len

    def __call__(self, inputs, max_new_tokens=0, *, seed=0, on_tokens=None):
        texts = [TOKENIZER.decode(row[row > 0]) for row in inputs.tokens]
        assert not any("secret" in text for text in texts)
        self.batches.append(len(texts))
        numbers = [re.search(r"number (\d+)", text) for text in texts]
        return [TOKENIZER.encode(f"it is {n[1]}<|im_end|>") if n else [] for n in numbers]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_answers_come_in_the_order_asked_whatever_the_batches(batch_size):
    chats = []
    for number in range(11):
        items = [{"type": "text", "text": f"number {number} " + "word " * (number * 7 % 5)}]
        if number % 3 == 0:
            items.insert(0, {"type": "image", "image": IMAGE})
        reply = {"role": "assistant", "content": "secret"}
        chats.append({"messages": [{"role": "user", "content": items}, reply]})
    parrot = Parrot()
    answers = answer(parrot, TOKENIZER, PROCESSOR, chats, batch_size=batch_size)
    assert answers == [f"it is {number}" for number in range(11)]
    assert set(parrot.batches) == {batch_size}  # A last batch that is not full is filled up.


def test_a_chat_that_does_not_fit_is_named_before_any_is_answered():
    chats = [
        {"messages": [{"role": "user", "content": f"number {number} " + "word " * words}]}
        for number, words in enumerate((3, 40, 5))
    ]
    row = render(chats[1], TOKENIZER, PROCESSOR, add_generation_prompt=True)
    fits = len(row.tokens) + 16
    asked = {"batch_size": 1, "max_new_tokens": 16}
    assert len(answer(Parrot(fits), TOKENIZER, PROCESSOR, chats, **asked)) == 3
    parrot = Parrot(fits - 1)
    message = f"chat 1 of 3 does not fit: {fits - 16} tokens .* up to 16, .* is {fits - 1}"
    with pytest.raises(UserError, match=message):
        answer(parrot, TOKENIZER, PROCESSOR, chats, **asked)
    assert not parrot.batches


def test_the_prompt_ends_before_the_first_answer():
    roles = ["system", "user", "assistant", "user", "assistant"]
    chat = {"messages": [{"role": role, "content": role} for role in roles], "tools": [1]}
    assert [m["role"] for m in prompt(chat)["messages"]] == ["system", "user"]
    assert prompt(chat)["tools"] == [1] and len(chat["messages"]) == 5
    assert prompt({"messages": chat["messages"][:2]})["messages"] == chat["messages"][:2]
