"""Message content in the forms that OpenAI and Qwen users know, as text pieces and media."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.media import Audio, Video, load_audio, load_image, load_video
from omnijax.text.tools import ToolCall, as_call

MEDIA = ("image", "audio", "video")
TYPES = ("text", *MEDIA, "tool_call", "tool_result")


class Medium(NamedTuple):
    """One picture, sound or video of a message; options are the item's other fields."""

    kind: str
    value: Any
    options: Mapping[str, Any]


def pieces_of(content: Any, role: str) -> list[str | Medium]:
    """A content's text and media in order, white space stripped at both ends as the template does.

    Neighbouring texts are joined. Raises UserError at an item that the role cannot have.
    """
    pieces: list[str | Medium] = []
    for item in _items(content):
        kind = _kind(item)
        if kind == "tool_call":
            raise UserError(f"a {role} message cannot hold a tool_call")
        if kind == "tool_result" and role != "tool":
            raise UserError(f"a {role} message cannot hold a tool_result; use role 'tool'")
        if kind == "tool_result":
            pieces += pieces_of(item.get("content", item.get("tool_result")), role)
        elif kind == "text":
            if not isinstance(item.get("text"), str):
                raise UserError(f"a text item needs a string, not {item.get('text')!r}")
            pieces.append(item["text"])
        else:
            options = {k: v for k, v in item.items() if k not in ("type", kind)}
            pieces.append(Medium(kind, item.get(kind), options))
    return _strip(_join(pieces))


def split_content(message: Mapping) -> tuple[list[str | Medium], list[ToolCall]]:
    """An assistant message's text and calls; calls stand in `tool_calls` or among the items."""
    items = _items(message.get("content"))
    calls = [item for item in items if _kind(item) == "tool_call"]
    pieces = pieces_of([item for item in items if _kind(item) != "tool_call"], "assistant")
    calls = [call.get("tool_call", call) for call in calls] + list(message.get("tool_calls") or ())
    return pieces, [as_call(call) for call in calls]


def read_image(medium: Medium) -> np.ndarray:
    """uint8 [H, W, 3]."""
    value = medium.value
    if isinstance(value, str | Path):
        return load_image(value)
    if isinstance(value, np.ndarray):
        return value
    raise UserError(f"an image is a path or an array [H, W, 3], not {type(value).__name__}")


def read_audio(value: Any) -> Audio:
    if isinstance(value, str | Path):
        return load_audio(value)
    if isinstance(value, Audio):
        return value
    if isinstance(value, np.ndarray):
        raise UserError("an audio array has no sample rate: give media.Audio(samples, sample_rate)")
    raise UserError(f"an audio is a path or media.Audio, not {type(value).__name__}")


def read_video(value: Any) -> Video:
    if isinstance(value, str | Path):
        return load_video(value)
    if isinstance(value, Video):
        return value
    raise UserError(f"a video is a path or media.Video, not {type(value).__name__}")


def _items(content: Any) -> list[Any]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, Mapping):
        return [content]
    if isinstance(content, list | tuple):
        return [{"type": "text", "text": c} if isinstance(c, str) else c for c in content]
    raise UserError(f"content is text or a list of items, not {type(content).__name__}")


def _kind(item: Any) -> str:
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind not in TYPES:
        raise UserError(f"a content item has type {kind!r}, not one of {', '.join(TYPES)}")
    return kind


def _join(pieces: list[str | Medium]) -> list[str | Medium]:
    joined: list[str | Medium] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def _strip(pieces: list[str | Medium]) -> list[str | Medium]:
    if pieces and isinstance(pieces[0], str):
        pieces[0] = pieces[0].lstrip()
    if pieces and isinstance(pieces[-1], str):
        pieces[-1] = pieces[-1].rstrip()
    return [piece for piece in pieces if piece != ""]
