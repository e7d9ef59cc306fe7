"""A conversation: streams in, typed events out, the model's cache kept from turn to turn.

session = Session(generator, tokenizer, processor)
session.push(image="picture.png", audio="question.wav")
for event in session.respond():
    ...  # TextDelta, ToolCall, TurnEnd; with a speaker AudioChunk as well
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from omnijax.errors import UserError
from omnijax.generate.events import (
    AnswerReader,
    AudioChunk,
    Event,
    TextDelta,
    ToolCall,
    TurnEnd,
    split_answer,
)
from omnijax.generate.prompts import collate_prompts
from omnijax.generate.speaker import Speaker, Speech
from omnijax.generate.text import DecodeState, TextGenerator
from omnijax.media import ProcessorConfig, open_audio, open_image, open_video
from omnijax.models.talker.context import Context, context_of
from omnijax.models.talker.prompt import Voice
from omnijax.models.thinker.inputs import ThinkerInputs, check_media
from omnijax.text.chat import ChatState, ChatStyle, Rendered, render_turn
from omnijax.text.content import pieces_of, read_audio, read_image, read_video
from omnijax.text.tokenizer import Tokenizer
from omnijax.text.tools import ToolCall as Call
from omnijax.typing import Float

__all__ = ["AudioChunk", "Event", "Session", "TextDelta", "ToolCall", "TurnEnd"]


class Session:
    """One conversation with a Thinker.

    ``messages`` is what the model has read and said so far, ``unread`` what was pushed since: both
    in the chat format.

    Args:
      generator: holds the model; its ``max_len`` is the longest conversation.
      tools: definitions that the model may call.
      system: a system message.
      style: how the template is written; past turns are never rewritten, so one that thinks has
        to keep its thoughts (``keep_thinking``), or it is refused here.
      speaker: answers are spoken as well, as they are written; tool calls and thoughts never are.
        Where its config says ``context``, it reads the user's turn first, as the Thinker did.
      voice: who speaks; None: the speaker's first stored voice. language: its name, where known.

    ``speech`` is the last answer's: its codes, and what of the text they say.
    """

    def __init__(
        self,
        generator: TextGenerator,
        tokenizer: Tokenizer,
        processor: ProcessorConfig,
        *,
        tools: Sequence[dict] = (),
        system: str | None = None,
        style: ChatStyle | None = None,
        speaker: Speaker | None = None,
        voice: Voice | None = None,
        language: str | None = None,
        seed: int = 0,
    ):
        self._style = style or ChatStyle()
        self._style.check_continues()
        check_media(generator.model.config, processor)
        self.messages: list[dict] = [{"role": "system", "content": system}] if system else []
        self._generator, self._tokenizer, self._processor = generator, tokenizer, processor
        self._tools = list(tools)
        self._rows, self._seed = generator.start(1, seed), seed
        self._past: list[ThinkerInputs] = []  # all that the rows have read before the last answer
        self._chat = ChatState()
        self.unread: list[dict] = []
        self._reply: list[int] | None = None  # tokens of the answer that may still grow
        self._last_push = time.monotonic()
        self._speaker, self._language = speaker, language
        self._voice = speaker.voice() if speaker is not None and voice is None else voice
        self.speech: Speech | None = None
        self._before: Any = None  # the rows before the answer, to go back to if it is interrupted
        self._over = False  # whether the last answer was said to its end
        self._called = False  # whether a call of it was handed out
        self._listens = speaker is not None and speaker.generator.config.context
        if self._listens and generator.mark != speaker.thinker.mark:
            raise UserError(
                f"the voice has learned to read the stream of Thinker {speaker.thinker.mark}, this "
                f"one is {generator.mark}: with speech.context false in its config it reads none"
            )

    def push(
        self,
        *items: dict,
        text=None,
        image=None,
        audio=None,
        video=None,
        tool_result=None,
        heard: float | int | None = None,
    ) -> None:
        """Add to the user's turn; media as paths or arrays, in the order image, video, audio, text.

        ``items`` are content items of the chat format, in an order of your own. An answer that is
        still running ends here. Of one that was being spoken, what had been said stays in the
        conversation, and only that.

        ``heard``: seconds of the last answer's sound that have been played. Sound is made far
        faster than it lasts, so who queues it to a sound device tells by this what had been said,
        after the answer's `TurnEnd` too. None: all that was handed out; after the `TurnEnd` all of
        the answer. To the first push behind an answer only.

        Raises:
          UserError: a file cannot be read or a medium not be shown to the model, say, or all that
            is given is blank; the conversation is as it was.
        """
        named = (("image", image), ("video", video), ("audio", audio), ("text", text or None))
        given = [{"type": kind, kind: value} for kind, value in named if value is not None]
        # Blank text is no text: the template strips it.
        given = [*items, *given] if pieces_of([*items, *given], "user") else []
        if not given and tool_result is None:
            raise UserError("nothing was pushed: give text, image, audio, video or tool_result")
        content = [self._opened(item) for item in given]
        if heard is not None and (self._speaker is None or not 0 <= heard < math.inf):
            who = "nobody speaks" if self._speaker is None else "it must be seconds, from 0 on"
            raise UserError(f"heard is {heard}: {who}")
        # Results stand before what the user says, one for each call.
        if tool_result is not None:
            if len(self.unread) - self._asked >= self._open_calls:
                raise UserError("no tool call waits for a result")
            if self._asked:
                raise UserError(
                    "a tool's result comes before what the user says, and that was pushed: drop() "
                    "takes it back, with the results pushed before it"
                )
        # From here nothing is refused.
        if self._reply is not None:
            self._end_reply(heard)
        if tool_result is not None:
            self.unread.append({"role": "tool", "content": str(tool_result)})
        if content and self._asked:
            self.unread[-1]["content"] += content
        elif content:
            self.unread.append({"role": "user", "content": content})
        self._last_push = time.monotonic()

    def respond(self, max_new_tokens: int = 256) -> Iterator[Event]:
        """Read what was pushed and answer it, as it is produced.

        Who stops listening in the middle loses nothing: the conversation goes on after what was
        produced until then, or where the answer is spoken, after what was said. So it does after an
        interrupt (Ctrl-C); one before the answer begins leaves the turn unread.

        Raises:
          UserError: nothing was pushed, or it does not fit; then `drop` takes it back.
        """
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens}, it must be at least 1")
        if not self.unread:
            raise UserError("there is nothing to answer: push something first")
        begins = self._chat.messages == 0
        rendered, chat = render_turn(
            self.messages + self.unread if begins else self.unread,
            self._tokenizer,
            self._processor,
            self._chat,
            tools=self._tools if begins else None,
            style=self._style,
        )
        self._rows = self._whole(self._rows)
        room = self._generator.max_len - int(self._rows.cache.length[0])
        if len(rendered.tokens) + max_new_tokens > room:
            raise UserError(
                f"the turn does not fit: {len(rendered.tokens)} tokens and an answer of up to "
                f"{max_new_tokens}, the conversation has room for {room}"
            )
        inputs = collate_prompts([rendered], self._processor)
        heard, speech, before = None, None, None
        if self._speaker is not None:  # before anything is read: it may be refused
            turn = self._heard(rendered, None)
            self._speaker.prompt(self._voice, language=self._language, context=turn)
        if self._listens:
            layer = self._speaker.talker.config.accept_hidden_layer
            rows, stream = self._generator.read(self._rows, inputs, layer)
            stream = np.asarray(stream[0], np.float32)[: len(rendered.tokens)]
            heard = self._heard(rendered, stream)
        else:
            rows = self._generator.prefill(self._rows, inputs)
        if self._speaker is not None:
            speech = self._speaker.start(
                self._voice, language=self._language, context=heard, seed=self._seed
            )
            before = jax.tree.map(jnp.copy, rows)  # decoding takes the rows' buffers
        messages = [*self.unread, {"role": "assistant", "content": ""}]
        # Together, with no call between: who interrupts (Ctrl-C) leaves all of it done or nothing.
        self._rows, self._before, self._chat, self.speech = rows, before, chat, speech
        self._past += [inputs]
        self.messages += messages
        self.unread, self._reply, self._over, self._called = [], [], False, False
        return self._stream(self._reply, max_new_tokens)

    def _heard(self, rendered: Rendered, stream: Float[np.ndarray, "T H"] | None) -> Context | None:
        """What the Talker reads of the user's turn; without the stream, as long as it will be."""
        if not self._listens:
            return None
        if stream is None:
            shape = len(rendered.tokens), self._speaker.talker.config.thinker_width
            stream = np.broadcast_to(np.float32(0), shape)
        media = self._generator.model.config.media_ids
        return context_of(self._tokenizer, media, rendered.tokens, rendered.positions, stream)

    def drop(self) -> None:
        """Take back what was pushed since the last answer."""
        self.unread = []

    @property
    def _open_calls(self) -> int:
        """Calls that wait for a result, those of an answer that may still grow included."""
        if self._reply is None:
            return self._chat.open_calls
        if self._before is not None and not self._called:  # it will be cut
            return 0
        return len(self.messages[-1].get("tool_calls", ()))

    @property
    def _asked(self) -> bool:
        return bool(self.unread) and self.unread[-1]["role"] == "user"

    def _opened(self, item: Mapping) -> Mapping:
        """The item with its file read and its medium as the processor takes it."""
        for piece in pieces_of([item], "user"):
            if isinstance(piece, str):
                continue
            processor = self._processor
            if piece.kind == "image":
                value = open_image(read_image(piece), processor)
            elif piece.kind == "audio":
                value = open_audio(read_audio(piece.value), processor)
            else:
                video = read_video(piece.value, processor, piece.options.get("fps"))
                value = open_video(video, processor, self._style.sound_of_video)
            return {**piece.options, "type": piece.kind, piece.kind: value}
        return item

    def _stream(self, reply: list[int], budget: int) -> Iterator[Event]:
        stops = self._generator.stop_ids
        thinking = self._style.thinking == "on"
        reader = AnswerReader(self._tools, thinking=thinking)
        reason = None
        while reason is None:
            if self._reply is not reply:  # Something was pushed: this answer is over.
                return
            steps = min(self._generator.block, budget - len(reply))
            rows, (new,) = self._generator.decode(self._rows, steps)
            text = self._tokenizer.decode(reply + new, skip_special=True)
            if new[-1] in stops:
                reason = "stop"
            elif len(reply) + len(new) >= budget:
                reason = "length"
            parts = split_answer(text, self._tools, thinking=thinking, last=reason is not None)
            message = _as_message(*parts)
            self._rows, self.messages[-1] = rows, message  # together, as in `respond`
            reply += new
            for found in reader.read(text, last=reason is not None):
                if isinstance(found, str):
                    yield TextDelta(found, self._since())
                    if self._reply is reply and self.speech is not None:
                        self.speech.push(found)
                else:
                    self._called |= self._reply is reply
                    yield ToolCall(found.name, found.arguments, self._since())
            if self.speech is not None and self._reply is reply:
                if reason is not None:
                    self.speech.push("", last=True)
                for samples in self.speech.packets():
                    yield AudioChunk(samples, self._speaker.sample_rate, self._since())
                    if self._reply is not reply:
                        return
        if self._reply is not reply:
            return
        self._over = True
        spoken = self.speech.reason if self.speech is not None else None
        yield TurnEnd(reason, text, len(reply), self._since(), spoken)

    def _end_reply(self, heard: float | int | None) -> None:
        """The answer ends as it is; the chat has the calls that its message has."""
        rows, reply, message = self._kept(heard)
        read = [self._at_reply(reply)] if reply else []
        chat = self._chat.after_reply(reply, self._tokenizer)
        chat = chat._replace(open_calls=len(message.get("tool_calls", ())))
        self._rows, self._before, self._chat, self._reply = rows, None, chat, None
        self._past += read
        self.messages[-1] = message

    def _kept(self, heard: float | int | None) -> tuple[DecodeState, list[int], dict]:
        """The rows, tokens and message of the answer if it ended now, with so much of it heard.

        One that is interrupted while it is spoken ends where its speech has got to. The recurrent
        state cannot be taken back, so the Thinker goes back to where the answer began and reads
        what was said of it, behind its thought. An answer of which a call was handed out stays
        whole, and so does one that is still being thought.
        """
        whole = self._rows, self._reply, self.messages[-1]
        if self._before is None or self._called:
            return whole
        if self._over and (heard is None or heard >= self.speech.seconds):
            return whole
        said = self.speech.said if heard is None else self.speech.said_by(heard)
        said, thought, tokens = said.strip(), "", []
        if self._style.thinking == "on":
            written = self._tokenizer.decode(self._reply, skip_special=True)
            thought, closing, _ = written.partition("</think>")
            if not closing:
                return whole
            thought += closing + "\n\n" * bool(said)
            tokens = self._tokenizer.encode(thought)
        tokens += self._tokenizer.encode(said, literal=True) if said else []
        rows = self._whole(self._before)
        if tokens:
            rows = self._generator.prefill(rows, self._at_reply(tokens))
        return rows, tokens, {"role": "assistant", "content": thought + said}

    def _at_reply(self, tokens: Sequence[int]) -> ThinkerInputs:
        """An answer's tokens in their places."""
        ids = np.asarray([tokens], np.int32)
        places = int(self._chat.positions.next) + np.arange(len(tokens), dtype=np.int32)
        return ThinkerInputs(ids, np.broadcast_to(places, (3, *ids.shape)), np.ones_like(ids))

    def _whole(self, rows: DecodeState) -> DecodeState:
        """The rows; once more from what they had read, where an interrupt has lost their buffers.

        A call that is interrupted has taken them and gives nothing back.
        """
        if not any(leaf.is_deleted() for leaf in jax.tree.leaves(rows)):
            return rows
        rows = self._generator.start(1, self._seed)
        for inputs in self._past:
            rows = self._generator.prefill(rows, inputs)
        return rows

    def _since(self) -> float:
        return time.monotonic() - self._last_push


def _as_message(text: str, calls: Sequence[Call]) -> dict:
    if not calls:
        return {"role": "assistant", "content": text}
    functions = [{"type": "function", "function": call._asdict()} for call in calls]
    return {"role": "assistant", "content": text, "tool_calls": functions}
