"""Tokenizer, chat template and positions: from a conversation to what the Thinker reads."""

from omnijax.text.builder import Rendered
from omnijax.text.chat import ChatState, render, render_turn
from omnijax.text.positions import PositionState
from omnijax.text.style import ChatStyle, qwen3_5_style, qwen3_omni_style
from omnijax.text.tokenizer import SPECIAL, Tokenizer, nano_tokenizer, train_tokenizer
from omnijax.text.tools import ToolCall, parse_tool_calls, without_tool_calls

__all__ = [
    "SPECIAL",
    "ChatState",
    "ChatStyle",
    "PositionState",
    "Rendered",
    "ToolCall",
    "Tokenizer",
    "nano_tokenizer",
    "parse_tool_calls",
    "qwen3_5_style",
    "qwen3_omni_style",
    "render",
    "render_turn",
    "train_tokenizer",
    "without_tool_calls",
]
