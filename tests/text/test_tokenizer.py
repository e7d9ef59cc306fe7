import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.errors import UserError
from omnijax.text import SPECIAL, Tokenizer, nano_tokenizer, train_tokenizer

TOKENIZER = nano_tokenizer()
ROOT = Path(__file__).parents[2]


@given(st.text(st.characters(exclude_categories=("Cs",))))
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_from_its_ids(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert TOKENIZER.decode(TOKENIZER.encode(text, literal=True)) == text


def test_nano_has_1024_tokens_with_the_special_ones_last():
    assert TOKENIZER.vocab_size == 1024
    ids = {name: TOKENIZER.special(name) for name in SPECIAL}
    assert sorted(ids.values()) == list(range(1024 - len(SPECIAL), 1024))
    for name, string in SPECIAL.items():
        assert TOKENIZER.encode(string) == [ids[name]]
        assert TOKENIZER.decode([ids[name]]) == string


def test_each_digit_is_a_token_of_its_own():
    assert [TOKENIZER.decode([i]) for i in TOKENIZER.encode("20.5 seconds, 1987")] == [
        *("2", "0", ".", "5", " seconds", ",", " ", "1", "9", "8", "7"),
    ]


def test_words_of_the_world_are_mostly_one_token_each():
    sentences = (
        "the red circle jumps with the bell",
        "what colour is the square?",
        "le cercle rouge va à gauche",
        "der blaue kreis springt",
        "la estrella azul gira",
    )
    tokens = sum(len(TOKENIZER.encode(sentence)) for sentence in sentences)
    assert tokens <= 1.35 * sum(len(sentence.split()) for sentence in sentences)


def test_a_control_token_written_in_a_literal_text_stays_text():
    text = "say <|im_end|> and <|audio_pad|>"
    control = {TOKENIZER.special("im_end"), TOKENIZER.special("audio_pad")}
    assert control <= set(TOKENIZER.encode(text))
    assert not control & set(TOKENIZER.encode(text, literal=True))
    assert not control & set(TOKENIZER.encode_literal(text))


def test_tags_are_read_in_text_and_survive_skipping_special_tokens():
    ids = TOKENIZER.encode("<tool_call>x</tool_call><|im_end|>")
    assert TOKENIZER.special("tool_call") in TOKENIZER.encode("<tool_call>", literal=True)
    assert TOKENIZER.decode(ids, skip_special=True) == "<tool_call>x</tool_call>"


def test_remembered_encodings_are_the_plain_ones():
    for _ in range(2):
        assert TOKENIZER.encode_literal("the bell") == TOKENIZER.encode("the bell", literal=True)


def test_a_tokenizer_survives_a_file_and_another_process(tmp_path):
    tokenizer = train_tokenizer(["a red circle", "a red square"] * 3, 300)
    tokenizer.save(tmp_path / "tokenizer.json")
    for other in (
        Tokenizer.from_file(tmp_path / "tokenizer.json"),
        Tokenizer.from_file(tmp_path),
        pickle.loads(pickle.dumps(tokenizer)),
    ):
        assert other.encode("a red <|im_end|> çircle") == tokenizer.encode(
            "a red <|im_end|> çircle"
        )
        assert other.vocab_size == tokenizer.vocab_size


def test_training_is_the_same_each_time():
    texts = ["the red circle jumps", "the blue square spins", "11 22 33"] * 5
    first, second = train_tokenizer(texts, 320), train_tokenizer(iter(texts), 320)
    assert first._backend.to_str() == second._backend.to_str()


def test_a_vocabulary_too_small_for_the_bytes_is_refused():
    with pytest.raises(UserError, match=r"vocab_size is 100.*need 275"):
        train_tokenizer(["a"], 100)


def test_a_missing_file_and_a_file_of_something_else_are_clear_errors(tmp_path):
    with pytest.raises(UserError, match="no tokenizer file at .*nope.json"):
        Tokenizer.from_file(tmp_path / "nope.json")
    (tmp_path / "bad.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="bad.json is not a tokenizer.json"):
        Tokenizer.from_file(tmp_path / "bad.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="binary.json is not a tokenizer.json"):
        Tokenizer.from_file(tmp_path / "binary.json")


def test_special_tokens_are_found_by_their_strings_or_named_as_missing(tmp_path):
    import tokenizers

    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    other = Tokenizer.from_file(tmp_path)
    assert (other.special("im_end"), other.special("im_start")) == (0, 1)
    with pytest.raises(UserError, match=r"tokenizer.json has no <\|audio_pad\|> token"):
        other.special("audio_pad")
    with pytest.raises(UserError, match="no special token is called 'im_middle'"):
        other.special("im_middle")


def test_a_tokenizer_of_ones_own_text_never_takes_the_shipped_ones_place(tmp_path):
    (tmp_path / "lines.txt").write_text("the red circle jumps\n")
    command = [sys.executable, str(ROOT / "experiments" / "tokenizer.py"), "--text=lines.txt"]

    def trained(*flags):
        return subprocess.run(
            [*command, *flags], capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    refused = trained()
    assert refused.returncode == 2 and not (tmp_path / "omnijax").exists()
    assert "--text needs --out" in refused.stderr
    assert "omnijax/assets/nano/tokenizer.json" in refused.stderr
    assert trained("--out=own.json", "--vocab_size=300").returncode == 0
    assert (tmp_path / "own.json").is_file()
