"""Tokeniser, prompt and positions against transformers' classes, live."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5Model  # noqa: E402
from transformers.models.qwen3_5.tokenization_qwen3_5 import Qwen3_5Tokenizer  # noqa: E402
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as omni  # noqa: E402
from transformers.models.qwen3_omni_moe import processing_qwen3_omni_moe as omni_text  # noqa: E402
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor  # noqa: E402

from omnijax.media import Audio, ProcessorConfig, Video, nano_processor  # noqa: E402
from omnijax.text import PositionState, nano_tokenizer, qwen3_omni_style, render  # noqa: E402
from omnijax.text.positions import qwen3_omni_video  # noqa: E402

pytestmark = pytest.mark.parity
TOKENIZER = nano_tokenizer()
# The released Qwen3-Omni layout: 100-frame chunks, three convolutions, 13 tokens a second.
OMNI = ProcessorConfig(
    audio_chunk_frames=100,
    audio_downsample=8,
    min_pixels=32 * 32,
    max_pixels=128 * 128,
    video_fps=2.0,
    max_video_frames=16,
)


def released_tokenizer():
    data = json.loads(TOKENIZER._backend.to_str())
    theirs = Qwen3_5Tokenizer(
        vocab=data["model"]["vocab"], merges=[tuple(pair) for pair in data["model"]["merges"]]
    )
    theirs.add_tokens([t["content"] for t in data["added_tokens"] if not t["special"]])
    theirs.add_tokens([t["content"] for t in data["added_tokens"]], special_tokens=True)
    return theirs


THEIRS = released_tokenizer()


@given(
    st.one_of(
        st.text("the red circle <|im_start|>\n\t 0123.,'sS ́áñß数字", max_size=60),
        st.text(st.characters(exclude_categories=("Cs",)), max_size=40),
    )
)
@settings(max_examples=300, deadline=None)
def test_ids_equal_those_of_the_released_class_on_the_same_merges(text):
    import unicodedata

    text = unicodedata.normalize("NFC", text)  # Theirs normalises; ours keeps what it is given.
    ours = TOKENIZER.encode(text, literal=True)
    theirs = THEIRS.backend_tokenizer
    theirs.encode_special_tokens = True
    names = {i: THEIRS.convert_ids_to_tokens(i) for i in range(len(THEIRS))}
    assert [TOKENIZER._backend.id_to_token(i) for i in ours] == [
        names[i] for i in theirs.encode(text, add_special_tokens=False).ids
    ]


def picture(height, width):
    return {"type": "image", "image": np.zeros((height, width, 3), np.uint8)}


def film(frames, fps, audio=None, size=(64, 96)):
    video = Video(np.zeros((frames, *size, 3), np.uint8), np.arange(frames) / fps, audio)
    return {"type": "video", "video": video}


def noise(seconds):
    samples = np.random.default_rng(0).normal(size=int(seconds * 16_000)).astype(np.float32) / 10
    return Audio(samples, 16_000)


def grids(rendered, video):
    """(t, h, w) of each picture and of each video, in order; `video` gives patches a video."""
    pictures, films, done = [], [], 0
    pads = (TOKENIZER.special("image_pad"), TOKENIZER.special("video_pad"))
    kinds = [t for t in rendered.tokens.tolist() if t in pads]
    video = iter(video)
    while done < len(kinds):
        h, w = rendered.patch_grids[4 * done]
        steps = 1 if kinds[done] == pads[0] else next(video)
        (pictures if kinds[done] == pads[0] else films).append((steps, int(h), int(w)))
        done += steps * h * w // 4
    return [torch.tensor(g).reshape(-1, 3) if g else None for g in (pictures, films)]


@pytest.mark.parametrize(
    "items, video",
    [
        ([{"type": "text", "text": "only words"}], []),
        ([picture(64, 96), {"type": "text", "text": " and "}, picture(32, 96)], []),
        ([picture(64, 64), picture(64, 64)], []),
        ([film(8, 4.0)], [4]),
        ([picture(96, 64), film(5, 4.0), {"type": "text", "text": "x"}, film(2, 4.0)], [3, 1]),
    ],
)
def test_positions_with_stamps_equal_qwen3_5s(items, video):
    rendered = render(
        {"messages": [{"role": "user", "content": items}]}, TOKENIZER, nano_processor()
    )
    image_grid, video_grid = grids(rendered, video)
    tokens = torch.tensor(rendered.tokens)[None].long()
    kinds = torch.zeros_like(tokens)
    kinds[tokens == TOKENIZER.special("image_pad")] = 1
    kinds[tokens == TOKENIZER.special("video_pad")] = 2
    model = SimpleNamespace(
        config=SimpleNamespace(vision_config=SimpleNamespace(spatial_merge_size=2))
    )
    model.get_vision_position_ids = Qwen3_5Model.get_vision_position_ids.__get__(model)
    theirs, _ = Qwen3_5Model.get_rope_index(model, tokens, kinds, image_grid, video_grid)
    np.testing.assert_array_equal(rendered.positions, theirs[:, 0].T.numpy())


@pytest.mark.parametrize("frames, fps", [(8, 4.0), (6, 2.0), (5, 4.0), (9, 3.0)])
def test_the_prompt_of_a_video_equals_the_released_processors(frames, fps):
    config = ProcessorConfig(min_pixels=32 * 32, max_pixels=96 * 96, video_fps=fps)
    chat = {"messages": [{"role": "user", "content": [film(frames, fps)]}]}
    text = TOKENIZER.decode(render(chat, TOKENIZER, config).tokens)
    processor = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2),
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
        video_token="<|video_pad|>",
    )
    processor._calculate_timestamps = Qwen3VLProcessor._calculate_timestamps.__get__(processor)
    theirs = Qwen3VLProcessor.replace_video_token(
        processor,
        {
            "video_grid_thw": np.array([[-(-frames // 2), 4, 6]]),
            "video_metadata": [SimpleNamespace(fps=fps, frames_indices=list(range(frames)))],
        },
        0,
    )
    assert text == f"<|im_start|>user\n{theirs}<|im_end|>\n"


def omni_model(ids_per_second=13):
    special = TOKENIZER.special
    model = SimpleNamespace(
        spatial_merge_size=2,
        config=SimpleNamespace(
            image_token_id=special("image_pad"),
            video_token_id=special("video_pad"),
            audio_token_id=special("audio_pad"),
            vision_start_token_id=special("vision_start"),
            audio_start_token_id=special("audio_start"),
            position_id_per_seconds=ids_per_second,
            audio_config=SimpleNamespace(n_window=50),
        ),
    )
    base = omni.Qwen3OmniMoePreTrainedModelForConditionalGeneration
    model.get_llm_pos_ids_for_vision = base.get_llm_pos_ids_for_vision.__get__(model)
    model.get_rope_index = base.get_rope_index.__get__(model)
    return model


@pytest.mark.parametrize(
    "items, video, seconds, sound_of_video",
    [
        ([picture(64, 96), {"type": "audio", "audio": noise(2.3)}], [], [], False),
        ([{"type": "audio", "audio": noise(1.0)}, picture(32, 32), picture(64, 64)], [], [], False),
        ([film(8, 2.0), {"type": "text", "text": "and"}, picture(64, 64)], [4], [1.0], False),
        ([film(8, 2.0, noise(4.0)), {"type": "text", "text": "?"}], [4], [1.0], True),
        ([film(6, 2.0, noise(5.1))], [3], [1.0], True),
        ([film(8, 2.0, noise(1.2)), picture(64, 64)], [4], [1.0], True),
    ],
)
def test_merged_positions_equal_qwen3_omnis(items, video, seconds, sound_of_video):
    messages = [{"role": "user", "content": items}, {"role": "assistant", "content": "a bell"}]
    rendered = render({"messages": messages}, TOKENIZER, OMNI, style=qwen3_omni_style())
    image_grid, video_grid = grids(rendered, video)
    clips = [i["audio"] if i["type"] == "audio" else i["video"].audio for i in items
             if i["type"] == "audio" or (i["type"] == "video" and i["video"].audio)]  # fmt: skip
    lengths = [len(clip.samples) // 160 for clip in clips]
    tokens = torch.tensor(rendered.tokens)[None].long()
    theirs, _ = omni_model().get_rope_index(
        tokens,
        image_grid,
        video_grid,
        torch.ones_like(tokens),
        sound_of_video,
        torch.tensor(lengths) if lengths else None,
        torch.tensor(seconds) if seconds else None,
    )
    np.testing.assert_array_equal(rendered.positions, theirs[:, 0].T.numpy())


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([0.5, 0.8, 1.0, 2.0, 2 / 3]),
    st.integers(1, 60),
    st.integers(0, 9),
)
@settings(max_examples=150, deadline=None)
def test_the_order_of_merged_sound_and_pictures_equals_qwen3_omnis(t, h, w, seconds, audio, start):
    """Fractions of ids included: they are float32 on both sides."""
    special = TOKENIZER.special
    _, ids, is_audio = qwen3_omni_video(
        PositionState(start + 2, start + 2), t, h, w, seconds, 13.0, audio
    )
    merged = np.where(is_audio, special("audio_pad"), special("video_pad")).tolist()
    text = [5] * start
    block = [special("vision_start"), special("audio_start")]
    end = [special("audio_end"), special("vision_end")]
    tokens = torch.tensor([text + block + merged + end])
    frames = next(n for n in range(audio * 10) if omni._get_feat_extract_output_lengths(n) == audio)
    theirs, _ = omni_model().get_rope_index(
        tokens,
        None,
        torch.tensor([[t, 2 * h, 2 * w]]),
        torch.ones_like(tokens),
        True,
        torch.tensor([frames]),
        torch.tensor([seconds]),
    )
    np.testing.assert_array_equal(ids, theirs[:, 0, start + 2 : -2].T.numpy())
    processor = SimpleNamespace(
        audio_bos_token="",
        audio_eos_token="",
        video_token="v",
        audio_token="a",
        video_processor=SimpleNamespace(merge_size=2),
    )
    order = omni_text.Qwen3OmniMoeProcessor.replace_video_with_audio_token(
        processor,
        {"video_grid_thw": np.array([[t, 2 * h, 2 * w]]), "video_second_per_grid": [seconds]},
        0,
        {"num_audio_tokens": [audio]},
        0,
        position_id_per_seconds=13.0,
    )
    if seconds in (0.5, 1.0, 2.0):  # The processor counts in float64, the model in float32.
        assert order == "".join("va"[int(a)] for a in is_audio)
