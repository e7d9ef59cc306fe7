"""nano: under 7 M parameters, from scratch on OmniWorld, on two CPU cores.

aut          AuT inside an attention encoder-decoder learns to write down what is said or sounds
pictures     the vision encoder likewise learns to describe pictures,
clips        then clips
lm           the decoder alone learns the world's language, from text
s1_adapters  what joins the encoders to the frozen decoder
s1           the encoders too, the decoder still frozen
s2_decoder   the decoder learns to read the encoders, which stand still: a step costs less
s2_sounds    when which sound comes, and nothing else: among other tasks it was not learned
s2           everything, under doubt

Examples are made as they are read, of 400,000 (100,000 of practice and of speech), in an order of
each stage's own. Every stage's matrices are trained by Muon.
"""

import dataclasses

import ml_collections

from omnijax.errors import UserError
from omnijax.media import nano_processor
from omnijax.models import presets
from omnijax.models.aut import nano_decoder
from omnijax.train.stages import AugmentConfig, OptimizerConfig, RunConfig, Stage, to_dict

# Stands for voices that the corpus does not have. Nothing is masked: a word that cannot be heard
# would have to be guessed from its neighbours, and held-out combinations are bad guesses.
VOICES = AugmentConfig(warp=0.12, shift=2.0, gain_db=6.0, noise_db=12.0)
# A word of the answer so far may be wrong, so the next one must be heard or seen: which words go
# together is a bad guess where a combination was never met.
DOUBT = dataclasses.replace(VOICES, answer_noise=0.1)
# Weights that join an encoder to the decoder.
ADAPTERS = (r"^audio/(final_norm|proj_)", r"^vision/merger")
DECODER = r"^(embed|decoder|lm_head)"


def live(**weights: float) -> tuple[str, ...]:
    """A mixture of OmniWorld's tasks by their shares of the examples."""
    return tuple(f"omniworld_live/{task}={weight}" for task, weight in weights.items())


def muon(learning_rate: float, warmup_steps: int, **schedule) -> OptimizerConfig:
    return OptimizerConfig(
        name="muon", learning_rate=learning_rate, warmup_steps=warmup_steps, **schedule
    )


# Over two fifths of the examples are speech, over a quarter captions. But for `s2_sounds` all these
# stages have one mixture: what has little share for a while is unlearned. The `recall_` tasks are
# practice in looking up: a dozen questions about one scene, clip or picture.
TASKS = {
    "transcribe": 2.6,
    "words": 1.8,
    "picture_question_written": 1.3,
    "picture_question_spoken": 3,
    "recall_pictures": 0.8,
    "describe": 1,
    "sound_time": 1,
    "recall_sounds": 0.4,
    "caption": 2.8,
    "recall_clips": 2.5,
    "tool_call": 1,
    "tool_call_written": 0.05,
    "text_question": 0.6,
    "recall_scenes": 0.5,
}
# Packed: seventeen examples a step. Long captions do not drown short answers.
JOINT = {
    "mixture": live(**TASKS),
    "batch": 2,
    "tokens": 1024,
    "audio_chunks": 34,
    "patches": 400,
    "loss_weighting": "sqrt",
}

# What needs nothing of each other; the rest follows one by one.
ENCODERS, DECODER_ALONE, LAST = ("aut", "clips"), "lm", "s2"
STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="aut",
            objective="aed",
            mixture=live(transcribe=3, picture_question_spoken=0.7, tool_call=0.6, sound_time=1.4),
            steps=1100,
            batch=32,
            tokens=40,
            audio_chunks=4,
            patches=0,
            on_too_long="drop",  # sounds of more than 3.2 s, and one utterance in a hundred
            window_chunks=(3, 10),
            optimizer=muon(2e-3, 100),
            augment=VOICES,
        ),
        Stage(
            name="pictures",
            objective="aed",
            mixture=live(describe=1),
            steps=400,
            batch=32,
            tokens=32,
            audio_chunks=0,
            patches=36,
            optimizer=muon(2e-3, 60),
        ),
        Stage(
            name="clips",
            objective="aed",
            starts_from=("pictures",),
            mixture=live(caption=3, describe=1),
            steps=1000,
            batch=32,
            tokens=32,
            audio_chunks=0,
            patches=128,
            optimizer=muon(1.5e-3, 50),
        ),
        Stage(
            name="lm",
            mixture=live(text_question=4, tool_call_written=1),
            trains=(DECODER,),
            batch=2,
            tokens=1024,
            audio_chunks=0,
            patches=0,
            steps=250,
            optimizer=muon(2e-3, 50),
        ),
        Stage(
            name="s1_adapters",
            starts_from=("lm", "audio=aut", "vision=clips"),
            trains=ADAPTERS,
            **JOINT,
            steps=60,
            optimizer=muon(2e-3, 20),
        ),
        Stage(
            name="s1",
            starts_from=("s1_adapters",),
            trains=(r"^(audio|vision)/",),
            **JOINT,
            steps=40,
            seed=3,  # another order than s1_adapters read
            optimizer=muon(5e-4, 10),
            augment=VOICES,
        ),
        Stage(
            name="s2_decoder",
            starts_from=("s1",),
            trains=(DECODER, *ADAPTERS),
            **JOINT,
            steps=900,
            seed=4,
            optimizer=muon(2e-3, 100, end_fraction=0.4),
            augment=VOICES,
        ),
        Stage(
            name="s2_sounds",
            starts_from=("s2_decoder",),
            # Vision would get no gradient and only decay, and AuT would unlearn speech.
            trains=(DECODER, ADAPTERS[0]),
            **JOINT | {"mixture": live(recall_sounds=1), "patches": 0},
            steps=400,
            seed=1,
            optimizer=muon(3e-3, 50),
            augment=VOICES,
        ),
        Stage(
            name="s2",
            starts_from=("s2_sounds",),
            **JOINT,
            steps=5000,
            seed=2,
            optimizer=muon(2e-3, 50, end_fraction=0.02),
            augment=DOUBT,
        ),
    )
}


def get_config(stage: str = LAST) -> ml_collections.ConfigDict:
    """The resolved config of one stage; every field can be overridden by a flag."""
    if stage not in STAGES:
        raise UserError(f"nano has no stage {stage!r}, it has {', '.join(STAGES)}")
    return ml_collections.ConfigDict(
        {
            "name": "nano",
            "tokenizer": "nano",
            "model": to_dict(presets.nano()),
            "aed": to_dict(nano_decoder()),
            "processor": to_dict(nano_processor()),
            "stage": to_dict(STAGES[stage]),
            "mesh": {"data": -1, "fsdp": 1, "context": 1, "tensor": 1, "expert": 1},
            "run": to_dict(RunConfig()),
        }
    )
