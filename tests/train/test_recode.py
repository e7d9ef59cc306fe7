"""A Talker on another codec's codes."""

import numpy as np
import pytest

from omnijax.data.codes import CodesSource, Utterance, write_codes
from omnijax.errors import UserError
from omnijax.train.checkpoint import load_weights, save_weights
from omnijax.train.recode import counted_together, recode, recode_weights

BOOKS, SIZE, WIDTH = 3, 8, 5


def speech(folder, codec, change=lambda codes: codes, texts=("one", "two", "three")):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, SIZE, (400, BOOKS)) for _ in texts]
    said = [
        Utterance(text, "en", "anna", "a woman", change(codes))
        for text, codes in zip(texts, rows, strict=True)
    ]
    write_codes(folder, "train", said, codec)
    return CodesSource(folder, "train")


def talker():
    rng = np.random.default_rng(1)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "codec_embed": {"table": draw(SIZE + 4, WIDTH)},
        "codec_head": {"w": draw(WIDTH, SIZE + 4)},
        "mtp": {
            "embed": draw(BOOKS - 1, SIZE, WIDTH),
            "head": draw(BOOKS - 1, WIDTH, SIZE),
            "decoder": draw(2),
        },
        "decoder": draw(2),
    }


def test_codes_that_only_have_other_names_keep_what_was_learned_of_them(tmp_path):
    names = np.stack([np.random.default_rng(book).permutation(SIZE) for book in range(BOOKS)])
    old = speech(tmp_path / "old", "a")
    new = speech(tmp_path / "new", "b", lambda codes: names[np.arange(BOOKS), codes])
    counts, counted = counted_together(old, new, SIZE)
    assert counted == 3 and counts.sum() == 3 * 400 * BOOKS
    before = talker()
    after = recode(before, counts)
    close = {"rtol": 0, "atol": 0.05}  # the prior
    table, head = before["codec_embed"]["table"], before["codec_head"]["w"]
    np.testing.assert_allclose(after["codec_embed"]["table"][names[0]], table[:SIZE], **close)
    np.testing.assert_allclose(after["codec_head"]["w"][:, names[0]], head[:, :SIZE], **close)
    for book in range(1, BOOKS):
        own, was = ({k: p["mtp"][k][book - 1] for k in ("embed", "head")} for p in (after, before))
        np.testing.assert_allclose(own["embed"][names[book]], was["embed"], **close)
        np.testing.assert_allclose(own["head"][:, names[book]], was["head"], **close)
    # What is no code stays, to the bit.
    np.testing.assert_array_equal(after["codec_embed"]["table"][SIZE:], table[SIZE:])
    np.testing.assert_array_equal(after["codec_head"]["w"][:, SIZE:], head[:, SIZE:])
    assert after["decoder"] is before["decoder"]
    assert after["mtp"]["decoder"] is before["mtp"]["decoder"]


def test_a_code_that_tells_nothing_or_was_never_met_is_the_mean_of_the_old_ones(tmp_path):
    old = speech(tmp_path / "old", "a")
    new = speech(tmp_path / "new", "b", np.zeros_like)
    counts, _ = counted_together(old, new, SIZE)
    before = talker()
    met = np.concatenate([old[i].codes[:, 0] for i in range(3)])
    mean = before["codec_embed"]["table"][met].mean(0)
    after = recode(before, counts)["codec_embed"]["table"][:SIZE]
    np.testing.assert_allclose(after, np.tile(mean, (SIZE, 1)), rtol=1e-4, atol=1e-5)


def test_what_is_not_the_same_speech_is_not_counted_or_refused(tmp_path):
    old = speech(tmp_path / "old", "a")
    other = speech(tmp_path / "other", "b", texts=("one", "else", "three"))
    assert counted_together(old, other, SIZE)[1] == 2
    shorter = speech(tmp_path / "shorter", "b", lambda codes: codes[1:])
    with pytest.raises(UserError, match="no utterance is in both folders"):
        counted_together(old, shorter, SIZE)
    fewer = speech(tmp_path / "fewer", "b", lambda codes: codes[:, :2])
    with pytest.raises(UserError, match="'old': 3, 'new': 2"):
        counted_together(old, fewer, SIZE)
    with pytest.raises(UserError, match="has code 7, the Talker's go up to 3"):
        counted_together(old, old, 4)


def test_weights_begin_on_the_other_codes_and_say_so(tmp_path):
    speech(tmp_path / "old", "a")
    speech(tmp_path / "new", "b", lambda codes: SIZE - 1 - codes)
    config = {"talker": {"codebook_size": SIZE}, "codec": "a", "pace": {"": 3.0}}
    before = talker()
    save_weights(tmp_path / "talker", before, config)
    folders = [tmp_path / name for name in ("talker", "old", "new", "begun")]
    assert recode_weights(*folders) == 3
    after, now = load_weights(tmp_path / "begun")
    assert now == config | {"codec": "b"}
    turned = before["codec_embed"]["table"][:SIZE][::-1]
    np.testing.assert_allclose(after["codec_embed"]["table"][:SIZE], turned, rtol=0, atol=0.05)
    with pytest.raises(UserError, match="speaks codes of codec a, those in .* are b's"):
        recode_weights(folders[0], folders[2], folders[1], folders[3])
    save_weights(tmp_path / "codec", {"codec": before}, {"codec": {}})
    with pytest.raises(UserError, match="are no Talker's"):
        recode_weights(tmp_path / "codec", *folders[1:])
