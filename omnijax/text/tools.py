"""Tool definitions, calls and results as Qwen3.5 writes them, and calls read back from text.

A call, as the assistant produces it (values that are no strings are written as Python's `str`,
lists and objects as JSON):

    <tool_call>
    <function=set_lamp>
    <parameter=colour>
    red
    </parameter>
    </function>
    </tool_call>
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omnijax.errors import UserError

# The released Qwen3.5 template's words; `BRIEF` says the same in what nano can afford.
QWEN_INSTRUCTIONS = """

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must \
be nested within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the \
function call, but NOT after
- If there is no function call available, answer the question like normal with your current \
knowledge and do not tell the user about function calls
</IMPORTANT>"""
BRIEF_INSTRUCTIONS = ""

_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\n?(.*?)</function>\s*\Z", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)


class ToolCall(NamedTuple):
    """A function's name and its arguments by name."""

    name: str
    arguments: dict[str, Any]


def render_definitions(tools: Sequence[Mapping], instructions: str) -> str:
    """The system message's part that offers tools, one JSON object a line.

    Raises:
      UserError: a tool has no name, or its parameters are no schema of an object.
    """
    for tool in tools:
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise UserError(f"a tool needs a name: {tool!r}")
        parameters = inner.get("parameters") or {}
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else "none"
        if not isinstance(properties or {}, Mapping):
            raise UserError(
                f"the parameters of tool {inner['name']!r} must be an object with properties: "
                f"{parameters!r}"
            )
    lines = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools)
    head = "# Tools\n\nYou have access to the following functions:\n\n"
    return f"{head}<tools>{lines}\n</tools>{instructions}"


def as_call(value: Any) -> ToolCall:
    """A call from OpenAI's form ({"function": {...}}, arguments perhaps a JSON string) or bare."""
    if not isinstance(value, Mapping):
        raise UserError(f"a tool call is an object with a name and arguments, not {value!r}")
    inner = value.get("function", value)
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise UserError(f"a tool call needs a name: {value!r}")
    arguments = inner.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError as error:
            raise UserError(f"arguments of {inner['name']} are not JSON: {error}") from None
    if not isinstance(arguments, Mapping):
        raise UserError(f"arguments of {inner['name']} are no object: {arguments!r}")
    return ToolCall(inner["name"], dict(arguments))


def render_call(call: ToolCall) -> str:
    parameters = "".join(
        f"<parameter={name}>\n{_written(value)}\n</parameter>\n"
        for name, value in call.arguments.items()
    )
    return f"<tool_call>\n<function={call.name}>\n{parameters}</function>\n</tool_call>"


def parse_tool_calls(
    text: str, tools: Sequence[Mapping] | None = None, *, strict: bool = False
) -> list[ToolCall]:
    """Calls in an assistant's text, in order.

    With `tools`, values become what the schema says (integer, number, boolean, array, object);
    without, they stay strings. A call that cannot be read is left out, or with `strict` an error.
    Qwen3-Omni's JSON form is read too.
    """
    calls = []
    for block in _CALL.findall(text):
        call = _read_function(block, tools) or _read_json(block)
        if call is not None:
            calls.append(call)
        elif strict:
            raise UserError(f"not a tool call that can be read: {block.strip()!r}")
    return calls


def without_tool_calls(text: str) -> str:
    """What the assistant says beside its calls."""
    return _CALL.sub("", text).strip()


def _read_function(block: str, tools: Sequence[Mapping] | None) -> ToolCall | None:
    function = _FUNCTION.match(block)
    if function is None or _PARAMETER.sub("", function[2]).strip():
        return None
    name = function[1].strip()
    types = _types(tools, name)
    values = {key.strip(): value for key, value in _PARAMETER.findall(function[2])}
    return ToolCall(name, {key: _typed(value, types.get(key)) for key, value in values.items()})


def _read_json(block: str) -> ToolCall | None:
    try:
        return as_call(json.loads(block))
    except (json.JSONDecodeError, UserError):
        return None


def _types(tools: Sequence[Mapping] | None, name: str) -> dict[str, Any]:
    for tool in tools or ():
        inner = tool.get("function", tool)
        if inner.get("name") == name:
            properties = (inner.get("parameters") or {}).get("properties") or {}
            typed = {key: s for key, s in properties.items() if isinstance(s, Mapping)}
            return {key: schema.get("type") for key, schema in typed.items()}
    return {}


def _typed(text: str, kind: Any) -> Any:
    try:
        if kind == "integer":
            return int(text)
        if kind == "number":
            number = float(text)
            return int(number) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else number
        if kind == "boolean":
            return {"true": True, "false": False}[text.strip().lower()]
        if kind in ("array", "object"):
            return json.loads(text)
    except (ValueError, KeyError):
        pass  # The model wrote something else: leave it to the tool to refuse.
    return text


def _written(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
