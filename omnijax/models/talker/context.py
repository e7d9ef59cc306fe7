"""What the Thinker has read of the user's turn, as a Talker reads it.

Text by its tokens, media by the Thinker's stream at their places. [REFERENCE section 5] Which turns
is our choice: what the user has said since the last answer [C]; Qwen3-Omni's Talker reads all of
the user's turns.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from omnijax.errors import UserError
from omnijax.text.tokenizer import Tokenizer
from omnijax.typing import Bool, Float, Int


class Context(NamedTuple):
    """What the Thinker has read of the conversation, with its stream at media positions."""

    tokens: Int[np.ndarray, "T"]
    media: Bool[np.ndarray, "T"]
    hidden: Float[np.ndarray, "S H"]  # one for each media position, in order
    positions: Int[np.ndarray, "T 3"] | None = None  # the Thinker's; None: all of it is text


def users_turn(tokenizer: Tokenizer, tokens: Int[np.ndarray, "T"]) -> slice:
    """Where a rendered prompt has what the user said since the last answer, tools' results too.

    Raises:
      UserError: the prompt does not end with a user's turn and the mark at which an answer begins.
    """
    mark = tokenizer.special("im_start")

    def opens(start: int, role: str) -> bool:
        name = tokenizer.encode_literal(role)
        return tokens[start + 1 : start + 1 + len(name)].tolist() == name

    *starts, answer = np.flatnonzero(tokens == mark).tolist() or [0]
    begin = answer
    for start in reversed(starts):
        if not opens(start, "user"):
            break
        begin = start
    if begin == answer or not opens(answer, "assistant"):
        raise UserError("the prompt has no turn of the user right before an answer begins")
    return slice(begin, answer)


def context_of(
    tokenizer: Tokenizer,
    media_ids: Collection[int],
    tokens: Int[np.ndarray, "T"],
    positions: Int[np.ndarray, "T 3"] | Float[np.ndarray, "T 3"],
    stream: Float[np.ndarray, "T H"],
) -> Context:
    """The user's turn of a rendered prompt.

    Args:
      media_ids: the placeholder tokens of the Thinker's media.
      stream: the Thinker's, after the layer that the Talker accepts, at every token.

    Raises:
      UserError: as `users_turn`; positions between whole numbers, which a Talker has not.
    """
    if not np.array_equal(positions, np.rint(positions)):
        raise UserError(
            "the prompt has positions between whole numbers (Qwen3-Omni's timing of video), a "
            "Talker's are whole"
        )
    turn = users_turn(tokenizer, tokens)
    media = np.isin(tokens[turn], [*media_ids])
    return Context(tokens[turn], media, stream[turn][media], positions[turn].astype(np.int32))
