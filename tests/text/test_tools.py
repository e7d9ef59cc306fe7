import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnijax.errors import UserError
from omnijax.text import ToolCall, parse_tool_calls, without_tool_calls
from omnijax.text.tools import as_call, render_call, render_definitions

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_lamp",
            "parameters": {
                "type": "object",
                "properties": {
                    "colour": {"type": "string"},
                    "level": {"type": "integer"},
                    "share": {"type": "number"},
                    "on": {"type": "boolean"},
                    "rooms": {"type": "array"},
                },
            },
        },
    }
]
ARGUMENTS = {"colour": "red", "level": 3, "share": 0.5, "on": True, "rooms": ["hall", "küche"]}


def test_a_call_is_written_as_qwen3_5_writes_it():
    assert render_call(ToolCall("set_lamp", ARGUMENTS)) == (
        "<tool_call>\n<function=set_lamp>\n<parameter=colour>\nred\n</parameter>\n"
        "<parameter=level>\n3\n</parameter>\n<parameter=share>\n0.5\n</parameter>\n"
        '<parameter=on>\nTrue\n</parameter>\n<parameter=rooms>\n["hall", "küche"]\n</parameter>\n'
        "</function>\n</tool_call>"
    )


def test_definitions_are_one_json_object_a_line():
    assert render_definitions([{"name": "a"}, {"name": "ü"}], "!") == (
        "# Tools\n\nYou have access to the following functions:\n\n"
        '<tools>\n{"name": "a"}\n{"name": "ü"}\n</tools>!'
    )


def test_values_come_back_as_the_schema_says_and_as_strings_without_one():
    text = render_call(ToolCall("set_lamp", ARGUMENTS))
    assert parse_tool_calls(text, TOOLS) == [ToolCall("set_lamp", ARGUMENTS)]
    assert parse_tool_calls(text)[0].arguments["level"] == "3"


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
            st.dictionaries(
                st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
                st.text().filter(lambda t: "</" not in t and "<p" not in t and "<f" not in t),
            ),
        ),
        max_size=4,
    )
)
def test_calls_come_back_from_their_text_whatever_the_strings_hold(calls):
    calls = [ToolCall(*call) for call in calls]
    text = "\n".join(map(render_call, calls))
    assert parse_tool_calls(f"I will. \n\n{text}") == calls
    assert without_tool_calls(f"I will. \n\n{text}") == "I will."


def test_the_json_form_of_qwen3_omni_is_read_too():
    text = '<tool_call>\n{"name": "a", "arguments": {"b": 1}}\n</tool_call>'
    assert parse_tool_calls(text) == [ToolCall("a", {"b": 1})]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=a>\n<parameter=b>\n1\n</function>\n</tool_call>",
        "<tool_call>\nhello\n</tool_call>",
        "<tool_call>\n<function=a>\n",
        "<tool_call>[1]</tool_call>",
    ],
)
def test_a_call_that_cannot_be_read_is_left_out_or_an_error_when_strict(text):
    assert parse_tool_calls(text) == []
    with pytest.raises(UserError, match="not a tool call that can be read"):
        parse_tool_calls(text, strict=True)


def test_a_call_cut_off_after_its_function_is_still_read():
    call = ToolCall("a", {"b": "c"})
    assert parse_tool_calls(render_call(call).removesuffix("\n</tool_call>")) == [call]


def test_openai_calls_with_json_strings_are_understood():
    value = {"id": "x", "type": "function", "function": {"name": "a", "arguments": '{"b": [1]}'}}
    assert as_call(value) == ToolCall("a", {"b": [1]})
    assert as_call({"name": "a"}) == ToolCall("a", {})


@pytest.mark.parametrize(
    "value, message",
    [
        ({"arguments": {}}, "a tool call needs a name"),
        ({"name": "a", "arguments": "{"}, "arguments of a are not JSON"),
        ({"name": "a", "arguments": [1]}, "arguments of a are no object"),
        (3, "a tool call is an object"),
    ],
)
def test_a_call_that_is_none_is_a_clear_error(value, message):
    with pytest.raises(UserError, match=message):
        as_call(value)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"function": "name"}, "a tool needs a name"),
        ({"function": None}, "a tool needs a name"),
        ({"name": None}, "a tool needs a name"),
        ({"name": "a", "parameters": [1]}, "the parameters of tool 'a' must be an object"),
        ({"name": "a", "parameters": {"properties": "x"}}, "the parameters of tool 'a' must be"),
    ],
)
def test_a_definition_that_is_none_is_a_clear_error(wrong, message):
    with pytest.raises(UserError, match=message):
        render_definitions([wrong], "")


@pytest.mark.parametrize(
    "parameters", [None, {}, {"properties": None}, {"properties": {"x": True}}]
)
def test_a_tool_may_say_nothing_of_its_arguments(parameters):
    tool = {"type": "function", "function": {"name": "ping", "parameters": parameters}}
    assert '"ping"' in render_definitions([tool], "")
    call = ToolCall("ping", {"x": "1"})
    assert parse_tool_calls(render_call(call), [tool]) == [call]
