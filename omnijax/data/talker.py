"""From stored speech to the Talker's batches: voices, schedules, rows.

An item is one utterance, or several of one voice and language said one after the other. It is read
under a drawn schedule, behind a prompt that shows the voice: by a description, by frames of another
utterance (in any language: so voices are cloned across languages), by both; a share by neither. An
answer whose question was stored with it may be read behind that too, and is then said alone.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from omnijax.data.batch import Fill, RowBudget
from omnijax.data.codes import CodesSource, ThinkerStream, Utterance, check_codec
from omnijax.data.mixture import mix, open_mixture, order_fingerprint
from omnijax.data.pipeline import Pipeline, rows_of
from omnijax.errors import UserError
from omnijax.models.talker import aria
from omnijax.models.talker.config import TalkerConfig
from omnijax.models.talker.dual_track import shown_dual_track_row
from omnijax.models.talker.prompt import (
    Marks,
    TalkerRow,
    Voice,
    answer_row,
    chat_marks,
    collate_talker,
    spoken_text,
)
from omnijax.text.tokenizer import Tokenizer

SCHEDULES = ("random", "chunked", "earliest", "fixed_rate")
TAKES = {"chunked": (0, 2), "earliest": (0, 1), "fixed_rate": (2,)}  # numbers behind the name


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalkerDraws:
    """What is drawn for each item; shares are probabilities.

    schedules: "NAME=SHARE" with the names of `models.talker.aria`; what a schedule takes stands
    behind its name: "chunked:4:4=1", "earliest:2=1", "fixed_rate:2:5=1". The two-track form has
    none to draw.
    """

    schedules: tuple[str, ...] = ("random=0.5", "chunked=0.4", "earliest=0.1")
    described: float = 0.7  # the voice's description stands in the prompt
    shown: float = 0.7  # frames of another utterance do; an item has one of both, or is anonymous
    anonymous: float = 0.0  # neither does, for `SpeechConfig.guidance`
    reference_frames: tuple[int, ...] = (10, 30)  # least and most
    joined: tuple[float, ...] = (0.6, 0.25, 0.15)  # one utterance, two, three
    named_language: float = 0.8  # the language's mark stands before the answer
    asks: bool = False  # requests for text are learned (the policy "learned")
    contexts: float = 0.0  # of items that have one: the Thinker's stream is in the prompt
    max_hidden: int = 0  # media positions of the contexts in a row

    def __post_init__(self):
        for field in ("described", "shown", "anonymous", "named_language", "contexts"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"{field} is {getattr(self, field)}, it is a share from 0 to 1")
        if len(self.reference_frames) != 2 or not (
            1 <= self.reference_frames[0] <= self.reference_frames[1]
        ):
            raise UserError(f"reference_frames is {self.reference_frames}: least, then most")
        if not self.joined or min(self.joined) < 0 or not sum(self.joined):
            raise UserError(f"joined is {self.joined}: shares of one utterance, two and so on")
        if self.max_hidden < 0 or bool(self.contexts) != bool(self.max_hidden):
            raise UserError(
                f"contexts is {self.contexts} and max_hidden {self.max_hidden}: rows with contexts "
                "need room for their media, others none"
            )
        _ = self.schedule_shares()

    def schedule_shares(self) -> dict[str, float]:
        """Of each schedule, by its name and numbers."""
        shares = {}
        for entry in self.schedules:
            spec, _, share = entry.partition("=")
            name, *numbers = spec.split(":")
            takes = TAKES.get(name, (0,))
            try:
                shares[spec] = float(share)
                fits = len(numbers) in takes and all(int(number) > 0 for number in numbers)
            except ValueError:
                fits = False
            if name not in SCHEDULES or not fits or shares[spec] < 0:
                raise UserError(
                    f"schedules: {entry!r} is not NAME=SHARE with one of {SCHEDULES}; whole "
                    f"numbers from 1 on may follow a name by colons, so many of them: {TAKES}"
                )
        if not sum(shares.values()):
            raise UserError(f"schedules is {self.schedules}: all shares are 0")
        return shares


@dataclasses.dataclass(frozen=True, kw_only=True)
class TalkerDataConfig(TalkerDraws):
    """What is drawn, and how it becomes batches."""

    mixture: Sequence[tuple[str, float]]
    split: str = "train"
    batch_size: int = 2  # rows
    max_tokens: int = 768  # a row
    seed: int = 0
    shuffle: bool = True
    threads: int = 2
    packing_rows: int = 16
    prefetch_batches: int = 4

    def __post_init__(self):
        super().__post_init__()
        for field in ("batch_size", "max_tokens", "packing_rows", "prefetch_batches"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} is {getattr(self, field)}, it must be at least 1")


@dataclasses.dataclass(eq=False)
class _Handle:
    source: CodesSource
    place: int


class _Handles:
    def __init__(self, source: CodesSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, place: int) -> _Handle:
        return _Handle(self._source, int(place))


@dataclasses.dataclass(eq=False)
class _Item:
    """Opaque to grain, which would otherwise map over the arrays inside."""

    row: TalkerRow


class RowMaker:
    """An utterance and a random generator -> a training document."""

    dropped = 0  # nothing ever is

    def __init__(self, config: TalkerDataConfig, talker: TalkerConfig, tokenizer: Tokenizer):
        self._config, self._talker, self._tokenizer = config, talker, tokenizer
        self._marks: Marks = chat_marks(tokenizer)
        self._names, shares = zip(*config.schedule_shares().items(), strict=True)
        self._shares = np.array(shares) / sum(shares)
        self._joined = np.array(config.joined) / sum(config.joined)

    def __call__(self, handle: _Handle, rng: np.random.Generator) -> _Item:
        return _Item(self.make(handle.source, handle.place, rng))

    def make(self, source: CodesSource, place: int, rng: np.random.Generator) -> TalkerRow:
        config = self._config
        said = self._said(source, place, rng)
        context = source[place].context if config.contexts else None
        if context is not None and rng.random() < config.contexts:
            said = [place]
        else:
            context = None
        item = _joined([source[part] for part in said])
        text = self._tokenizer.encode(item.text, literal=True)
        named = rng.random() < config.named_language
        language = item.language if named else None
        start = (self._talker, self._marks)
        if self._talker.form == "dual_track":
            voice = self._voice(source, said, rng)
            row = shown_dual_track_row(
                *start, text, item.codes, voice=voice, context=context, language=language
            )
        else:
            text = spoken_text(self._talker, text)
            row = answer_row(
                *start,
                text,
                item.codes,
                self.schedule(len(text), len(item.codes), rng),
                voice=self._voice(source, said, rng),
                context=context,
                language=language,
                asks=config.asks,
            )
        for field, unit, count in (
            ("max_tokens", "positions", len(row.tokens)),
            ("max_hidden", "media positions", len(row.hidden)),
        ):
            if count > getattr(config, field):
                raise UserError(
                    f"{item.text!r} does not fit: it has {count} {unit}, the row's limit "
                    f"({field}) is {getattr(config, field)}"
                )
        return row

    def schedule(self, text: int, frames: int, rng: np.random.Generator) -> aria.Schedule:
        spec = self._names[int(rng.choice(len(self._names), p=self._shares))]
        name, *numbers = spec.split(":")
        if name == "random":
            return aria.random(rng, text, frames)
        return getattr(aria, name)(text, frames, *map(int, numbers))

    def _said(self, source: CodesSource, place: int, rng: np.random.Generator) -> list[int]:
        """The utterance, and others of its voice and language that are said after it."""
        _, language, voice, *_ = source[place]
        count = 1 + int(rng.choice(len(self._joined), p=self._joined))
        return [place, *_others(source.by_voice[voice, language], [place], count - 1, rng)]

    def _voice(self, source: CodesSource, said: Sequence[int], rng: np.random.Generator) -> Voice:
        """Shown by an utterance that is not said here; where there is none, by its description;
        by neither, where it is drawn to be anonymous."""
        config, own = self._config, source[said[0]]
        if config.anonymous and rng.random() < config.anonymous:
            return Voice()
        described, shown = rng.random() < config.described, rng.random() < config.shown
        others = _others(source.of_voice(own.voice), said, 1, rng)
        shown = others and (shown or not described)
        reference = None
        if shown:
            frames = source[others[0]].codes
            low, high = config.reference_frames
            length = min(int(rng.integers(low, high + 1)), len(frames))
            start = int(rng.integers(len(frames) - length + 1))
            reference = frames[start : start + length]
        described = described or not shown
        words = self._tokenizer.encode(own.description, literal=True) if described else ()
        return Voice(words, reference)


def _others(
    places: Sequence[int], but: Sequence[int], count: int, rng: np.random.Generator
) -> list[int]:
    """Up to ``count`` different places, none of those in ``but``."""
    if len(places) < 4 * (count + len(but)):
        left = [place for place in places if place not in but]
        return [left[i] for i in rng.permutation(len(left))[:count]]
    found: list[int] = []
    while len(found) < count:
        place = places[int(rng.integers(len(places)))]
        if place not in found and place not in but:
            found.append(place)
    return found


def _joined(parts: Sequence[Utterance]) -> Utterance:
    return parts[0]._replace(
        text=" ".join(part.text for part in parts),
        codes=np.concatenate([part.codes for part in parts]),
    )


def make_talker_pipeline(
    config: TalkerDataConfig,
    *,
    talker: TalkerConfig,
    tokenizer: Tokenizer,
    sources: Mapping[str, CodesSource] | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Pipeline:
    """Batches of `TalkerBatch`, this process's rows, with the state that a checkpoint keeps."""
    mine = rows_of(config.batch_size, process_index, process_count)
    opened = open_mixture(config.mixture, split=config.split, sources=sources)
    for name, source in opened.items():
        if not isinstance(source, CodesSource):
            raise UserError(f"the Talker trains on codes:FOLDER, the mixture names {name!r}")
        check_codec(source, dataclasses.asdict(talker), name)
    if config.contexts:
        thinker_of({name: source.thinker for name, source in opened.items()}, talker)
    parts = {name: _Handles(source) for name, source in opened.items()}
    mixed = mix(config.mixture, parts, seed=config.seed, shuffle=config.shuffle)
    maker = RowMaker(config, talker, tokenizer)
    options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=32)
    stream = mixed.random_map(maker, seed=config.seed).to_iter_dataset(options)
    limits = {"tokens": config.max_tokens, "hidden": config.max_hidden}
    limits = {name: limit for name, limit in limits.items() if limit}
    rows = grain.experimental.FirstFitPackIterDataset(
        stream.map(lambda item: _sizes(item.row, limits) | {"item": item}),
        length_struct=limits,
        num_packing_bins=config.packing_rows,
        seed=config.seed,
        shuffle_bins=config.shuffle,
        meta_features=["item"],
    ).map(lambda row: _Packed([item.row for item in row["item"]]))

    def collate(packed: Sequence["_Packed"]):
        documents = [row.documents for row in packed[mine]]
        batch = collate_talker(
            talker, documents, max_tokens=config.max_tokens, max_hidden=config.max_hidden
        )
        filled = sum(len(document.tokens) for row in documents for document in row)
        targets = int(np.count_nonzero(batch.kinds))
        return batch, Fill(sum(map(len, documents)), len(documents), filled, targets)

    batches = rows.batch(config.batch_size, batch_fn=collate)
    dataset = grain.experimental.ThreadPrefetchIterDataset(
        batches, prefetch_buffer_size=config.prefetch_batches
    )
    known = [(len(source), source.codec) for source in opened.values()]
    but = ("threads", "prefetch_batches")
    if config.contexts:
        known += [source.thinker for source in opened.values()]
    else:  # the order that there was before there were any
        but += ("contexts", "max_hidden")
    if not config.anonymous:
        but += ("anonymous",)
    fingerprint = order_fingerprint(config, known, but)
    return Pipeline(dataset, fingerprint, maker, RowBudget(max_tokens=config.max_tokens))


def _sizes(row: TalkerRow, limits: Mapping[str, int]) -> dict[str, np.ndarray]:
    """What grain packs by: as many zeros as the row has of each."""
    return {name: np.zeros(len(getattr(row, name)), np.int8) for name in limits}


def thinker_of(sources: Mapping[str, ThinkerStream | None], talker: TalkerConfig) -> ThinkerStream:
    """Whose stream the contexts of a mixture hold.

    Raises:
      UserError: no source has any; they are of several; of another layer than the Talker accepts.
    """
    found = {name: thinker for name, thinker in sources.items() if thinker}
    if not found:
        raise UserError(
            f"contexts are to be read, but none of {', '.join(sources)} has any: "
            "experiments/talker.py codes --task=say_reply makes them"
        )
    if len({*found.values()}) > 1:
        raise UserError(f"the contexts are of several Thinkers or layers: {found}")
    thinker = next(iter(found.values()))
    if thinker.layer != talker.accept_hidden_layer:
        raise UserError(
            f"the contexts have the Thinker's stream after {thinker.layer} layers, "
            f"accept_hidden_layer is {talker.accept_hidden_layer}"
        )
    return thinker


@dataclasses.dataclass(eq=False)
class _Packed:
    documents: list[TalkerRow]
