"""A voice that speaks text as it comes: Talker, MTP and Code2Wav as one pipeline of packets.

    speech = speaker.start(speaker.voice("anna"))
    speech.push("the red circle ")           # as the text grows
    for samples in speech.packets(): ...      # what can be said of it so far
    speech.push("is left.", last=True)
    for samples in speech.packets(): ...

The Talker waits for late text and never invents any; a packet is by default 4 frames, 320 ms of
sound.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from omnijax.data.codes import ThinkerStream
from omnijax.errors import UserError
from omnijax.generate.speech import ENDLESS, PACE, SpeechConfig, SpeechGenerator, SpeechStream
from omnijax.media.audio import Audio, check_audio, resample
from omnijax.models.codec import (
    SAMPLE_RATE,
    Codec,
    decode_clip,
    encode_clip,
    init_decode_state,
    stream_decode,
)
from omnijax.models.talker import Talker
from omnijax.models.talker.context import Context
from omnijax.models.talker.dual_track import shown_dual_track_row
from omnijax.models.talker.prompt import TalkerRow, Voice, chat_marks, prompt_row
from omnijax.text.tokenizer import Tokenizer
from omnijax.typing import Float, Int, PyTree

SHORTEST_REFERENCE, LONGEST_REFERENCE = 0.8, 10.0  # seconds of sound that show a voice
SILENT = 0.01  # peak below which a reference is silent
CLIPPED = 0.01  # share of samples at full scale above which a reference is clipped
# Where a word begins, with the spaces before it: no token lies on both sides. A line's end belongs
# to what stands before it.
WORD = re.compile(r"(?<=\S)(?= +\S)|(?<=[\r\n])(?=[^\S\r\n]*\S)")


class StoredVoice(NamedTuple):
    """Reference frames and a description of a voice that a Talker was trained on."""

    name: str
    description: str
    codes: Int[np.ndarray, "R Q"]


class Speaker:
    """A Talker and its codec, and the voices stored with them."""

    sample_rate = SAMPLE_RATE

    def __init__(
        self,
        talker: Talker,
        talker_params: PyTree,
        codec: Codec,
        codec_params: PyTree,
        tokenizer: Tokenizer,
        voices: Sequence[StoredVoice] = (),
        config: SpeechConfig | None = None,
        *,
        max_len: int = 1024,
        pace: Mapping[str, float] | None = None,
        thinker: ThinkerStream | None = None,
    ):
        """`pace`: frames that a text token takes on average in each language, by which
        `Speech.said` is told and text is held back; "" where no language is named.
        `thinker`: whose stream the Talker has learned to read of a user's turn."""
        for name, value in (pace or {}).items():
            if not 0 < value < float("inf"):
                raise UserError(f"the pace of {name!r} is {value}, it must be a positive number")
        ours = (talker.config.codebooks, talker.config.codebook_size)
        theirs = (codec.config.codebooks, codec.config.codes)
        if ours != theirs:
            raise UserError(f"(codebooks, codes): the Talker has {ours}, the codec {theirs}")
        self.generator = SpeechGenerator(talker, talker_params, config, max_len=max_len)
        self.talker, self.codec, self._codec_params = talker, codec, {"params": codec_params}
        self.tokenizer, self.pace = tokenizer, {"": PACE} | dict(pace or {})
        self.voices: Mapping[str, StoredVoice] = {voice.name: voice for voice in voices}
        self.thinker = thinker
        if self.generator.config.context and thinker is None:
            raise UserError(
                "speech.context is set, but the Talker has learned to read no Thinker's stream"
            )
        if thinker is not None and thinker.layer != talker.config.accept_hidden_layer:
            raise UserError(
                f"the Talker has learned the Thinker's stream after {thinker.layer} layers, "
                f"accept_hidden_layer is {talker.config.accept_hidden_layer}"
            )
        self._marks = chat_marks(tokenizer)

    def voice(self, name: str | None = None, *, describe: str | None = None) -> Voice:
        """A stored voice by name (None: the first one), or one that is described in words.

        Raises:
          UserError: no such voice; the message names those that there are.
        """
        if describe is not None and name is None:
            if not describe.strip():
                raise UserError("the description of the voice is empty")
            return Voice(self.tokenizer.encode(describe.strip().lower(), literal=True), None)
        if not self.voices:
            raise UserError("this Talker has no stored voices: describe one or give a reference")
        name = next(iter(self.voices)) if name is None else name
        if name not in self.voices:
            raise UserError(f"no voice {name!r}, there are {', '.join(self.voices)}")
        stored = self.voices[name]
        words = stored.description if describe is None else describe.strip().lower()
        return Voice(self.tokenizer.encode(words, literal=True), stored.codes)

    def clone(self, reference: Audio) -> Voice:
        """The voice of a clip of 0.8 to 10 s.

        Raises:
          UserError: the clip is too short, too long, silent or clipped.
        """
        check_audio(reference, "the reference")
        if not SHORTEST_REFERENCE <= reference.seconds <= LONGEST_REFERENCE:
            raise UserError(
                f"the reference lasts {reference.seconds:.2f} s, a voice is shown by "
                f"{SHORTEST_REFERENCE:g} to {LONGEST_REFERENCE:g} s"
            )
        peak = float(np.abs(reference.samples).max())
        if peak < SILENT:
            raise UserError(f"the reference is silent: its peak is {peak:.4f} of 1")
        share = float(np.mean(np.abs(reference.samples) >= 0.999))
        if share > CLIPPED:
            raise UserError(f"the reference is clipped: {share:.1%} of it is at full scale")
        return Voice((), self.encode(reference))

    def encode(self, clip: Audio) -> Int[np.ndarray, "R Q"]:
        """A clip as codec frames, the last one filled with silence."""
        samples = resample(clip, SAMPLE_RATE).samples
        return encode_clip(self.codec, self._codec_params, samples)

    def decode(self, codes: Int[np.ndarray, "R Q"]) -> Float[np.ndarray, "A"]:
        """Samples of frames, whole."""
        return decode_clip(self.codec, self._codec_params, codes)

    def prompt(
        self, voice: Voice, *, language: str | None = None, context: Context | None = None
    ) -> TalkerRow:
        """What is read before an answer.

        Raises:
          UserError: it leaves no room to speak; a language that the Talker has not learned, codes,
            ids or a width that it has not; a Talker of two tracks.
        """
        if self.talker.config.form != "aria":
            raise UserError("a Talker of two tracks speaks whole texts: use say")
        row = prompt_row(
            self.talker.config, self._marks, voice=voice, context=context, language=language
        )
        self.generator.check([row])
        return row

    def start(
        self,
        voice: Voice,
        *,
        language: str | None = None,
        context: Context | None = None,
        seed: int = 0,
        max_frames: int = ENDLESS,
    ) -> "Speech":
        """An answer that is about to be spoken.

        Without a language text is held back by the mean pace of all.

        Raises:
          UserError: as `prompt`.
        """
        rest = {"language": language, "context": context}
        prompt, pace = self.prompt(voice, **rest), self._pace(language)
        unshown = [self.prompt(Voice(), **rest)] if self._guided(voice) else None
        stream = self.generator.start(
            [prompt], seed=seed, max_frames=max_frames, paces=[pace], unshown=unshown
        )
        return Speech(self, stream, pace=pace)

    def _guided(self, voice: Voice) -> bool:
        """Whether guidance moves what this voice says: it is shown, and not described."""
        only_shown = voice.reference is not None and not len(voice.description)
        return only_shown and self.generator.config.guidance != 1

    def _pace(self, language: str | None) -> float:
        return self.pace.get(language or "", self.pace[""])

    def say(
        self,
        texts: Sequence[str],
        voices: Sequence[Voice],
        *,
        languages: Sequence[str | None] | None = None,
        contexts: Sequence[Context | None] | None = None,
        seed: int = 0,
        whole: bool = True,
    ) -> list[Float[np.ndarray, "_"]]:
        """A batch of whole answers, each its own length; ``contexts``: what each answers.

        whole: False gives of an answer whose speech does not fit what was spoken until ``max_len``:
        for who would rather have the others of a batch, and hears where one ends.

        Raises:
          UserError: nothing to say in a text; a text alone, or with ``whole`` its speech, does not
            fit ``max_len``, its row is named; as `prompt`.
        """
        shown = {"languages": languages, "contexts": contexts}
        codes = self.say_codes(texts, voices, **shown, seed=seed, whole=whole)
        return [self.decode(row) if len(row) else np.zeros(0, np.float32) for row in codes]

    def say_codes(
        self,
        texts: Sequence[str],
        voices: Sequence[Voice],
        *,
        languages: Sequence[str | None] | None = None,
        contexts: Sequence[Context | None] | None = None,
        seed: int = 0,
        whole: bool = True,
    ) -> list[Int[np.ndarray, "R Q"]]:
        """As `say`, frames instead of samples."""
        config, prompts, unshown = self.talker.config, [], []
        ids = [self.tokenizer.encode(speakable(text), literal=True) for text in texts]
        languages = languages or [None] * len(texts)
        contexts = contexts or [None] * len(texts)
        for text, voice, language, context in zip(ids, voices, languages, contexts, strict=True):
            rest = {"language": language, "context": context}
            if config.form == "dual_track":  # its prompt has the first text token
                begun = text[:1], np.zeros((0, config.codebooks), np.int32)
                del text[:1]
                start = functools.partial(shown_dual_track_row, config, self._marks, *begun)
            else:
                start = functools.partial(prompt_row, config, self._marks)
            prompts.append(start(voice=voice, **rest))
            without = start(voice=Voice(), **rest) if self._guided(voice) else prompts[-1]
            unshown.append(without)
        paces = [*map(self._pace, languages)]
        guided = unshown if any(map(self._guided, voices)) else None
        return self.generator(prompts, ids, seed=seed, paces=paces, unshown=guided, whole=whole)


def speakable(text: str) -> str:
    """The text, or an error where it has no letter or digit to say."""
    if not any(c.isalnum() for c in text):
        raise UserError(f"there is nothing to say in {text!r}: it has no letter and no digit")
    return text


class Speech:
    """One answer: text in as it grows, samples out as they are made."""

    def __init__(self, speaker: Speaker, stream: SpeechStream, *, pace: float = PACE):
        self._speaker, self._stream, self._pace = speaker, stream, pace
        self._decoder = init_decode_state(speaker.codec)
        self._held, self._tokens, self._begun = "", 0, False
        self._closed: str | None = None
        self._over = False  # the text went on beyond what fits
        self._pieces: list[tuple[int, str]] = []  # (text tokens up to here, the piece)
        self.codes: list[Int[np.ndarray, "_ Q"]] = []  # of every packet so far
        self.read: list[int] = []  # text tokens that had been read at each packet

    def push(self, text: str, *, last: bool = False) -> None:
        """More of the text. A word is read once the next begins, for its tokens to be certain.

        Text that goes beyond what the Talker can hold is not spoken: `reason` is then "length".
        """
        self._held += text
        ends = [match.start() for match in WORD.finditer(self._held)]
        cut = len(self._held) if last else (ends[-1] if ends else 0)
        ready, self._held = self._held[:cut], self._held[cut:]
        self._begun |= any(c.isalnum() for c in ready)
        if not self._begun:  # no sound, no noise
            self._held = ready + self._held
            if last:
                self._closed = "nothing to say"
            return
        words = WORD.split(ready) if ready else []
        own = [self._speaker.tokenizer.encode(word, literal=True) for word in words]
        ids = [one for word in own for one in word]
        if not (ids or last) or self.done or self._over:  # one that is over hears no more
            return
        if self._stream.fits(len(ids) + 1):  # there stays room for the end
            self._stream.push(ids, last=last)
            for word, read in zip(words, own, strict=True):
                self._tokens += len(read)
                self._pieces.append((self._tokens, word))
        elif self._tokens and self._stream.fits(1):
            self._over = True  # what was pushed before is still spoken
            self._stream.push([], last=True)
        else:  # of the end alone, noise would be made
            self._closed = "length"

    def packets(self) -> Iterator[Float[np.ndarray, "_"]]:
        """The samples that can be said now, packet by packet, until text is needed or the end."""
        while not self.done and not self._stream.waiting[0]:
            frames = self._stream.step()[0]
            if not len(frames):
                continue
            self.codes.append(frames)
            self.read.append(self._stream.read[0])
            self._decoder, samples = stream_decode(
                self._speaker.codec, self._speaker._codec_params, self._decoder, frames[None]
            )
            yield samples[0]

    @property
    def done(self) -> bool:
        return self._closed is not None or self._stream.done[0]

    @property
    def reason(self) -> str | None:
        """Why it ended: "stop", "length", "nothing to say"; None: it goes on."""
        reason = self._closed or self._stream.reasons[0]
        return "length" if reason and self._over else reason

    @property
    def cut(self) -> bool:
        """Whether ``max_len`` ended it, and not the end of its text and what is said of that."""
        return self._over or self._closed == "length" or self._stream.cut[0]

    @property
    def said(self) -> str:
        """The words that have been spoken: all at the end, before it as many as fit the pace.

        Where a word ends in the sound is known to nobody: the Talker has no alignment.
        """
        return self._words(self._frames)

    def said_by(self, seconds: float | int) -> str:
        """Those of `said` that so many seconds hold, from the beginning of the sound."""
        return self._words(int(min(seconds / self._frame_seconds + 1e-6, self._frames)))

    @property
    def seconds(self) -> float:
        """Of the sound in all packets so far."""
        return self._frames * self._frame_seconds

    @property
    def _frames(self) -> int:
        return sum(map(len, self.codes))

    @property
    def _frame_seconds(self) -> float:
        return self._speaker.codec.config.samples_per_frame / self._speaker.sample_rate

    def _words(self, frames: int) -> str:
        tokens, read = frames / self._pace, self._stream.read[0]
        if frames < self._frames:  # what had been read by the packet of the last frame
            read = self.read[int(np.searchsorted(np.cumsum([*map(len, self.codes)]), frames))]
        elif self.reason == "stop":
            tokens = self._tokens
        return "".join(piece for end, piece in self._pieces if end <= min(tokens, read))
