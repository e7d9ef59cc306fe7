"""Sources: a folder of media and jsonl, a TFDS name, tasks of a source."""

import base64
import importlib.util
import json
import types

import numpy as np
import pytest
import soundfile
from PIL import Image

from omnijax.data import (
    FolderSource,
    PipelineConfig,
    TfdsSource,
    examples,
    make_pipeline,
    omniworld,
    open_source,
)
from omnijax.data.examples import make_shown, make_spoken
from omnijax.data.sources import TaskSource, import_tfds, speech_to_chat
from omnijax.errors import UserError
from omnijax.media import Audio, ProcessorConfig, Video, load_video, video_arrays, write_video
from omnijax.text.tokenizer import train_tokenizer

PROCESSOR = ProcessorConfig(audio_chunk_frames=32, min_pixels=1024, max_pixels=4096, mel_bins=16)
TOKENIZER = train_tokenizer(["user assistant a red square"], 300)


def chat(*items):
    return {
        "messages": [
            {"role": "user", "content": [*items, {"type": "text", "text": "What is it?"}]},
            {"role": "assistant", "content": "A red square."},
        ]
    }


@pytest.fixture
def folder(tmp_path):
    """Two jsonl files: a picture and a sound; then plain text, with task and meta."""
    rng = np.random.default_rng(0)
    (tmp_path / "media").mkdir()
    Image.fromarray(rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)).save(
        tmp_path / "media/x.png"
    )
    soundfile.write(tmp_path / "media/q.wav", rng.standard_normal(8_000) / 9, 16_000)
    picture = chat({"type": "image", "image": "media/x.png"})
    sound = chat({"type": "audio", "audio": "media/q.wav"})
    (tmp_path / "1.jsonl").write_text(f"{json.dumps(picture)}\n\n{json.dumps(sound)}\n")
    line = {"chat": chat(), "task": "text_question", "meta": {"answer": "Ä"}}
    (tmp_path / "2.jsonl").write_text(json.dumps(line, ensure_ascii=False), "utf-8")
    return tmp_path


def train(source, **fields):
    config = PipelineConfig(
        mixture={"mine": 1}, batch_size=1, packing_rows=1, epochs=1, shuffle=False, **fields
    )
    return make_pipeline(config, tokenizer=TOKENIZER, processor=PROCESSOR, sources={"mine": source})


def test_a_folder_gives_its_lines_in_order_with_their_task_and_meta(folder):
    source = open_source(f"folder:{folder}")
    assert [example["task"] for example in source] == ["chat", "chat", "text_question"]
    assert source[2]["meta"] == {"answer": "Ä"}
    assert source[1]["where"].endswith("1.jsonl, line 3")
    assert source[1]["chat"]["messages"][0]["content"][0]["audio"] == str(folder / "media/q.wav")


def test_a_folder_trains(folder):
    (batch,) = train(FolderSource(folder))
    assert batch.inputs.segment_ids.max() == 3
    assert (batch.inputs.audio.lengths > 0).sum() == 2  # 50 frames in chunks of 32
    assert (batch.inputs.vision.frames > 0).sum() == 16  # 48 x 64 rounds to 64 x 64


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (chat({"type": "audio", "audio": "no.wav"}), r"line 2: file .*no.wav does not exist"),
        (chat({"type": "audio", "audio": 3}), "line 2: a medium is given by its path, not int"),
        (chat({"type": "audio"}), "line 2: an item of message 0 lacks 'audio'"),
        (
            chat({"type": "image_url", "image_url": {}}),
            "line 2: an item of message 0 lacks 'image'",
        ),
        (chat({"text": "x"}), "line 2: message 0: a content item has type None"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "line 2: message 0: content is .* not int",
        ),
        ({"chat": chat(), "meta": "x"}, 'line 2: "meta" is an object, not str'),
        ({"chat": chat(), "task": 3}, 'line 2: "task" is a string, not int'),
        ({"messages": []}, "line 2: the chat has no messages"),
        ({"turns": []}, 'line 2: a chat is an object with a list "messages"'),
        ({"messages": [{"role": "robot"}]}, "line 2: role of message 0 is 'robot'"),
        ([1], "line 2: a line must be a JSON object, not list"),
        ("{broken", "line 2: not JSON"),
    ],
)
def test_a_bad_line_is_named_with_its_number(folder, line, message):
    text = line if isinstance(line, str) else json.dumps(line)
    (folder / "1.jsonl").write_text(f"{json.dumps(chat())}\n{text}\n")
    with pytest.raises(UserError, match=message):
        FolderSource(folder)


def test_openais_items_of_a_line_are_read_as_our_own(folder):
    """Paths are found in the folder, in tool results too; addresses are left for the reader."""
    data = base64.b64encode((folder / "media/q.wav").read_bytes()).decode()
    result = [{"type": "image_url", "image_url": {"url": "media/x.png"}}]
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "media/x.png"}},
                {"type": "audio_url", "audio_url": {"url": (folder / "media/q.wav").as_uri()}},
                {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
                "What is it?",
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]},
        {"role": "tool", "content": [{"type": "tool_result", "content": result}]},
        {"role": "assistant", "content": "A square."},
    ]
    for file in folder.glob("*.jsonl"):
        file.unlink()
    line = {"chat": {"messages": messages}, "meta": {"description": "red", "transcript": "red"}}
    (folder / "1.jsonl").write_text(json.dumps(line))
    source = FolderSource(folder)
    picture, there, inline, text = source[0]["chat"]["messages"][0]["content"]
    assert picture == {"type": "image", "image": str(folder / "media/x.png")}
    assert there == {"type": "audio", "audio": (folder / "media/q.wav").as_uri()}
    assert inline["type"] == "audio" and inline["audio"].startswith("data:")
    assert text == {"type": "text", "text": "What is it?"}
    (batch,) = train(source)
    assert (batch.inputs.audio.lengths > 0).sum() == 4
    assert (batch.inputs.vision.frames > 0).sum() == 2 * 16
    shown = make_shown(TOKENIZER, PROCESSOR)(source[0], None)
    spoken = make_spoken(TOKENIZER, PROCESSOR)(source[0], None)
    assert len(shown.patches) == 16 and len(spoken.lengths) == 2
    messages[0]["content"][0]["image_url"]["url"] = "media/gone.png"
    (folder / "1.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=r"line 1: file .*gone.png does not exist"):
        FolderSource(folder)
    messages[0]["content"][0]["image_url"]["url"] = "https://a.b/c.png"
    (folder / "1.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=r"line 1: .*nothing is fetched from the network"):
        next(train(FolderSource(folder)))


def test_a_described_video_is_read_with_no_more_frames_than_it_is_shown(folder, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 256, (48, 32, 32, 3), dtype=np.uint8)
    write_video(folder / "media/a.mp4", Video(pixels, np.arange(48) / 24))
    read = []
    monkeypatch.setattr(
        examples,
        "video_arrays",
        lambda video, *rest: read.append(video) or video_arrays(video, *rest),
    )
    for fps, count in ((None, 4), (3, 6)):
        item = {"type": "video", "video": str(folder / "media/a.mp4")}
        item |= {} if fps is None else {"fps": fps}
        shown = make_shown(TOKENIZER, PROCESSOR)(
            {"chat": chat(item), "meta": {"description": "noise"}}, None
        )
        assert len(read.pop().frames) == count
        whole = video_arrays(load_video(folder / "media/a.mp4"), PROCESSOR, fps)
        np.testing.assert_array_equal(shown.patches, whole.patches)


def test_a_split_of_a_folder_is_its_own_lines_and_never_the_training_ones(folder):
    with pytest.raises(UserError, match=r"no split 'validation'.*validation, or --config.run.eval"):
        open_source(f"folder:{folder}", split="validation")
    (folder / "validation").mkdir()
    with pytest.raises(UserError, match="no split 'validation': put .jsonl files into"):
        open_source(f"folder:{folder}", split="validation")
    line = json.dumps(chat({"type": "image", "image": "media/x.png"}))
    (folder / "validation/1.jsonl").write_text(line)
    held_out = open_source(f"folder:{folder}", split="validation")
    assert len(held_out) == 1 and "validation/1.jsonl, line 1" in held_out[0]["where"]
    assert len(open_source(f"folder:{folder}")) == 3
    (folder / "train").mkdir()
    (folder / "train/1.jsonl").write_text(f"{line}\n{line}")
    with pytest.raises(UserError, match="the split 'train' in two places"):
        FolderSource(folder)
    for file in folder.glob("*.jsonl"):
        file.unlink()
    assert len(FolderSource(folder)) == 2


def test_an_unreadable_file_is_named_with_its_line(folder):
    (folder / "media/q.wav").write_bytes(b"not a sound")
    with pytest.raises(UserError, match=r"1.jsonl, line 3: .*q.wav"):
        next(train(FolderSource(folder)))


def test_an_empty_folder_and_a_missing_one_are_named(tmp_path):
    with pytest.raises(UserError, match="has no .jsonl file"):
        FolderSource(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        FolderSource(tmp_path / "gone")
    (tmp_path / "x.jsonl").write_text("\n")
    with pytest.raises(UserError, match="has no examples"):
        FolderSource(tmp_path)


def test_a_task_source_has_the_examples_of_its_tasks_only(folder):
    source = FolderSource(folder)
    assert len(TaskSource(source, ["chat"])) == 2
    assert TaskSource(source, ["text_question"])[0]["meta"] == {"answer": "Ä"}
    with pytest.raises(UserError, match=r"no examples of task \['dance'\], there are"):
        TaskSource(source, ["dance"])


def test_sounds_are_written_down_from_what_is_heard_in_a_clip_and_in_a_videos_track():
    silent = Video(np.zeros((4, 32, 32, 3), np.uint8), np.arange(4) / 8)
    track = Audio(np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32), 16_000)
    meta = {"heard": "a red square"}
    make = make_spoken(TOKENIZER, PROCESSOR)
    alone = make({"chat": chat({"type": "audio", "audio": track}), "meta": meta}, None)
    seen = make(
        {"chat": chat({"type": "video", "video": silent._replace(audio=track)}), "meta": meta}, None
    )
    assert TOKENIZER.decode(alone.tokens.tolist()) == "a red square"
    for a, b in zip(alone, seen, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="no transcribed clip"):
        make({"chat": chat({"type": "video", "video": silent}), "meta": meta}, None)


def test_live_examples_are_the_corpus_and_go_on_where_it_ends(tmp_path):
    """Made as they are read: nothing is written."""
    source = open_source("omniworld_live/describe", data_dir=str(tmp_path / "none"))
    assert len(source) * 8 > 3 * omniworld.SIZES["train"]
    places = [i for i in range(400) if omniworld.task_of(i, "train") == "describe"]
    for n in (0, len(places) - 1):
        made, known = source[n], omniworld.example(places[n])
        assert made["id"] == known["id"] and made["meta"] == known["meta"]
    assert int(source[len(source) - 1]["id"].split("-")[1]) > omniworld.SIZES["train"]
    held = open_source("omniworld_live", split="validation")
    assert len(held) == omniworld.SIZES["validation"]
    words = open_source("omniworld_live/words")
    assert words[3]["task"] == "words" and words[3]["id"].startswith("words-")
    assert open_source("omniworld_live/words", split="validation")[3]["meta"] != words[3]["meta"]
    with pytest.raises(UserError, match="words is a source of its own, for training, not test"):
        open_source("omniworld_live/words", split="test")
    assert not (tmp_path / "none").exists()


def test_a_speech_record_becomes_a_transcription():
    record = {"speech": np.array([0, 16384, -32768]), "text": b"hello", "id": 3}
    example = speech_to_chat(record, 16_000, "Write it down.")
    user, assistant = example["chat"]["messages"]
    np.testing.assert_array_equal(user["content"][0]["audio"].samples, [0, 0.5, -1])
    assert user["content"][1]["text"] == "Write it down."
    assert assistant["content"] == example["meta"]["transcript"] == "hello"
    with pytest.raises(UserError, match="needs one of"):
        speech_to_chat({"image": 0}, 16_000, "")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS dataset of speech, prepared without TensorFlow."""
    tfds = import_tfds()
    from tensorflow_datasets.core.features import feature

    class TinySpeech(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(
                    {
                        "audio": tfds.features.Audio(sample_rate=8_000),
                        "transcription": tfds.features.Text(),
                    }
                )
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(5), "test": self._generate_examples(2)}

        def _generate_examples(self, count):
            for n in range(count):
                samples = (np.sin(np.arange(4_000 + n) / 9) * 9_000).astype(np.int64)
                yield n, {"audio": samples, "transcription": f"clip {n}"}

    data_dir = tmp_path_factory.mktemp("tfds")
    builder = TinySpeech(data_dir=data_dir, file_format="array_record")
    with pytest.MonkeyPatch.context() as patch:  # writing names a dtype through TensorFlow as well
        if importlib.util.find_spec("tensorflow") is None:
            dtypes = types.SimpleNamespace(as_dtype=np.dtype)
            patch.setattr(feature, "tf", types.SimpleNamespace(dtypes=dtypes))
        builder.download_and_prepare()
    return str(data_dir)


def test_a_tfds_name_drops_in(prepared):
    source = open_source("tfds:tiny_speech", data_dir=prepared)
    assert len(source) == 5
    said = {source[n]["meta"]["transcript"] for n in range(5)}
    assert said == {f"clip {n}" for n in range(5)}
    clip = source[0]["chat"]["messages"][0]["content"][0]["audio"]
    assert clip.sample_rate == 8_000 and clip.samples.dtype == np.float32
    assert 0.2 < np.abs(clip.samples).max() < 0.3
    assert len(open_source("tfds:tiny_speech:test", data_dir=prepared)) == 2
    (batch,) = train(source)
    assert batch.inputs.segment_ids.max() == 5


def test_a_tfds_split_that_is_named_is_not_read_in_place_of_another(prepared):
    def count(spec, split):
        return len(open_source(spec, split=split, data_dir=prepared))

    with pytest.raises(UserError, match=r":train names the split .* trained on.*eval_split= turns"):
        count("tfds:tiny_speech:train", "test")
    with pytest.raises(UserError, match=r"train\[:2\] names the split"):
        count("tfds:tiny_speech:train[:2]", "test")
    # What is trained on is not what is evaluated on, even where it has its name.
    with pytest.raises(UserError, match=r":test names the split"):
        count("tfds:tiny_speech:test", "test")
    assert count("tfds:tiny_speech", "test") == 2
    assert count("tfds:tiny_speech:train[:2]", "train") == 2


def test_a_tfds_dataset_takes_a_mapping_of_its_features(prepared):
    def to_chat(record):
        return {"chat": {"messages": [{"role": "user", "content": str(record["transcription"])}]}}

    source = TfdsSource("tiny_speech", "test", data_dir=prepared, to_chat=to_chat)
    assert source[0]["task"] == "chat" and "clip" in source[0]["chat"]["messages"][0]["content"]


def test_unknown_tfds_names_and_splits_are_named(prepared, tmp_path):
    with pytest.raises(UserError, match="TFDS knows no dataset 'no_such_set'"):
        open_source("tfds:no_such_set", data_dir=prepared)
    with pytest.raises(UserError, match=r"tiny_speech has no split 'dev'"):
        open_source("tfds:tiny_speech:dev", data_dir=prepared)
    with pytest.raises(UserError, match="is not prepared"):
        open_source("tfds:tiny_speech", data_dir=str(tmp_path))
