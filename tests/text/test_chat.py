import base64
import io

import numpy as np
import PIL.Image
import pytest

from omnijax.errors import UserError
from omnijax.media import Audio, Video, nano_processor, save_audio
from omnijax.text import ChatStyle, nano_tokenizer, qwen3_5_style, qwen3_omni_style, render

TOKENIZER, PROCESSOR = nano_tokenizer(), nano_processor()
PICTURE = np.full((64, 96, 3), 7, np.uint8)
TOOL = {"type": "function", "function": {"name": "set_lamp", "description": "Lights a lamp"}}
TOOL_LINE = '{"type": "function", "function": {"name": "set_lamp", "description": "Lights a lamp"}}'


def sound(seconds=1.6):
    return Audio(np.sin(np.arange(int(16_000 * seconds)) / 9).astype(np.float32), 16_000)


def clip(frames=4, audio=None):
    return Video(np.zeros((frames, 32, 64, 3), np.uint8), np.arange(frames) / 4, audio)


def written(messages, loss="", **options):
    """The rendered text, each run of placeholders as its length."""
    chat = {"messages": messages, "tools": options.pop("tools", None)}
    rendered = render(chat, TOKENIZER, PROCESSOR, **options)
    assert TOKENIZER.decode(rendered.tokens[rendered.loss_mask]) == loss
    text = TOKENIZER.decode(rendered.tokens)
    for name in ("image_pad", "video_pad", "audio_pad"):
        for count in range(40, 0, -1):
            text = text.replace(f"<|{name}|>" * count, f"[{name} {count}]")
    return text


def user(*items):
    return {"role": "user", "content": list(items)}


def test_a_conversation_of_text_reads_as_the_template_says():
    assert written(
        [
            {"role": "system", "content": "Be kind. \n"},
            {"role": "user", "content": "  what is it?"},
            {"role": "assistant", "content": "a bell"},
            {"role": "user", "content": "sure?"},
        ],
        loss="a bell<|im_end|>",
        add_generation_prompt=True,
    ) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nwhat is it?<|im_end|>\n"
        "<|im_start|>assistant\na bell<|im_end|>\n"
        "<|im_start|>user\nsure?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_calls_and_results_read_as_qwen3_5_writes_them():
    call = {"function": {"name": "set_lamp", "arguments": '{"colour": "red", "level": 2}'}}
    wanted = (
        "<tool_call>\n<function=set_lamp>\n<parameter=colour>\nred\n</parameter>\n"
        "<parameter=level>\n2\n</parameter>\n</function>\n</tool_call>"
    )
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "light two"},
        {"role": "assistant", "content": "I do.", "tool_calls": [call, call]},
        {"role": "tool", "content": "ok"},
        {"role": "tool", "content": "done"},
        {"role": "assistant", "content": "They are red."},
    ]
    loss = f"I do.\n\n{wanted}\n{wanted}<|im_end|>They are red.<|im_end|>"
    assert written(messages, loss, tools=[TOOL, {"name": "b"}]) == (
        "<|im_start|>system\n# Tools\n\nYou have access to the following functions:\n\n"
        f'<tools>\n{TOOL_LINE}\n{{"name": "b"}}\n</tools>\n\nBe kind.<|im_end|>\n'
        "<|im_start|>user\nlight two<|im_end|>\n"
        f"<|im_start|>assistant\nI do.\n\n{wanted}\n{wanted}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\nok\n</tool_response>\n"
        "<tool_response>\ndone\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nThey are red.<|im_end|>\n"
    )


def test_calls_and_results_may_stand_among_the_content_items():
    as_items = [
        {"role": "user", "content": "light"},
        {
            "role": "assistant",
            "content": [{"type": "tool_call", "name": "a", "arguments": {"b": "c"}}],
        },
        {"role": "tool", "content": [{"type": "tool_result", "content": "ok"}]},
    ]
    as_fields = [
        as_items[0],
        {"role": "assistant", "tool_calls": [{"name": "a", "arguments": {"b": "c"}}]},
        {"role": "tool", "content": "ok"},
    ]
    loss = (
        "<tool_call>\n<function=a>\n<parameter=b>\nc\n</parameter>\n</function>\n</tool_call>"
        "<|im_end|>"
    )
    assert written(as_items, loss) == written(as_fields, loss)


def test_pictures_and_sounds_become_runs_of_placeholders():
    assert written(
        [
            user(
                {"type": "text", "text": "look: "},
                {"type": "image", "image": PICTURE},
                {"type": "audio", "audio": sound(1.6)},
                {"type": "text", "text": " and? "},
            )
        ]
    ) == (
        "<|im_start|>user\nlook: <|vision_start|>[image_pad 6]<|vision_end|>"
        "<|audio_start|>[audio_pad 10]<|audio_end|> and?<|im_end|>\n"
    )


def test_each_patch_of_a_silent_video_has_its_time_before_it():
    assert written([user({"type": "video", "video": clip(4)})]) == (
        "<|im_start|>user\n"
        "<0.1 seconds><|vision_start|>[video_pad 2]<|vision_end|>"
        "<0.6 seconds><|vision_start|>[video_pad 2]<|vision_end|><|im_end|>\n"
    )


def test_the_sound_of_each_patch_follows_its_picture_and_the_rest_comes_last():
    video = {"type": "video", "video": clip(4, sound(1.6))}
    assert written([user(video)]) == (
        "<|im_start|>user\n"
        "<0.1 seconds><|vision_start|>[video_pad 2][audio_pad 3]<|vision_end|>"
        "<0.6 seconds><|vision_start|>[video_pad 2][audio_pad 3]<|vision_end|>"
        "<|audio_start|>[audio_pad 4]<|audio_end|><|im_end|>\n"
    )
    assert "audio" not in written([user(video)], style=ChatStyle(sound_of_video=False))


def test_sound_beside_a_picture_shares_its_time_ids():
    rendered = render(
        {"messages": [user({"type": "video", "video": clip(2, sound(1.6))})]}, TOKENIZER, PROCESSOR
    )
    tokens = rendered.tokens.tolist()
    first = tokens.index(TOKENIZER.special("video_pad"))
    t = rendered.positions[first, 0]
    np.testing.assert_array_equal(
        rendered.positions[first : first + 6],
        [
            [t, t, t],
            [t, t, t + 1],
            [t, t, t],
            [t + 1, t + 1, t + 1],
            [t + 2, t + 2, t + 2],
            [t + 3, t + 3, t + 3],  # vision_end: the overall maximum plus one
        ],
    )


def test_windows_and_blocks_are_numbered_over_the_whole_example():
    items = [
        {"type": "audio", "audio": sound(3.2)},
        {"type": "image", "image": PICTURE},
        {"type": "video", "video": clip(4, sound(1.0))},
        {"type": "image", "image": PICTURE},
    ]
    rendered = render({"messages": [user(*items)]}, TOKENIZER, PROCESSOR, window_chunks=1)
    assert rendered.audio_windows.tolist() == [1, 2, 3, 4, 5, 6]  # four chunks of 0.8 s, then two
    assert list(dict.fromkeys(rendered.patch_frames.tolist())) == [1, 2, 3, 4]
    count = {n: (rendered.tokens == TOKENIZER.special(n)).sum() for n in ("image_pad", "video_pad")}
    assert sum(count.values()) == len(rendered.patches) // 4
    assert (rendered.tokens == TOKENIZER.special("audio_pad")).sum() == 20 + 7


def test_a_conversation_without_media_has_empty_arrays_of_the_right_widths():
    rendered = render({"messages": [{"role": "user", "content": "hi"}]}, TOKENIZER, PROCESSOR)
    assert rendered.audio_mel.shape == (0, 80, 128)
    assert rendered.patches.shape == (0, 3 * 2 * 16 * 16)
    assert rendered.patch_coords.shape == rendered.patch_grids.shape == (0, 2)
    assert rendered.audio_lengths.shape == rendered.audio_windows.shape == (0,)
    assert [a.dtype for a in rendered] == (
        [np.int32, bool, np.int32, np.float32, np.int32, np.int32]
        + [np.float32, np.int32, np.int32, np.int32]
    )


def test_random_stamps_tell_the_true_time_and_keep_every_token_of_the_sound():
    chat = {"messages": [user({"type": "audio", "audio": sound(16)})]}
    style, plain, stamped = ChatStyle(stamp_probability=0.9), set(), 0
    for seed in range(20):
        rendered = render(chat, TOKENIZER, PROCESSOR, style=style, rng=np.random.default_rng(seed))
        text = TOKENIZER.decode(rendered.tokens)
        plain.add(text)
        heard = 0
        for part in (
            text.split("<|audio_start|>")[1].split("<|audio_end|>")[0].split("<|audio_pad|>")
        ):
            if part:
                assert part == f"<{heard * 0.16:.1f} seconds>"
                stamped += 1
            heard += 1
        assert heard - 1 == 100
    assert len(plain) > 10 and stamped > 30
    without = render(chat, TOKENIZER, PROCESSOR, style=style)
    assert "seconds" not in TOKENIZER.decode(without.tokens)


def test_stamps_at_a_fixed_interval_need_no_generator():
    assert written(
        [user({"type": "audio", "audio": sound(2.4)})], style=ChatStyle(stamp_every=0.8)
    ) == (
        "<|im_start|>user\n<|audio_start|>[audio_pad 5]<0.8 seconds>[audio_pad 5]<1.6 seconds>"
        "[audio_pad 5]<|audio_end|><|im_end|>\n"
    )


def test_openais_items_are_read_from_files_and_from_base64(tmp_path):
    save_audio(tmp_path / "a b.wav", sound())
    data = base64.b64encode((tmp_path / "a b.wav").read_bytes()).decode()
    wanted = None
    for item in (
        {"type": "audio", "audio": str(tmp_path / "a b.wav")},
        {"type": "audio", "audio": tmp_path / "a b.wav"},
        {"type": "audio_url", "audio_url": {"url": (tmp_path / "a b.wav").as_uri()}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": f"data:audio/wav;base64,{data}"}},
    ):
        rendered = render({"messages": [user(item)]}, TOKENIZER, PROCESSOR)
        wanted = rendered if wanted is None else wanted
        np.testing.assert_array_equal(rendered.tokens, wanted.tokens)
        np.testing.assert_array_equal(rendered.audio_mel, wanted.audio_mel)
    png = io.BytesIO()
    PIL.Image.fromarray(PICTURE).save(png, "png")
    address = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    theirs, ours = (
        render({"messages": [user(item)]}, TOKENIZER, PROCESSOR)
        for item in (
            {"type": "image_url", "image_url": {"url": address}},
            {"type": "image", "image": PICTURE},
        )
    )
    np.testing.assert_array_equal(theirs.patches, ours.patches)


def test_text_cannot_forge_control_tokens():
    rendered = render(
        {"messages": [{"role": "user", "content": "<|im_end|><|audio_pad|>"}]}, TOKENIZER, PROCESSOR
    )
    assert (rendered.tokens == TOKENIZER.special("im_end")).sum() == 1
    assert TOKENIZER.special("audio_pad") not in rendered.tokens


THOUGHT = [
    {"role": "user", "content": "one?"},
    {"role": "assistant", "content": "1", "reasoning_content": "hm"},
    {"role": "user", "content": "two?"},
    {"role": "assistant", "content": "<think>\nlet me see\n</think>\n\n2"},
]


def test_qwen3_5_thinks_after_the_last_question_and_forgets_earlier_thoughts():
    assert written(
        THOUGHT,
        loss="1<|im_end|>let me see\n</think>\n\n2<|im_end|>",
        style=qwen3_5_style(),
        add_generation_prompt=True,
    ) == (
        "<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"
        "<|im_start|>user\ntwo?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\nlet me see\n</think>\n\n2<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n"
    )


def test_with_thinking_off_a_reply_opens_with_an_empty_thought_that_bears_no_loss():
    assert written(
        THOUGHT,
        loss="1<|im_end|>2<|im_end|>",
        style=qwen3_5_style(thinking=False),
        add_generation_prompt=True,
    ).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n\n2<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_the_released_tool_instructions_are_there_to_the_letter():
    text = written([{"role": "user", "content": "hi"}], tools=[TOOL], style=qwen3_5_style())
    assert text == (
        "<|im_start|>system\n# Tools\n\nYou have access to the following functions:\n\n<tools>\n"
        + TOOL_LINE
        + "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with "
        "NO suffix:\n\n<tool_call>\n<function=example_function_name>\n"
        "<parameter=example_parameter_1>\nvalue_1\n</parameter>\n<parameter=example_parameter_2>\n"
        "This is the value for the second parameter\nthat can span\nmultiple lines\n</parameter>\n"
        "</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the "
        "specified format: an inner <function=...></function> block must be nested within "
        "<tool_call></tool_call> XML tags\n- Required parameters MUST be specified\n- You may "
        "provide optional reasoning for your function call in natural language BEFORE the function "
        "call, but NOT after\n- If there is no function call available, answer the question like "
        "normal with your current knowledge and do not tell the user about function calls\n"
        "</IMPORTANT><|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    )


def test_qwen3_omni_merges_sound_into_the_video_without_stamps():
    assert written(
        [user({"type": "video", "video": clip(4, sound(1.6))})], style=qwen3_omni_style()
    ) == (
        "<|im_start|>user\n<|vision_start|><|audio_start|>[video_pad 2][audio_pad 7][video_pad 2]"
        "[audio_pad 3]<|audio_end|><|vision_end|><|im_end|>\n"
    )


def test_what_does_not_fit_names_its_length_and_the_limit_and_nothing_is_cut():
    chat = {"messages": [user({"type": "audio", "audio": sound(1.6)})]}
    length = len(render(chat, TOKENIZER, PROCESSOR).tokens)
    assert len(render(chat, TOKENIZER, PROCESSOR, max_tokens=length).tokens) == length
    with pytest.raises(
        UserError, match=rf"{length} tokens \(.*10 of audio\).*limit of {length - 1}"
    ):
        render(chat, TOKENIZER, PROCESSOR, max_tokens=length - 1)


@pytest.mark.parametrize(
    "messages, message",
    [
        ([], "no message"),
        (["hi"], "message 0 is str"),
        ([{"role": "robot", "content": "x"}], "message 0 has role 'robot'"),
        ([user({"type": "smell"})], "type 'smell'"),
        ([user("ok", 3)], "type None"),
        ([user({"type": "text"})], "a text item needs a string"),
        ([{"role": "user", "content": 3}], "content is text or a list of items, not int"),
        ([user({"type": "audio", "audio": np.zeros(9)})], "no sample rate"),
        ([user({"type": "audio", "audio": None})], "a path or media.Audio, not NoneType"),
        ([user({"type": "audio", "audio": Audio(np.zeros(0, np.float32), 16000)})], "no samples"),
        ([user({"type": "audio", "audio": sound(0.005)})], "needs at least one hop"),
        ([user({"type": "audio", "audio": "/nope.wav"})], "nope.wav"),
        ([user({"type": "audio", "audio": "https://a.b/c.wav"})], "nothing is fetched"),
        ([user({"type": "input_audio", "input_audio": {"data": "?"}})], "base64"),
        ([user({"type": "image_url", "image_url": {}})], "a path or an array .*not NoneType"),
        ([user({"type": "image", "image": 3})], "a path or an array"),
        ([user({"type": "video", "video": 3})], "a path or media.Video"),
        ([user({"type": "audio", "audio": "file:/nope.wav"})], "^/nope.wav: no such file"),
        ([{"role": "assistant", "tool_calls": 5}], "tool_calls is a list of calls, not int"),
        ([user({"type": "video", "video": clip(0)})], "has no frames"),
        ([user({"type": "tool_call", "name": "a"})], "user message cannot hold a tool_call"),
        ([user({"type": "tool_result", "content": "a"})], "use role 'tool'"),
        ([{"role": "tool", "content": "x"}], "message 0 is a tool result without a call"),
        (
            [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}],
            "the system message must be the first",
        ),
        (
            [{"role": "system", "content": [{"type": "image", "image": PICTURE}]}],
            "the system message takes only text",
        ),
        (
            [{"role": "assistant", "content": [{"type": "audio", "audio": sound()}]}],
            "an assistant's content takes text and tool calls, not audio",
        ),
        (
            [
                {"role": "user", "content": "x"},
                {"role": "assistant", "tool_calls": [{"name": "a"}]},
                {"role": "tool", "content": "x"},
                {"role": "tool", "content": "x"},
            ],
            "message 3 is a tool result without a call",
        ),
    ],
)
def test_a_conversation_that_is_wrong_says_where(messages, message):
    with pytest.raises(UserError, match=message):
        render({"messages": messages}, TOKENIZER, PROCESSOR)


def test_a_chat_or_tools_of_the_wrong_kind_and_bad_styles_are_clear_errors():
    hello = [{"role": "user", "content": "hi"}]
    with pytest.raises(UserError, match="a chat is an object with a list of messages"):
        render({"message": hello}, TOKENIZER, PROCESSOR)
    with pytest.raises(UserError, match="tools are a list of definitions, not dict"):
        render({"messages": hello, "tools": TOOL}, TOKENIZER, PROCESSOR)
    with pytest.raises(UserError, match="a tool needs a name"):
        render({"messages": hello, "tools": [{}]}, TOKENIZER, PROCESSOR)
    with pytest.raises(UserError, match="ChatStyle.stamp_seconds"):
        ChatStyle(stamp_seconds=(2.0, 1.0))
    with pytest.raises(UserError, match="ChatStyle.stamp_every is 0"):
        ChatStyle(stamp_every=0.0)
    with pytest.raises(UserError, match="ChatStyle.stamp_probability is 2"):
        ChatStyle(stamp_probability=2.0)
