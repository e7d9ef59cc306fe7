"""What differs between models that share the chat template."""

from dataclasses import dataclass
from typing import Literal

from omnijax.errors import UserError
from omnijax.text.tools import BRIEF_INSTRUCTIONS, QWEN_INSTRUCTIONS


@dataclass(frozen=True, kw_only=True)
class ChatStyle:
    """What differs between models of one template. The default is what omnijax trains.

    thinking: "none" writes no think blocks; "off" opens each reply with an empty one and "on"
        with `<think>`, as Qwen3.5 does.
    keep_thinking: keep the blocks of turns before the last question. The released template drops
        them, which rewrites history; a session's cache cannot, so it needs this (or "none").
    tool_instructions: the words after the list of tools.
    time: "stamps" writes seconds before each temporal patch of a video; "merged" is Qwen3-Omni's:
        time ids from seconds, sound and picture merged by them.
    ids_per_second: time ids a second, for "merged".
    sound_of_video: whether a video's sound track is heard.
    stamp_every: seconds between stamps in sound where none are drawn at random; None for none [C].
    stamp_seconds: shortest and longest interval of the random stamps in sound (in training) [C].
    stamp_probability: that another random stamp follows, at each of them [C].
    """

    thinking: Literal["none", "off", "on"] = "none"
    keep_thinking: bool = False
    tool_instructions: str = BRIEF_INSTRUCTIONS
    time: Literal["stamps", "merged"] = "stamps"
    ids_per_second: float = 13.0
    sound_of_video: bool = True
    stamp_every: float | None = None
    stamp_seconds: tuple[float, float] = (0.5, 5.0)
    stamp_probability: float = 0.5

    def __post_init__(self):
        for name, allowed in (("thinking", ("none", "off", "on")), ("time", ("stamps", "merged"))):
            if getattr(self, name) not in allowed:
                value = getattr(self, name)
                raise UserError(f"ChatStyle.{name} is {value!r}, not one of {allowed}")
        low, high = self.stamp_seconds
        if not 0 < low <= high:
            raise UserError(f"ChatStyle.stamp_seconds is {low}..{high}, must be rising and over 0")
        if self.stamp_every is not None and self.stamp_every <= 0:
            raise UserError(f"ChatStyle.stamp_every is {self.stamp_every}, must be over 0")
        if not 0 <= self.stamp_probability <= 1:
            value = self.stamp_probability
            raise UserError(f"ChatStyle.stamp_probability is {value}, must be in 0..1")

    def check_continues(self) -> None:
        """Raises UserError where a rendered history cannot be gone on from, turn by turn."""
        if self.thinking != "none" and not self.keep_thinking:
            raise UserError(
                f"thinking={self.thinking!r} drops past thoughts, so a rendered history cannot be "
                "continued: set keep_thinking"
            )


def qwen3_5_style(*, thinking: bool = True) -> ChatStyle:
    """The released Qwen3.5 template."""
    return ChatStyle(thinking="on" if thinking else "off", tool_instructions=QWEN_INSTRUCTIONS)


def qwen3_omni_style() -> ChatStyle:
    """Qwen3-Omni's time ids and its template for text and media (not its JSON tool calls)."""
    return ChatStyle(time="merged", ids_per_second=13.0)


DEFAULT_STYLE = ChatStyle()
