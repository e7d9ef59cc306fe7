import re

from hypothesis import given, settings
from hypothesis import strategies as st

from omnijax.generate.events import AnswerReader, split_answer
from omnijax.text.tools import ToolCall

PIECES = (
    *("<", ">", "tool_call>", "<tool_call>", "</tool_call>", "<think>", "</think>", "thi", " "),
    *("\n", "<function=f>", "</function>", "word", "é", "<parameter=x>\n3\n</parameter>\n"),
)
ANSWERS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
CALL = "<tool_call>\n<function=f>\n<parameter=x>\n3\n</parameter>\n</function>\n</tool_call>"
TOOL = {"name": "f", "parameters": {"properties": {"x": {"type": "integer"}}}}


def visible(answer: str) -> str:
    return re.sub(r"<(tool_call|think)>.*?(</\1>|\Z)", "", answer, flags=re.DOTALL).strip()


def read(answer: str, ends, **options) -> list:
    """Everything found when the answer has grown to each of these lengths; neighbours joined."""
    reader, found = AnswerReader(**options), []
    for end in (*ends, len(answer)):
        for new in reader.read(answer[:end]):
            found.append(new)
    found += reader.read(answer, last=True)
    joined = []
    for new in found:
        if isinstance(new, str) and joined and isinstance(joined[-1], str):
            joined[-1] += new
        else:
            joined.append(new)
    return joined


@settings(deadline=None, max_examples=100)
@given(ANSWERS)
def test_an_answer_read_as_it_grows_says_the_same_as_read_whole(answer):
    whole = read(answer, [])
    assert read(answer, range(len(answer))) == whole
    assert "".join(new for new in whole if isinstance(new, str)) == visible(answer)


def test_text_and_calls_come_in_the_order_in_which_they_were_written():
    answer = f"One.\n\n{CALL}\ntwo {CALL} three\n"
    call = ToolCall("f", {"x": 3})
    expected = ["One.", call, "\n\n\ntwo", call, "  three"]
    assert read(answer, [], definitions=[TOOL]) == expected
    assert read(answer, range(len(answer)), definitions=[TOOL]) == expected


def test_a_call_is_told_once_it_is_closed_or_the_answer_is_over():
    reader = AnswerReader()
    open_call = CALL.removesuffix("</tool_call>")
    assert list(reader.read(open_call)) == []
    assert list(reader.read(open_call, last=True)) == [ToolCall("f", {"x": "3"})]
    assert list(AnswerReader().read("<tool_call>\n<function=f>", last=True)) == []


def test_a_thought_is_hidden_and_so_is_a_call_in_it():
    assert read(f"<think>hm {CALL}</think>\n\nYes.", []) == ["Yes."]
    assert read("hm\n</think>\n\nYes.", [3, 9], thinking=True) == ["Yes."]


def test_an_answer_is_split_into_what_was_said_and_the_calls_outside_thoughts():
    call, inner = ToolCall("f", {"x": 3}), CALL.replace("3", "7")
    assert split_answer(f"One. {CALL}", [TOOL]) == ("One.", [call])
    thought = f"<think>hm {inner}</think>"
    assert split_answer(f"{thought} Yes.", [TOOL]) == (f"{thought} Yes.", [])
    assert split_answer(f"{thought} Yes.\n{CALL}", [TOOL]) == (f"{thought} Yes.", [call])
    open_thought = f"hm {inner}</think> Yes."
    assert split_answer(open_thought, [TOOL], thinking=True) == (open_thought, [])
    assert split_answer(f"{open_thought} {CALL}", [TOOL], thinking=True) == (open_thought, [call])
    assert split_answer(f"hm {inner}", [TOOL], thinking=True) == (f"hm {inner}", [])
    assert split_answer("a <tool_call>nothing</tool_call>") == (
        "a <tool_call>nothing</tool_call>",
        [],
    )


@settings(deadline=None, max_examples=100)
@given(ANSWERS, st.booleans())
def test_the_calls_of_an_answer_are_those_that_the_reader_tells(answer, thinking):
    told = [new for new in read(answer, [], thinking=thinking) if isinstance(new, ToolCall)]
    assert split_answer(answer, thinking=thinking)[1] == told


@settings(deadline=None, max_examples=100)
@given(ANSWERS, st.booleans(), st.data())
def test_the_calls_of_an_answer_that_goes_on_are_those_that_have_been_told(answer, thinking, data):
    so_far = answer[: data.draw(st.integers(0, len(answer)))]
    reader = AnswerReader(thinking=thinking)
    told = [new for new in reader.read(so_far) if isinstance(new, ToolCall)]
    assert split_answer(so_far, thinking=thinking, last=False)[1] == told


def test_what_might_become_a_tag_or_a_character_is_held_back():
    reader = AnswerReader()
    assert list(reader.read("a <tool")) == ["a"]
    assert list(reader.read("a <tools")) == [" <tools"]
    assert list(reader.read("a <tools \ufffd\ufffd")) == []
    assert list(reader.read("a <tools 🙂 \ufffd")) == [" 🙂"]
    assert list(reader.read("a <tools 🙂 \ufffd", last=True)) == []
