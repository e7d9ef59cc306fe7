"""Sizes of a Talker: its decoder, the MTP of the residual codes, and the ids of its tables."""

import dataclasses

from omnijax.errors import UserError
from omnijax.nn.config import DecoderConfig

FORMS = ("aria", "dual_track")
PROJECTIONS = ("linear", "mlp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalkerConfig:
    """A decoder over text and codec frames, and a small one over the codes of a frame.

    The codec table holds the semantic codes (0 to ``codebook_size`` - 1), then everything else:
    languages, speakers and, from ``control_base`` on, the marks at the released offsets.
    """

    decoder: DecoderConfig
    mtp: DecoderConfig  # over the codes of one frame; dense
    form: str = "aria"  # one stream; "dual_track": text and frame added at each step (Qwen3-Omni)

    codebooks: int = 16  # a semantic one, then residuals
    codebook_size: int = 2048
    codec_vocab_size: int = 5120
    control_base: int = 4196
    languages: tuple[tuple[str, int], ...] = ()  # name, id in the codec table
    speakers: tuple[tuple[str, int], ...] = ()  # of the dual-track form

    text_vocab_size: int = 248_320
    text_width: int | None = None  # of the text table, where it is the Thinker's own: projected
    tts_pad_id: int  # marks in the text table
    tts_bos_id: int
    tts_eos_id: int

    thinker_width: int
    accept_hidden_layer: int  # of the Thinker, after which its stream is read at media positions
    projection: str = "linear"  # of the Thinker's stream (and text, where ``text_width`` is set)
    projection_ffn: int | None = None  # inside an "mlp"

    def __post_init__(self):
        for name in ("languages", "speakers"):
            pairs = tuple((str(key), int(value)) for key, value in getattr(self, name))
            object.__setattr__(self, name, pairs)
        self._check()

    @property
    def residuals(self) -> int:
        """Codebooks that the MTP predicts."""
        return self.codebooks - 1

    # Offsets as released (Qwen3-Omni, Qwen3-TTS); ``ask_id`` takes one that is free there [C].
    codec_pad_id = property(lambda self: self.control_base)
    codec_bos_id = property(lambda self: self.control_base + 1)
    codec_eos_id = property(lambda self: self.control_base + 2)
    ask_id = property(lambda self: self.control_base + 3)
    think_id = property(lambda self: self.control_base + 6)
    nothink_id = property(lambda self: self.control_base + 7)
    think_bos_id = property(lambda self: self.control_base + 8)
    think_eos_id = property(lambda self: self.control_base + 9)

    def language_id(self, name: str) -> int:
        """Raises UserError for a language that the Talker does not know."""
        return _find("language", name, self.languages)

    def speaker_id(self, name: str) -> int:
        """Raises UserError for a speaker that the Talker does not know."""
        return _find("speaker", name, self.speakers)

    def _check(self) -> None:
        for name, known in (("form", FORMS), ("projection", PROJECTIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} is {getattr(self, name)!r}, it must be one of {known}")
        least = {"codebooks": 2, "codebook_size": 2, "text_vocab_size": 1, "thinker_width": 1}
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise UserError(f"{name} is {getattr(self, name)}, it must be at least {limit}")
        if self.text_width is not None and self.text_width < 1:
            raise UserError(f"text_width is {self.text_width}, it must be at least 1, or None")
        pairs = (*self.languages, *self.speakers)
        names, ids = [name for name, _ in pairs], [value for _, value in pairs]
        for what, given in (("name", names), ("id", ids)):
            if len({*given}) < len(given):
                raise UserError(f"two languages or speakers have one {what}: {given}")
        if self.projection == "mlp" and not self.projection_ffn:
            raise UserError(f"projection_ffn is {self.projection_ffn}, an mlp needs a width")
        if self.control_base < self.codebook_size:
            raise UserError(
                f"control_base is {self.control_base}, ids below codebook_size "
                f"{self.codebook_size} are codes"
            )
        if self.think_eos_id >= self.codec_vocab_size:
            raise UserError(
                f"codec_vocab_size is {self.codec_vocab_size}, the marks go up to "
                f"{self.think_eos_id}"
            )
        for name, value in (*self.languages, *self.speakers):
            if not self.codebook_size <= value < self.codec_vocab_size:
                raise UserError(
                    f"the id of {name!r} is {value}, it must be from codebook_size "
                    f"{self.codebook_size} to codec_vocab_size {self.codec_vocab_size} - 1"
                )
            if self.control_base <= value <= self.think_eos_id:
                raise UserError(f"the id of {name!r} is {value}, which is a mark's")
        for name in ("tts_pad_id", "tts_bos_id", "tts_eos_id"):
            if not 0 <= getattr(self, name) < self.text_vocab_size:
                raise UserError(
                    f"{name} is {getattr(self, name)}, it must be below text_vocab_size "
                    f"{self.text_vocab_size}"
                )
        if self.mtp.experts:
            raise UserError(f"mtp.experts is {self.mtp.experts}, the MTP is dense")
        if self.accept_hidden_layer < 0:
            raise UserError(
                f"accept_hidden_layer is {self.accept_hidden_layer}, it must not be negative"
            )


def _find(kind: str, name: str, pairs: tuple[tuple[str, int], ...]) -> int:
    found = dict(pairs).get(name)
    if found is None:
        known = ", ".join(key for key, _ in pairs) or "none"
        raise UserError(f"the {kind} {name!r} is unknown to this Talker, it knows {known}")
    return found
