"""Sources: a folder of media and jsonl, a TFDS name, tasks of a source."""

import importlib.util
import json
import types

import numpy as np
import pytest
import soundfile
from PIL import Image

from omnijax.data import FolderSource, PipelineConfig, TfdsSource, make_pipeline, open_source
from omnijax.data.sources import TaskSource, import_tfds, speech_to_chat
from omnijax.errors import UserError
from omnijax.media import ProcessorConfig
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
        (chat({"text": "x"}), 'line 2: an item of message 0 lacks "type"'),
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
