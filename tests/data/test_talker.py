"""Stored speech to the Talker's rows: voices shown by other utterances, legal schedules, an order
that a checkpoint keeps."""

import dataclasses
import hashlib
import json

import jax
import numpy as np
import pytest

from omnijax.data.codes import (
    CodesSource,
    ThinkerStream,
    Utterance,
    codec_of,
    fingerprint,
    fingerprint_of,
    made_before,
    said_of,
    write_codes,
)
from omnijax.data.omniworld import live
from omnijax.data.talker import RowMaker, TalkerDataConfig, make_talker_pipeline
from omnijax.errors import UserError
from omnijax.models.talker import aria, presets
from omnijax.models.talker.context import Context
from omnijax.models.talker.prompt import Voice, chat_marks, prompt_row
from omnijax.text import nano_tokenizer

TOKENIZER = nano_tokenizer()
TALKER = presets.nano()
SOURCE = "codes:here"


def utterances():
    rng = np.random.default_rng(0)
    for i in range(24):
        voice, language = ("anna", "ben")[i % 2], ("en", "de")[i // 2 % 2]
        # Frames of utterance i have i in codebook 1, so that they are known again.
        codes = rng.integers(0, 256, (8 + i, 16))
        codes[:, 1] = i
        yield Utterance(f"the red circle {i}", language, voice, f"{voice} speaks", codes)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codes")
    assert write_codes(folder, "train", utterances(), "abc") == 24
    return CodesSource(folder, "train")


THINKER = ThinkerStream("a thinker", TALKER.accept_hidden_layer)


def turn(i):
    """The context of utterance i: five tokens, i % 3 of them media, whose stream is i."""
    media = np.arange(5) < i % 3
    hidden = np.full((int(media.sum()), TALKER.thinker_width), i, np.float32)
    places = np.repeat(np.arange(7, 12), 3).reshape(5, 3)
    return Context(np.arange(20, 25), media, hidden, places)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Every second utterance has a context."""
    folder = tmp_path_factory.mktemp("answers")
    made = (
        said._replace(context=None if i % 2 else turn(i)) for i, said in enumerate(utterances())
    )
    write_codes(folder, "train", made, "abc", THINKER)
    return CodesSource(folder, "train")


def config(**fields):
    return TalkerDataConfig(**{"mixture": ((SOURCE, 1.0),), "max_tokens": 400} | fields)


def pipeline(source, **fields):
    where = {k: fields.pop(k) for k in ("process_index", "process_count") if k in fields}
    return make_talker_pipeline(
        config(**fields), talker=TALKER, tokenizer=TOKENIZER, sources={SOURCE: source}, **where
    )


def test_processes_share_a_batch_s_rows(source):
    whole = next(pipeline(source, batch_size=4))
    parts = [next(pipeline(source, batch_size=4, process_index=i, process_count=2)) for i in (0, 1)]
    ours, theirs = (np.concatenate([part.kinds for part in parts]), whole.kinds)
    np.testing.assert_array_equal(ours, theirs)
    assert parts[0].kinds.shape[0] == 2 and not np.array_equal(parts[0].kinds, parts[1].kinds)


def test_what_is_written_is_read(source):
    assert len(source) == 24 and source.codec == "abc"
    for place, said in enumerate(utterances()):
        read = source[place]
        assert read[:4] == said[:4]
        np.testing.assert_array_equal(read.codes, said.codes)
    assert {source[p].voice for p in source.of_voice("ben")} == {"ben"}
    assert len(source.of_voice("ben")) == 12


def test_contexts_are_read_as_written_and_an_utterance_without_one_has_none(source, answers):
    assert source.thinker is None and source[0].context is None
    assert answers.thinker == THINKER
    for place in range(len(answers)):
        read = answers[place].context
        assert (read is None) == bool(place % 2)
        if read is not None:
            for ours, written in zip(read, turn(place), strict=True):
                np.testing.assert_array_equal(ours, written)


@pytest.mark.parametrize("form", ["aria", "dual_track"])
def test_an_answer_with_a_context_is_said_alone_behind_it(answers, form):
    talker = dataclasses.replace(TALKER, form=form)
    fields = {"joined": (0.0, 0.0, 1.0), "contexts": 1.0, "max_hidden": 8}
    maker = RowMaker(config(**fields), talker, TOKENIZER)
    for place in range(6):
        row = maker.make(answers, place, np.random.default_rng(place))
        said = {*row.targets[row.kinds == aria.FRAME][:, 1].tolist()}
        if place % 2:
            assert len(said) == 3 and not row.media.any() and not len(row.hidden)
            continue
        assert said == {place}
        np.testing.assert_array_equal(row.hidden, turn(place).hidden)
        (begin,) = np.flatnonzero(row.tokens == 24)[:1] - 4
        np.testing.assert_array_equal(row.media[begin : begin + 5], turn(place).media)
        assert row.media.sum() == len(row.hidden)


def test_packed_rows_have_each_document_s_stream_in_order(answers):
    stream = pipeline(answers, contexts=0.7, max_hidden=4, max_tokens=300)
    shown = unshown = 0
    for _ in range(8):
        inputs = next(stream).inputs
        assert inputs.hidden.shape == (2, 4, TALKER.thinker_width)
        for row in range(2):
            media, valid = inputs.media[row], inputs.hidden_valid[row]
            assert media.sum() == valid.sum() <= 4
            # The stream of utterance i is i, and so is codebook 1 of its frames.
            owners = inputs.segment_ids[row][media]
            for document, i in zip(owners, inputs.hidden[row, valid, 0], strict=True):
                own = inputs.segment_ids[row] == document
                assert inputs.codes[row][own][-1, 1] == i
            unshown += len({*inputs.segment_ids[row].tolist()} - {0, *owners.tolist()})
            shown += len({*owners.tolist()})
    assert shown > 4 and unshown > 4


def test_contexts_that_nobody_can_read_are_refused(source, answers, tmp_path):
    fields = {"contexts": 0.5, "max_hidden": 8}
    with pytest.raises(UserError, match="contexts are to be read, but none of codes:here has any"):
        pipeline(source, **fields)
    for talker, named in (
        (dataclasses.replace(TALKER, accept_hidden_layer=2), "after 3 layers, accept_hidden_layer"),
        (dataclasses.replace(TALKER, thinker_width=20), "this Talker's Thinker has width 20"),
    ):
        with pytest.raises(UserError, match=named):
            next(make_talker_pipeline(config(**fields), talker=talker, tokenizer=TOKENIZER,
                                      sources={SOURCE: answers}))  # fmt: skip
    with pytest.raises(UserError, match=r"has 2 media positions, the row's limit \(max_hidden\)"):
        next(pipeline(answers, contexts=1.0, max_hidden=1))
    for wrong in ({"contexts": 0.5}, {"max_hidden": 8}):
        with pytest.raises(UserError, match="contexts is .* and max_hidden"):
            config(**wrong)
    said = next(utterances())._replace(context=turn(2))
    with pytest.raises(UserError, match="utterance 0 has a context, but of no Thinker"):
        write_codes(tmp_path, "train", [said], "abc")
    with pytest.raises(UserError, match="no utterance has a context of the Thinker that is named"):
        write_codes(tmp_path, "train", [said._replace(context=None)], "abc", THINKER)
    loud = said._replace(context=turn(2)._replace(hidden=1e5 * turn(2).hidden))
    with pytest.raises(UserError, match="stream reaches 200000, half precision ends at 65504"):
        write_codes(tmp_path, "train", [loud], "abc", THINKER)
    for wrong, named in (
        ({"hidden": np.nan * turn(2).hidden}, "the context of utterance 0: .*stream reaches nan"),
        ({"hidden": turn(2).hidden[:1]}, "utterance 0 has 5 tokens, .* 2 of them set, and 1 stat"),
        ({"tokens": turn(2).tokens[:4]}, "utterance 0 has 4 tokens, 5 positions, 5 marks of media"),
        ({"positions": None}, "the context of utterance 0 has no positions"),
    ):
        bad = said._replace(context=turn(2)._replace(**wrong))
        with pytest.raises(UserError, match=named):
            write_codes(tmp_path, "train", [bad], "abc", THINKER)
    narrow = said._replace(context=turn(2)._replace(hidden=turn(2).hidden[:, :7]))
    with pytest.raises(UserError, match=r"utterance 1 has states \(2, 7\), those before it"):
        write_codes(tmp_path, "train", [said, narrow], "abc", THINKER)
    assert not [*tmp_path.iterdir()]


def test_an_order_is_the_one_that_it_was_before_there_were_contexts_or_nobody_s_voice(source):
    config = dataclasses.asdict(TalkerDataConfig(mixture=((SOURCE, 1.0),), max_tokens=400))
    but = ("threads", "prefetch_batches", "contexts", "max_hidden", "anonymous")
    fields = {name: value for name, value in config.items() if name not in but}
    text = json.dumps([fields, [[24, "abc"]]], sort_keys=True)
    assert pipeline(source)._fingerprint == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_thinker_s_mark_is_of_all_that_reaches_its_stream_at_the_precision_kept():
    rng = np.random.default_rng(0)
    params = {
        part: {"w": rng.normal(size=(90, 91)).astype(np.float32)}
        for part in ("embed", "audio", "decoder", "lm_head")
    }
    kept = jax.tree.map(lambda w: np.asarray(jax.numpy.asarray(w, "bfloat16"), np.float32), params)
    mark = fingerprint_of(params)
    assert fingerprint_of(kept) == mark == fingerprint_of(jax.tree.map(jax.numpy.asarray, params))
    for part in params:
        moved = params | {part: {"w": 1.1 * params[part]["w"]}}
        assert (fingerprint_of(moved) == mark) == (part == "lm_head")


def test_a_voice_is_shown_by_another_utterance_of_its_own(source):
    maker = RowMaker(config(shown=1.0, described=0.0, joined=(1.0,)), TALKER, TOKENIZER)
    languages = set()
    for place in range(len(source)):
        voice = maker._voice(source, [place], np.random.default_rng(place))
        (shown,) = set(voice.reference[:, 1].tolist())
        assert shown != place and source[shown].voice == source[place].voice
        languages.add((source[shown].language, source[place].language))
        assert not len(voice.description)
    assert ("en", "de") in languages or ("de", "en") in languages  # across languages too


def test_an_item_says_no_sentence_twice_and_is_shown_by_none_that_it_says(source):
    maker = RowMaker(config(shown=1.0, described=0.0, joined=(0.0, 0.0, 1.0)), TALKER, TOKENIZER)
    for seed in range(50):
        row = maker.make(source, seed % 24, np.random.default_rng(seed))
        spoken = row.kinds == aria.FRAME
        said = row.targets[spoken][:, 1]
        runs = 1 + np.count_nonzero(np.diff(said))
        assert runs == len(set(said.tolist())) == 3
        answer = np.flatnonzero(spoken)[0]
        (shown,) = set(row.codes[:answer, 1].tolist()) - {-1}
        assert shown not in said


def test_a_voice_that_says_nothing_else_is_described(source):
    maker = RowMaker(config(shown=1.0, described=0.0), TALKER, TOKENIZER)
    everything = source.of_voice("anna")
    voice = maker._voice(source, everything, np.random.default_rng(0))
    assert voice.reference is None and len(voice.description)


def test_so_many_items_are_said_in_nobody_s_voice(source):
    some = RowMaker(config(anonymous=0.4), TALKER, TOKENIZER)
    voices = [some._voice(source, [0], np.random.default_rng(seed)) for seed in range(400)]
    nobody = [voice.reference is None and not len(voice.description) for voice in voices]
    assert 0.3 < np.mean(nobody) < 0.5
    row = RowMaker(config(anonymous=1.0), TALKER, TOKENIZER).make(
        source, 0, np.random.default_rng(0)
    )
    opening = prompt_row(TALKER, chat_marks(TOKENIZER), voice=Voice()).tokens
    assert row.tokens[:5].tolist() == opening[:5].tolist()
    with pytest.raises(UserError, match="anonymous is 1.5"):
        config(anonymous=1.5)


@pytest.mark.parametrize("name", ["random", "chunked", "chunked:4:8", "earliest", "earliest:4"])
def test_every_drawn_schedule_is_legal(name):
    maker = RowMaker(config(schedules=(f"{name}=1",)), TALKER, TOKENIZER)
    rng = np.random.default_rng(0)
    for text, frames in ((1, 5), (12, 30), (20, 7), (3, 1)):
        schedule = maker.schedule(text, frames, rng)
        assert aria.is_legal(schedule) and schedule.sum() == frames


def test_a_row_predicts_the_items_frames_and_its_end(source):
    maker = RowMaker(config(joined=(0.0, 1.0)), TALKER, TOKENIZER)
    row = maker.make(source, 3, np.random.default_rng(0))
    frames = row.targets[row.kinds == aria.FRAME]
    own = source[3].codes
    np.testing.assert_array_equal(frames[: len(own)], own)
    second = source[int(frames[-1, 1])]
    assert (second.voice, second.language) == (source[3].voice, source[3].language)
    np.testing.assert_array_equal(frames[len(own) :], second.codes)
    (end,) = row.targets[row.kinds == aria.END][:, 0]
    assert end == TALKER.codec_eos_id


def test_a_pipeline_set_to_a_saved_state_goes_on_as_if_never_stopped(source):
    stream = pipeline(source)
    first = next(stream)
    assert first.counts()[1] == int((first.kinds > 0).sum()) > 0
    assert first.inputs.segment_ids.max() > 1  # packed
    state = stream.get_state()
    expected = [next(stream) for _ in range(2)]
    again = pipeline(source, threads=0)
    again.set_state(state)
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, next(again), batch)
    with pytest.raises(UserError, match="belongs to other data"):
        pipeline(source, described=0.1).set_state(state)


def test_a_fingerprint_is_the_codebooks_at_the_precision_in_which_they_are_kept():
    books = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    kept = np.asarray(jax.numpy.asarray(books, "bfloat16"), np.float32)
    assert fingerprint(books) == fingerprint(kept) != fingerprint(books + 1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive"])
def test_a_file_of_codes_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(UserError, match="cannot read codes from .*train.npz"):
        CodesSource(tmp_path)
    with pytest.raises(UserError, match="cannot read codes from .*train.npz"):
        codec_of(tmp_path)


def test_what_does_not_fit_is_named(source, tmp_path):
    with pytest.raises(UserError, match="no codes at .*train.npz: experiments/talker.py codes"):
        CodesSource(tmp_path)
    with pytest.raises(UserError, match=r"'the red circle \d+' does not fit: it has \d+ positions"):
        next(pipeline(source, max_tokens=12))
    small = dataclasses.replace(TALKER, codebook_size=200)
    with pytest.raises(UserError, match=r"has code \d+, config.talker.codebook_size is 200"):
        make_talker_pipeline(config(), talker=small, tokenizer=TOKENIZER, sources={SOURCE: source})
    with pytest.raises(UserError, match="schedules: 'late=1' is not NAME=SHARE"):
        config(schedules=("late=1",))
    with pytest.raises(UserError, match="has no frames"):
        write_codes(tmp_path, "train", [Utterance("x", "en", "a", "b", np.zeros((0, 16)))], "abc")


def test_stored_speech_is_kept_only_where_it_is_what_would_be_made(tmp_path):
    source, size, by = live("train", tasks=["say"]), 1920, ("codec", None, "voices")
    metas = [source[i]["meta"] for i in range(3)]

    def kept(change=lambda meta: meta, of=0, longer=0, count=3, codec="codec", voices="voices"):
        frames = [-(-len(meta["speech"].samples) // size) for meta in metas]
        said = [said_of(meta) for meta in metas]
        frames[of], said[of] = frames[of] + longer, said_of(change(metas[of]))
        stored = [
            Utterance(*row, np.zeros((n, 2), int)) for row, n in zip(said, frames, strict=True)
        ]
        write_codes(tmp_path, "train", stored, codec, speech=voices)
        return made_before(tmp_path, "train", source.__getitem__, count, by, size)

    assert not made_before(tmp_path, "train", source.__getitem__, 3, by, size)
    assert kept()
    assert not kept(codec="another")
    assert not kept(voices="voices of another pitch")
    assert not kept(count=4)
    for of in range(3):
        assert not kept(lambda meta: meta | {"answer": "words that were said once"}, of)
        assert not kept(lambda meta: meta | {"voice_description": "as it was called once"}, of)
        assert not kept(of=of, longer=1)


def test_stored_answers_are_kept_where_they_have_the_stream_of_the_same_layer(tmp_path):
    source, size, marks = live("train", tasks=["say"]), 1920, ("codec", THINKER, "voices")
    metas = [source[i]["meta"] for i in range(2)]
    frames = [np.zeros((-(-len(meta["speech"].samples) // size), 2), int) for meta in metas]
    said = [
        Utterance(*said_of(meta), codes, turn(i))
        for i, (meta, codes) in enumerate(zip(metas, frames, strict=True), 1)
    ]
    write_codes(tmp_path, "train", said, marks[0], THINKER, marks[2])

    def kept(thinker):
        by = (marks[0], thinker, marks[2])
        return made_before(tmp_path, "train", source.__getitem__, 2, by, size)

    assert kept(THINKER)
    assert not kept(None)
    assert not kept(THINKER._replace(layer=THINKER.layer + 1))
