"""nano's Talker: 2.4 M parameters with its MTP, from scratch on OmniWorld's speech as codec frames.

talker           ten voices, mostly in turns of four text tokens and four frames, as the demo speaks
talker_speakers  drawn voices too, so that others can be cloned, and words in no order; and frames
                 that cannot be trusted, so that it looks at its text
talker_voices    more of several sentences, also with text held back: in turns of four it would
                 run ever further ahead of the speech of a long answer; and answers behind their
                 questions, whose media it reads by the Thinker's stream

`python experiments/talker.py codes` makes the frames that they read, of sentences and, with
`--task=...`, of answers, of sentences in 2,000 drawn voices, so that others can be cloned, and of
words in no order, so that it reads what it says.

From random weights 49, 31 and 28 minutes on one core; what they come to stands in
experiments/README.md, "The recipe, run whole".
"""

from typing import NamedTuple

import ml_collections

from omnijax.errors import UserError
from omnijax.generate.sampling import SamplingConfig
from omnijax.generate.speech import SpeechConfig
from omnijax.models.talker import presets
from omnijax.train.stages import OptimizerConfig, RunConfig, Stage, to_dict
from omnijax.train.talker import TalkerTraining


class Codes(NamedTuple):
    """One task's frames."""

    folder: str  # its name
    count: int  # of utterances to train on


CODES = {
    "say": Codes("codes", 24_000),
    "say_reply": Codes("replies", 6_000),
    "say_by_many": Codes("many", 14_000),
    "say_words": Codes("words", 14_000),
}
RUNS = "runs/nano_codec"  # where the folders lie; elsewhere by --config.training.codes=...
# Ten voices first, in sentences and answers: in a trial it so began to read in under half of the
# steps, by that or by its turns of four. An utterance of each voice of the first folder is kept.
FEW = ("codes:codes=0.8", "codes:replies=0.2")
ALL = ("codes:codes=0.25", "codes:replies=0.1", "codes:many=0.25", "codes:words=0.4")
TURNS = ("chunked=0.9", "random=0.1")  # four text tokens and four frames, as the demo speaks
LAST = "talker_voices"
TRAINS = (r"^(?!hidden_projection/)",)  # which reads the Thinker's stream, in the last stage alone
STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="talker",
            objective="talker",
            trains=TRAINS,
            mixture=FEW,
            steps=10_000,
            batch=1,
            tokens=1024,
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100, end_fraction=0.1),
        ),
        Stage(
            name="talker_speakers",
            objective="talker",
            starts_from=("talker",),
            trains=TRAINS,
            mixture=ALL,
            steps=6000,
            batch=3,
            tokens=384,
            seed=1,  # goes on with other draws
            optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=100),
        ),
        Stage(
            name="talker_voices",
            objective="talker",
            starts_from=("talker_speakers",),
            trains=(".*",),
            mixture=ALL,
            steps=6000,
            batch=3,
            tokens=384,
            seed=5,
            optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=100),
        ),
    )
}
TRAINING = {
    "talker": TalkerTraining(codes=RUNS, schedules=TURNS, mtp_frames=32),
    "talker_speakers": TalkerTraining(
        codes=RUNS,
        schedules=TURNS,
        described=0.6,
        shown=0.9,
        anonymous=0.1,
        named_language=0.9,
        mtp_frames=32,
        frame_noise=0.25,  # so that it looks at its text
    ),
    "talker_voices": TalkerTraining(
        codes=RUNS,
        schedules=("chunked=0.5", "earliest:12=0.4", "random=0.1"),
        joined=(0.5, 0.25, 0.25),
        described=0.5,
        shown=0.9,
        anonymous=0.1,
        named_language=0.9,
        contexts=0.8,
        max_hidden=128,
        mtp_frames=32,
        frame_noise=0.1,
    ),
}


# The temperature with the least WER on validation of 0 and 0.3; small codebooks repeat codes
# often, so nothing is penalised for it.
DRAWN = SamplingConfig(temperature=0.3, top_k=50)
# The lead of 8, 12, 16 and 20 with the least WER on validation of answers of six sentences, by the
# weights of a trial on slower turns; with others 12 alone was tried.
SPEECH = SpeechConfig(lead=12, sampling=DRAWN, residual_sampling=DRAWN)


def get_config(stage: str = LAST) -> ml_collections.ConfigDict:
    """The resolved config of one stage; every field can be overridden by a flag."""
    if stage not in STAGES:
        raise UserError(f"nano_talker has no stage {stage!r}, it has {', '.join(STAGES)}")
    return ml_collections.ConfigDict(
        {
            "name": "nano_talker",
            "tokenizer": "nano",
            "talker": to_dict(presets.nano()),
            "training": to_dict(TRAINING[stage]),
            # A Talker that has learned to read the user's turn does so.
            "speech": to_dict(SPEECH) | {"context": TRAINING[stage].contexts > 0},
            "stage": to_dict(STAGES[stage]),
            "mesh": {"data": 1, "fsdp": 1, "context": 1, "tensor": 1, "expert": 1},
            "run": to_dict(RunConfig()),
        }
    )
