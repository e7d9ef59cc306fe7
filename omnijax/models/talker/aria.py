"""ARIA: text and speech of an answer in one stream, without alignment and without a fixed rate.

A schedule is a boolean array over an item's T text tokens and S frames, True for speech. It is
legal if in no prefix the speech runs ahead of the item's own ratio: s T <= S t [paper, section on
ARIA]. So speech starts after text, any lead of the text is legal, and after the last text token
the rest is free. A frame of all codebooks is one speech token. On the host, in integers.
"""

from typing import NamedTuple

import numpy as np

from omnijax.typing import Bool, Int

Schedule = Bool[np.ndarray, "N"]
Seed = int | np.random.Generator

# What a position of a stream has to predict.
NOTHING, FRAME, END, ASK = range(4)


class Stream(NamedTuple):
    """What the Talker reads at N + 1 positions, and what it predicts at each.

    Position 0 reads the mark that begins speech, position i the schedule's element i - 1; position
    i predicts element i, the last one the end. -1 stands where a position reads no such thing.
    """

    tokens: Int[np.ndarray, "T"]  # text ids
    codes: Int[np.ndarray, "T Q"]  # of a frame; a mark of the codec table alone in column 0
    targets: Int[np.ndarray, "T Q"]  # codes; of an end or a request column 0 only, others 0
    kinds: Int[np.ndarray, "T"]  # NOTHING, FRAME, END or ASK


def is_legal(schedule: Schedule) -> bool:
    """Whether s T <= S t in every prefix."""
    speech = np.cumsum(schedule, dtype=np.int64)
    text = np.arange(1, len(schedule) + 1) - speech
    if not len(schedule):
        return True
    return bool((speech * text[-1] <= speech[-1] * text).all())


def earliest(text: int, speech: int, lead: int = 0) -> Schedule:
    """Every frame as soon as it may come, or behind ``lead`` more text tokens than it needs.

    So the text keeps the item's own pace, however long the item.
    """
    _check(text, speech)
    if lead < 0:
        raise ValueError(f"lead is {lead}, it must not be negative")
    k = np.arange(1, speech + 1, dtype=np.int64)
    # Text tokens that frame k waits for.
    before = np.minimum(-(-k * text // max(speech, 1)) + lead, text)
    schedule = np.zeros(text + speech, bool)
    schedule[before + k - 1] = True
    return schedule


def random(key: Seed, text: int, speech: int) -> Schedule:
    """Any legal schedule, with leads from none to the whole text.

    A schedule's eagerness p is uniform in (0, 1); where both may come next, speech does with
    probability p. The paper gives no distribution: this one is our choice [C].
    """
    _check(text, speech)
    rng = np.random.default_rng(key)
    coins = rng.random(text + speech) < rng.random()
    schedule = np.zeros(text + speech, bool)
    t = s = 0
    for i, heads in enumerate(coins):
        may_speak = s < speech and (s + 1) * text <= speech * t
        schedule[i] = t == text or (may_speak and heads)
        s, t = s + schedule[i], t + (not schedule[i])
    return schedule


def chunked(text: int, speech: int, n: int = 4, m: int = 4) -> Schedule:
    """n text tokens, m frames, in turn; after the last text token the rest.

    Of the m only as many as are legal: an item with less than m / n frames a text token, whose
    speech would end before its text, is given fewer.
    """
    _check(text, speech)
    return _in_turn(text, speech, n, m, legal=True)


def fixed_rate(text: int, speech: int, n: int, m: int) -> Schedule:
    """n text tokens, m frames, in turn, legal or not: what ARIA is compared with."""
    _check(text, speech)
    return _in_turn(text, speech, n, m, legal=False)


def interleave(
    text: Int[np.ndarray, "T"],
    codes: Int[np.ndarray, "S Q"],
    schedule: Schedule,
    *,
    begin: int,
    end: int,
    ask: int | None = None,
) -> Stream:
    """The stream of an item.

    Args:
      text: ids in the text table; codes: one row a frame.
      begin, end: marks of the codec table, read before the first element and predicted after the
        last one.
      ask: the mark that is predicted where text comes next, so that the Talker learns to ask for
        it; it is never read. None: nothing is predicted there.

    Raises:
      ValueError: the schedule is not one of T text tokens and S frames.
    """
    schedule = np.asarray(schedule, bool)
    frames = int(schedule.sum())
    if (len(schedule) - frames, frames) != (len(text), len(codes)):
        raise ValueError(
            f"the schedule has {len(schedule) - frames} text tokens and {frames} frames, "
            f"the item {len(text)} and {len(codes)}"
        )
    n, books = len(schedule), np.shape(codes)[1]
    tokens = np.full(n + 1, -1, np.int32)
    read = np.full((n + 1, books), -1, np.int32)
    targets = np.zeros((n + 1, books), np.int32)
    kinds = np.full(n + 1, NOTHING, np.int32)
    read[0, 0] = begin
    tokens[1:][~schedule] = text
    read[1:][schedule] = codes
    targets[:-1][schedule] = codes
    kinds[:-1][schedule] = FRAME
    if ask is not None:
        targets[:-1][~schedule, 0] = ask
        kinds[:-1][~schedule] = ASK
    targets[-1, 0], kinds[-1] = end, END
    return Stream(tokens, read, targets, kinds)


def _in_turn(text: int, speech: int, n: int, m: int, legal: bool) -> Schedule:
    for name, value in (("n", n), ("m", m)):
        if value < 1:
            raise ValueError(f"{name} is {value}, it must be at least 1")
    parts, t, s = [], 0, 0
    while t < text:
        read = min(n, text - t)
        t += read
        due = min(s + m, speech * t // text if legal else speech) if t < text else speech
        parts += [np.zeros(read, bool), np.ones(due - s, bool)]
        s = due
    return np.concatenate([*parts, np.ones(speech - s, bool)])


def _check(text: int, speech: int) -> None:
    for name, value in (("text", text), ("speech", speech)):
        if value < 0:
            raise ValueError(f"{name} is {value}, it must not be negative")
