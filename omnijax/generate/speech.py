"""Speech from a Talker: text goes in as it comes, codec frames come out, a batch of rows at once.

    stream = generator.start([prompt])
    stream.push(ids)                      # as the text grows; last=True with its end
    while not stream.done[0]:
        frames = stream.step()[0]         # [r, Q]; empty while the row waits for text

What comes next in a row, text or speech, is a policy's to say. "chunked": so many text tokens, so
many frames, in turn. "learned": the Talker asks for each text token. Either way speech begins
after text, a row whose text is late waits, and it cannot end while text remains; after the last
text token it speaks until its end. Nothing is spoken that was not read: `SpeechStream.read`.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.errors import UserError
from omnijax.generate import speech_programs as programs
from omnijax.generate.sampling import SamplingConfig
from omnijax.models.talker import Talker
from omnijax.models.talker.prompt import Ids, TalkerRow, check_text, collate_talker, spoken_text
from omnijax.nn.cache import init_cache
from omnijax.typing import Int, PyTree

POLICIES = ("chunked", "learned")
ENDLESS = np.iinfo(np.int32).max
PACE = 2.5  # frames a text token, where nothing better is known


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """How speech is made; the sampling is the described system's [REFERENCE section 5].

    text_chunk, frame_chunk: text tokens and frames in turn, of the policy "chunked". Frames in a
      turn are spoken whether or not the text read so far has so much to say.
    lead: with the policy "chunked", text tokens that may still be unsaid, by the row's pace, when a
      chunk is read: before it, frames are spoken beyond ``frame_chunk``. 0: any number, and the
      longer the answer, the further the text runs ahead. A pace is a mean: over a long answer a
      slower row's text runs ahead after all, and a quicker one speaks without any, from about
      lead / (1 - its own pace / the given one) tokens on. The form "dual_track" has none.
    packet: frames that are given out at once, at most; it changes nothing of what is said.
    text_prefix: text tokens that are read before the first frame, where the text has so many; by
    default a ``text_chunk``, or what the Talker asks for.
    longest_token: frames a text token; a row that speaks more once its text is over has run away,
    and ends with the reason "length"; one that asks for no more text before reads on unasked. The
    slowest utterance of OmniWorld has 7.
    context: in a conversation the Talker reads the user's turn too, media by the Thinker's stream:
    for one that was trained so.
    guidance: how far a voice that is only shown moves what is said: all logits, those of the end
    too, are those of no voice and so many times the difference (classifier-free guidance,
    2207.12598). Where it is not 1, a batch with such a voice has each row twice. For a Talker that
    was trained without a voice at times (``anonymous``).
    """

    policy: str = "chunked"
    text_chunk: int = 4
    frame_chunk: int = 4
    lead: int = 0
    packet: int = 4
    text_prefix: int = 0
    longest_token: int = 12
    context: bool = False
    guidance: float = 1.0
    sampling: SamplingConfig = SamplingConfig(temperature=0.9, top_k=50, repetition_penalty=1.05)
    residual_sampling: SamplingConfig = SamplingConfig(temperature=0.9, top_k=50)

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise UserError(f"policy is {self.policy!r}, it must be one of {POLICIES}")
        for name in ("text_chunk", "frame_chunk", "packet", "longest_token"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, it must be at least 1")
        for name in ("text_prefix", "lead"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}, it must not be negative")
        if not 0 <= self.guidance < math.inf:
            raise UserError(f"guidance is {self.guidance}, it must be a number from 0 on")
        if self.residual_sampling.repetition_penalty != 1.0:
            raise UserError(
                f"residual_sampling.repetition_penalty is "
                f"{self.residual_sampling.repetition_penalty}, it must be 1: a residual code says "
                "nothing of the frame before"
            )


class SpeechGenerator:
    """The compiled programs of one Talker.

    Args:
      model, params: a Talker and its parameters.
      max_len: positions a row can hold: prompt, text and frames.
      prefill_chunk: prompts are read in pieces of this many positions.
    """

    def __init__(
        self,
        model: Talker,
        params: PyTree,
        config: SpeechConfig | None = None,
        *,
        max_len: int = 1024,
        prefill_chunk: int = 64,
    ):
        for name, value in (("max_len", max_len), ("prefill_chunk", prefill_chunk)):
            if value < 1:
                raise UserError(f"{name} is {value}, it must be at least 1")
        self.model, self.params, self.config = model, params, config or SpeechConfig()
        self.max_len, self.prefill_chunk = max_len, prefill_chunk

    def start(
        self,
        prompts: Sequence[TalkerRow],
        *,
        seed: int = 0,
        max_frames: int = ENDLESS,
        paces: Sequence[float] | None = None,
        unshown: Sequence[TalkerRow] | None = None,
    ) -> "SpeechStream":
        """Read the prompts, one a row, each its own length.

        Args:
          prompts: as `prompt_row` gives them; of the dual-track form `dual_track_row` without
            frames, which has the first text token.
          max_frames: a row ends with so many, reason "length".
          paces: frames that a text token takes in each row, for the config's ``lead``; by
            default PACE.
          unshown: for the config's ``guidance``, what each row would read without its voice; its
            own prompt, where it is not to be guided. None: no row is.

        Raises:
          UserError: a prompt leaves no room to speak in ``max_len``; a pace is missing or not
            positive; ``unshown`` has not one prompt for each.
        """
        paces = [PACE] * len(prompts) if paces is None else paces
        if len(paces) != len(prompts) or not all(0 < pace < math.inf for pace in paces):
            raise UserError(
                f"paces is {[*paces]}, it must have a positive number for each of {len(prompts)} "
                "prompts"
            )
        if unshown is not None and len(unshown) != len(prompts):
            raise UserError(
                f"there are {len(unshown)} prompts without a voice, there must be {len(prompts)}"
            )
        rows = len(prompts)
        if unshown is not None and self.config.guidance != 1:
            prompts = [*prompts, *unshown]
        self.check(prompts)
        talker, size = self.model.config, self.prefill_chunk
        longest = max(len(prompt.tokens) for prompt in prompts)
        inputs = collate_talker(
            talker,
            [[prompt] for prompt in prompts],
            max_tokens=-(-longest // size) * size,
            max_hidden=-(-max(len(prompt.hidden) for prompt in prompts) // size) * size,
        ).inputs
        batch, width = len(prompts), talker.decoder.width
        state = programs.SpeechState(
            cache=init_cache(talker.decoder, batch, self.max_len),
            hidden=jnp.zeros((batch, width), talker.decoder.dtype),
            position=jnp.zeros((batch,), jnp.int32),
            seen=jnp.zeros((rows, talker.codec_vocab_size), bool),
            key=jax.random.key(seed),
        )
        embedded = programs.embed(self.model, self.params, jax.tree.map(jnp.asarray, inputs))
        for begin in range(0, inputs.tokens.shape[1], size):
            piece = slice(begin, begin + size)
            positions, segments = inputs.positions[:, :, piece], inputs.segment_ids[:, piece]
            state = programs.read(
                self.model, self.params, state, embedded[:, piece],
                jnp.asarray(positions), jnp.asarray(segments),
            )  # fmt: skip
        lengths = np.array([len(prompt.tokens) for prompt in prompts]).reshape(-1, rows).max(0)
        return SpeechStream(self, state, lengths.tolist(), max_frames, paces)

    def check(self, prompts: Sequence[TalkerRow]) -> None:
        """Raises UserError where a prompt leaves no room in ``max_len`` to read and speak."""
        longest, config = max(len(prompt.tokens) for prompt in prompts), self.config
        chunk = config.text_chunk + config.frame_chunk if config.policy == "chunked" else 2
        chunk = 1 if self.model.config.form == "dual_track" else chunk  # its text is beside
        if longest + chunk > self.max_len:
            raise UserError(
                f"the Talker's prompt (voice, user's turn where it reads that) has {longest} "
                f"positions and a first chunk of text and frames {chunk}, the limit (max_len) is "
                f"{self.max_len}"
            )

    def __call__(
        self,
        prompts: Sequence[TalkerRow],
        texts: Sequence[Ids],
        *,
        seed: int = 0,
        max_frames: int = ENDLESS,
        paces: Sequence[float] | None = None,
        unshown: Sequence[TalkerRow] | None = None,
        whole: bool = True,
    ) -> list[Int[np.ndarray, "R Q"]]:
        """The frames of each text, all of it there from the start; arguments as for `start`.

        whole: a row that ``max_len`` cuts is an error; else its frames until then are given.

        Raises:
          UserError: as `start`; a text does not fit beside its prompt, or the speech of it.
        """
        stream = self.start(prompts, seed=seed, max_frames=max_frames, paces=paces, unshown=unshown)
        for row, text in enumerate(texts):
            stream.push(text, row=row, last=True)
        rows: list[list[np.ndarray]] = [[] for _ in texts]
        while True:
            for row, frames in zip(rows, stream.step(), strict=True):
                row.append(frames)
            if whole and any(stream.cut):  # before more is computed for nothing
                raise UserError(stream.why_cut())
            if all(stream.done):
                return [np.concatenate(row) for row in rows]


@dataclasses.dataclass
class _Row:
    """The host's side of a row."""

    length: int  # positions in the cache; under guidance of the longer of its two rows
    pace: float  # frames a text token
    text: deque  # ids that wait to be read
    closed: bool = False  # no more text will come
    owed: int = 0  # frames until text is due
    read: int = 0
    frames: int = 0
    before_end: int = 0  # frames that were spoken before the last text token was read
    reason: str | None = None  # why it ended: "stop" by the Talker, "length" by a limit
    cut: bool = False  # by that of positions

    @property
    def text_over(self) -> bool:
        return self.closed and not self.text


class SpeechStream:
    """Rows that speak while their texts arrive. ``state`` belongs to the stream."""

    def __init__(
        self,
        generator: SpeechGenerator,
        state: programs.SpeechState,
        lengths: list[int],
        max_frames: int,
        paces: Sequence[float],
    ):
        self.state = state
        self._generator, self._max_frames = generator, max_frames
        self._rows = [
            _Row(length, pace, deque()) for length, pace in zip(lengths, paces, strict=True)
        ]
        self._dual = generator.model.config.form == "dual_track"

    def push(self, text: Ids, *, row: int = 0, last: bool = False) -> None:
        """More of a row's text; with ``last`` its end, which the Talker is told.

        Raises:
          UserError: the text has ended before, an id is out of range, or it does not fit.
        """
        config, own = self._generator.model.config, self._rows[row]
        if own.closed:
            raise UserError(f"the text of row {row} has ended, nothing can follow it")
        ids = check_text(config, np.asarray(text, np.int32).reshape(-1)).tolist()
        ids = spoken_text(config, ids) if last else ids
        if not self.fits(len(ids), row=row):
            raise UserError(
                f"the text of row {row} does not fit: {self._positions(own, len(ids))} positions "
                f"with its prompt, the limit (max_len) is {self._generator.max_len}"
            )
        own.text.extend(ids)
        own.closed = last

    def fits(self, count: int, *, row: int = 0) -> bool:
        """Whether so many more ids can be pushed."""
        return self._positions(self._rows[row], count) <= self._generator.max_len

    def _positions(self, row: _Row, count: int) -> int:
        return row.length + (0 if self._dual else len(row.text) + count)

    @property
    def done(self) -> list[bool]:
        return [row.reason is not None for row in self._rows]

    @property
    def reasons(self) -> list[str | None]:
        """Why each row ended: "stop" by the Talker, "length" by a limit; None: it goes on."""
        return [row.reason for row in self._rows]

    @property
    def cut(self) -> list[bool]:
        """Rows that ended for want of a position, in the middle of their text or speech."""
        return [row.cut for row in self._rows]

    def why_cut(self) -> str:
        """What an error says of the rows that were cut."""
        rows = [row for row, cut in enumerate(self.cut) if cut]
        positions = [self._rows[row].length for row in rows]
        unread = [len(self._rows[row].text) for row in rows]
        return (
            f"the speech of row {_listed(rows)} does not fit: it goes on after "
            f"{_listed(positions)} positions, {_listed(unread)} text tokens unread; the limit "
            f"(max_len) is {self._generator.max_len}"
        )

    @property
    def waiting(self) -> list[bool]:
        """Rows that can only go on when more of their text comes."""
        return [row.reason is None and not row.owed and not self._due(row) for row in self._rows]

    @property
    def read(self) -> list[int]:
        """Text tokens of each row that were read, the mark of its end included."""
        return [row.read for row in self._rows]

    def step(self, frames: int | None = None) -> list[Int[np.ndarray, "R Q"]]:
        """The next frames of each row: up to ``frames``, at most (and by default) a packet.

        Returns as soon as a row has spoken, or when none can go on.
        """
        packet = self._generator.config.packet
        if frames is not None and not 1 <= frames <= packet:
            raise UserError(f"frames is {frames}, it must be 1 to packet, {packet}")
        while True:
            moved = self._read_text()
            budget = self._budgets(frames or packet)
            if not budget.any():
                if moved:
                    continue
                return [self._none() for _ in self._rows]
            spoken = self._speak(budget)
            if any(map(len, spoken)) or all(self.done):
                return spoken

    @property
    def _text_size(self) -> int:
        """Text tokens that are read at a time, at most."""
        config = self._generator.config
        return config.text_chunk if config.policy == "chunked" else 1

    def _none(self) -> np.ndarray:
        return np.zeros((0, self._generator.model.config.codebooks), np.int32)

    def _due(self, row: _Row) -> int:
        """Text tokens that the row reads now."""
        if row.reason is not None or row.owed or self._dual:
            return len(row.text) if self._dual and row.reason is None else 0
        size = self._text_size
        return min(size, len(row.text)) if row.closed or len(row.text) >= size else 0

    def _read_text(self) -> bool:
        """Text into the rows that are due some; whether there were any."""
        generator, config = self._generator, self._generator.config
        if self._dual:  # Text is read beside the frames.
            for row in self._rows:
                row.owed = ENDLESS if row.closed else len(row.text)
            return False
        due = [self._due(row) for row in self._rows]
        for i, row in enumerate(self._rows):
            if due[i] and row.length + due[i] > generator.max_len:
                row.reason, row.cut, due[i] = "length", True, 0
        if not any(due):
            return False
        size = self._text_size
        tokens = np.zeros((len(due), size), np.int32)
        for row, own, count in zip(self._rows, tokens, due, strict=True):
            if count:
                own[:count] = [row.text.popleft() for _ in range(count)]
                row.length, row.read = row.length + count, row.read + count
                row.before_end = row.frames
                row.owed = ENDLESS if row.text_over else self._turn(row, count)
                if row.read < config.text_prefix and not row.text_over:
                    row.owed = 0
        valid = jnp.asarray(np.arange(size) < np.array(due)[:, None])
        self.state = programs.read_tokens(
            generator.model, generator.params, self.state, jnp.asarray(tokens), valid
        )
        return True

    def _turn(self, row: _Row, count: int) -> int:
        """Frames at most before the next text is read, ``count`` tokens having been."""
        config = self._generator.config
        if config.policy == "learned":
            return config.longest_token * count
        said = row.pace * (row.read - config.lead) if config.lead else 0
        return max(config.frame_chunk, math.ceil(said) - row.frames)

    def _budgets(self, most: int) -> np.ndarray:
        budgets = np.zeros(len(self._rows), np.int32)
        for i, row in enumerate(self._rows):
            if row.reason is None and row.owed and self._room(row) < 1:
                self._end(row)
            if row.reason is None:
                budgets[i] = min(most, row.owed, self._room(row))
        return budgets

    def _room(self, row: _Row) -> int:
        """Frames that the row may still speak."""
        frames = self._max_frames - row.frames
        if row.text_over:
            longest = self._generator.config.longest_token * row.read
            frames = min(frames, longest - (row.frames - row.before_end))
        return min(self._generator.max_len - row.length, frames)

    def _end(self, row: _Row) -> None:
        """A limit has been met: of positions, or of frames."""
        row.reason, row.cut = "length", row.length >= self._generator.max_len

    def _speak(self, budget: np.ndarray) -> list[np.ndarray]:
        generator, config = self._generator, self._generator.config
        over = np.array([row.text_over for row in self._rows])
        asks = ~over & (config.policy == "learned") & (not self._dual)
        beside = np.full((len(self._rows), config.packet), -1, np.int32)
        if self._dual:
            beside[:] = generator.model.config.tts_pad_id
            for i, row in enumerate(self._rows):
                for j, token in zip(range(budget[i]), row.text, strict=False):
                    beside[i, j] = token
        self.state, codes, ended, asked = programs.speak_block(
            generator.model, config.sampling, config.residual_sampling, generator.params,
            self.state, jnp.asarray(budget), jnp.asarray(over | self._dual), jnp.asarray(asks),
            jnp.asarray(beside), jnp.float32(config.guidance),
        )  # fmt: skip
        out = []
        for i, row in enumerate(self._rows):
            own = np.asarray(codes[i])
            own = own[own[:, 0] >= 0]
            out.append(own)
            row.length, row.frames = row.length + len(own), row.frames + len(own)
            if row.owed != ENDLESS:
                row.owed -= len(own)
            if self._dual:
                for _ in range(min(len(own), len(row.text))):
                    row.text.popleft()
                    row.read += 1
            if ended[i]:
                row.reason = "stop"
            elif len(own) and self._room(row) < 1:
                self._end(row)
            elif asked[i]:
                row.owed = 0
        return out


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
