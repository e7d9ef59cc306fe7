"""Message content in the forms that OpenAI and Qwen users know, as text pieces and media."""

import base64
import functools
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np

from omnijax.errors import UserError
from omnijax.media import Audio, ProcessorConfig, Video, load_audio, load_image, load_video
from omnijax.media.video import check_rate
from omnijax.text.tools import ToolCall, as_call

MEDIA = ("image", "audio", "video")
TYPES = ("text", *MEDIA, "tool_call", "tool_result")
# OpenAI's names: {"type": "image_url", "image_url": {"url": ...}}, {"type": "input_audio",
# "input_audio": {"data": base64, "format": "wav"}}; Qwen's users know the `_url` forms for all.
ALIASES = {
    "image_url": "image",
    "audio_url": "audio",
    "input_audio": "audio",
    "video_url": "video",
    "input_text": "text",
}


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
            pieces.append(_medium(kind, item))
    return _strip(_join(pieces))


def plain_items(content: Any) -> list[dict[str, Any]]:
    """A content's items under omnijax's own names, each medium one value beside its options.

    {"type": "image_url", "image_url": {"url": "x"}} becomes {"type": "image", "image": "x"}.
    """
    return [_plain(item) for item in _items(content)]


def is_address(value: str) -> bool:
    """Whether it is a data: or file: address, or one of the network, and no path."""
    return re.match(r"data:|file:|[a-z]+://", value) is not None


def split_content(message: Mapping) -> tuple[list[str | Medium], list[ToolCall]]:
    """An assistant message's text and calls; calls stand in `tool_calls` or among the items."""
    items = _items(message.get("content"))
    calls = [item for item in items if _kind(item) == "tool_call"]
    pieces = pieces_of([item for item in items if _kind(item) != "tool_call"], "assistant")
    more = message.get("tool_calls") or []
    if not isinstance(more, list | tuple):
        raise UserError(f"tool_calls is a list of calls, not {type(more).__name__}")
    calls = [*(call.get("tool_call", call) for call in calls), *more]
    return pieces, [as_call(call) for call in calls]


def read_image(medium: Medium) -> np.ndarray:
    """uint8 [H, W, 3]."""
    if isinstance(medium.value, np.ndarray):
        return medium.value
    return _from_file(medium.value, load_image, "an image is a path or an array [H, W, 3]")


def read_audio(value: Any) -> Audio:
    if isinstance(value, Audio):
        return value
    if isinstance(value, np.ndarray):
        raise UserError("an audio array has no sample rate: give media.Audio(samples, sample_rate)")
    return _from_file(value, load_audio, "an audio is a path or media.Audio")


def read_video(
    value: Any, processor: ProcessorConfig | None = None, fps: float | int | None = None
) -> Video:
    """With a processor, of a file only those frames that `video_arrays` then takes (with `fps`).

    "linspace" counts all of a file's frames, so there they are all read.
    """
    if fps is not None:
        check_rate(fps)
    if isinstance(value, Video):
        return value
    load = load_video
    if processor is not None and processor.video_sampling == "grid":
        load = functools.partial(
            load_video,
            fps=processor.video_fps if fps is None else fps,
            max_frames=processor.max_video_frames,
            min_frames=processor.min_video_frames,
        )
    return _from_file(value, load, "a video is a path or media.Video")


def _from_file(value: Any, load: Callable, what: str) -> Any:
    """Reads a path, a file: or data: address, or OpenAI's object round one of them."""
    value = _address(value)
    if not isinstance(value, str | Path):
        raise UserError(f"{what}, not {type(value).__name__}")
    if isinstance(value, Path) or not is_address(value):
        return load(value)
    if value.startswith("file:"):
        return load(url2pathname(urlparse(value).path))
    if not value.startswith("data:"):
        raise UserError(f"{what}; nothing is fetched from the network: {value[:80]}")
    try:
        data = base64.b64decode(value.partition(",")[2], validate=True)
    except ValueError as error:
        raise UserError(f"{what}; its base64 data cannot be read: {error}") from None
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return load(file.name)


def _address(value: Any) -> Any:
    """What OpenAI's object round an address or base64 data holds; all else as it is."""
    if not isinstance(value, Mapping):
        return value
    data = value.get("data")
    return value.get("url") if data is None else f"data:;base64,{data}"


def _medium(kind: str, item: Mapping) -> Medium:
    value = item.get(kind, item.get(item["type"]))
    options = {k: v for k, v in item.items() if k not in ("type", kind, item["type"])}
    return Medium(kind, value, options)


def _plain(item: Any) -> dict[str, Any]:
    kind = _kind(item)
    if kind in MEDIA:
        medium = _medium(kind, item)
        return {**medium.options, "type": kind, kind: _address(medium.value)}
    if kind == "tool_result":
        name = "content" if "content" in item else "tool_result"
        return {**item, name: plain_items(item.get(name))}
    return {**item, "type": kind}


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
    kind = ALIASES.get(kind, kind) if isinstance(kind, str) else kind
    if not isinstance(kind, str) or kind not in TYPES:
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
