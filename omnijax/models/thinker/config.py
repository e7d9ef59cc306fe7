"""Sizes of a Thinker: its decoder, its vocabulary and the encoders that feed it."""

import dataclasses

from omnijax.errors import UserError
from omnijax.models.aut.config import AuTConfig
from omnijax.models.vision.config import VisionConfig
from omnijax.nn.config import DecoderConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThinkerConfig:
    """A decoder over text and, where ``aut`` or ``vision`` are set, audio, images and video."""

    decoder: DecoderConfig
    vocab_size: int
    tie_embeddings: bool = False
    aut: AuTConfig | None = None
    vision: VisionConfig | None = None
    audio_token_id: int = 248_076  # placeholders: one of them a feature
    image_token_id: int = 248_056
    video_token_id: int = 248_057

    def __post_init__(self):
        if self.vocab_size < 1:
            raise UserError(f"vocab_size is {self.vocab_size}, it must be at least 1")
        for name, part in (("aut", self.aut), ("vision", self.vision)):
            if part is not None and part.out_width != self.decoder.width:
                raise UserError(
                    f"{name}.out_width is {part.out_width}, the decoder's width is "
                    f"{self.decoder.width}: they must be equal"
                )
        if self.deepstack > self.decoder.layers:
            raise UserError(
                f"vision.deepstack_layers has {self.deepstack} levels, one for each of the first "
                f"layers of the decoder: it has {self.decoder.layers}"
            )
        ids = self._placeholders()
        for name, value in ids.items():
            if not 0 <= value < self.vocab_size:
                raise UserError(f"{name} is {value}, it must be below vocab_size {self.vocab_size}")
        if len({*ids.values()}) < len(ids):
            raise UserError(f"{[*ids]} must differ, got {[*ids.values()]}")

    def _placeholders(self) -> dict[str, int]:
        used = ["audio_token_id"] if self.aut is not None else []
        used += ["image_token_id", "video_token_id"] if self.vision is not None else []
        return {name: getattr(self, name) for name in used}

    @property
    def media_ids(self) -> tuple[int, ...]:
        """The placeholder tokens of the media that this Thinker reads."""
        return tuple(self._placeholders().values())

    @property
    def deepstack(self) -> int:
        """Levels of vision features added to the stream after the first layers."""
        return 0 if self.vision is None else len(self.vision.deepstack_layers)
