"""A Talker on another codec's codes."""

import numpy as np
import pytest

from omnijax.data.codes import CodesSource, Utterance, write_codes
from omnijax.errors import UserError
from omnijax.pretrained import recode_weights
from omnijax.train.checkpoint import load_weights, save_weights
from omnijax.train.recode import counted_together, recode

BOOKS, SIZE, WIDTH = 3, 8, 5


def speech(folder, codec, change=lambda codes: codes, texts=("one", "two", "three"), mark=""):
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, SIZE, (400, BOOKS)) for _ in texts]
    said = [
        Utterance(text, "en", "anna", "a woman", change(codes))
        for text, codes in zip(texts, rows, strict=True)
    ]
    write_codes(folder, "train", said, codec, speech=mark)
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
    counts, counted = counted_together(old, new, BOOKS, SIZE)
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
    counts, _ = counted_together(old, new, BOOKS, SIZE)
    before = talker()
    after = recode(before, counts)
    close = {"rtol": 1e-4, "atol": 1e-5}
    for book in range(BOOKS):
        met = np.concatenate([old[i].codes[:, book] for i in range(3)])
        tables = [
            (p["codec_embed"]["table"][:SIZE], p["codec_head"]["w"][:, :SIZE].T)
            if book == 0
            else (p["mtp"]["embed"][book - 1], p["mtp"]["head"][book - 1].T)
            for p in (before, after)
        ]
        for was, own in zip(*tables, strict=True):
            np.testing.assert_allclose(own, np.tile(was[met].mean(0), (SIZE, 1)), **close)


def test_what_is_not_the_same_speech_is_not_counted_or_refused(tmp_path):
    old = speech(tmp_path / "old", "a")
    other = speech(tmp_path / "other", "b", texts=("one", "else", "three"))
    assert counted_together(old, other, BOOKS, SIZE)[1] == 2
    another = speech(tmp_path / "another", "b", texts=("one", "else", "more"))
    with pytest.raises(UserError, match="of 3 utterances 1 are in the same place"):
        counted_together(old, another, BOOKS, SIZE)
    shorter = speech(tmp_path / "shorter", "b", lambda codes: codes[1:])
    with pytest.raises(UserError, match="of 3 utterances 0 are in the same place"):
        counted_together(old, shorter, BOOKS, SIZE)


def test_weights_begin_on_the_other_codes_and_say_so(tmp_path):
    speech(tmp_path / "old", "a")
    speech(tmp_path / "new", "b", lambda codes: SIZE - 1 - codes, texts=("one", "two", "else"))
    config = {
        "talker": {"codebook_size": SIZE, "codebooks": BOOKS}, "codec": "a", "pace": {"": 3.0},
    }  # fmt: skip
    before = talker()
    save_weights(tmp_path / "talker", before, config)
    folders = [tmp_path / name for name in ("talker", "old", "new", "begun")]
    assert recode_weights(*folders) == (2, 3)
    after, now = load_weights(tmp_path / "begun")
    assert now == config | {"codec": "b"}
    turned = before["codec_embed"]["table"][:SIZE][::-1]
    np.testing.assert_allclose(after["codec_embed"]["table"][:SIZE], turned, rtol=0, atol=0.05)


def test_weights_that_cannot_begin_there_are_refused(tmp_path):
    folders = [tmp_path / name for name in ("talker", "old", "new", "begun")]
    _, old, new, begun = folders
    speech(old, "a")
    speech(new, "b")
    config = {"talker": {"codebook_size": SIZE, "codebooks": BOOKS}, "codec": "a"}

    def refused(message, *of):
        with pytest.raises(UserError, match=message):
            recode_weights(*of)

    save_weights(folders[0], talker(), config)
    refused("speaks codes of codec a, those in .*new are b's", folders[0], new, old, begun)
    refused("are of one codec, a", folders[0], old, old, begun)
    speech(tmp_path / "fewer", "b", lambda codes: codes[:, :2])
    refused(
        "fewer has 2 codebooks, config.talker.codebooks is 3",
        *folders[:2],
        tmp_path / "fewer",
        begun,
    )
    for by, code in ((1, SIZE), (-1, -1)):
        speech(tmp_path / "other", "b", lambda codes, by=by: codes + by)
        refused(f"other has code {code}", *folders[:2], tmp_path / "other", begun)
    speech(tmp_path / "then", "a", mark="voices of then")
    speech(tmp_path / "now", "b", mark="voices of now")
    refused(
        "then are of speech voices of then, those in",
        folders[0],
        tmp_path / "then",
        tmp_path / "now",
        begun,
    )
    save_weights(tmp_path / "codec", {"codec": talker()}, {"codec": {}})
    refused("are no Talker's", tmp_path / "codec", *folders[1:])
    (folders[0] / "voices.npz").write_bytes(b"")
    refused("talker has a voice: its voices.npz", *folders[:3], folders[0])
    assert not begun.exists()
