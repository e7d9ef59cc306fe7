"""nano: under 7 M parameters, from scratch on OmniWorld, on two CPU cores.

aut          AuT inside an attention encoder-decoder learns to write down what is said
pictures     the vision encoder likewise learns to describe pictures,
clips        then clips
lm           the decoder alone learns the world's language, from text
s1_adapters  what joins the encoders to the frozen decoder
s1           the encoders too, the decoder still frozen
s2           everything
"""

import ml_collections

from omnijax.errors import UserError
from omnijax.media import nano_processor
from omnijax.models import presets
from omnijax.models.aut import nano_decoder
from omnijax.train.stages import AugmentConfig, OptimizerConfig, RunConfig, Stage, to_dict

VOICES = AugmentConfig(  # stands for voices that the corpus does not have
    warp=0.12, shift=2.0, gain_db=6.0, noise_db=12.0, frequency_masks=1, time_masks=1
)
TASKS = (
    "omniworld/transcribe=3",
    "omniworld/picture_question_written=2",
    "omniworld/picture_question_spoken=3",
    "omniworld/describe=0.5",
    "omniworld/sound_time=1",
    "omniworld/caption=2",
    "omniworld/tool_call=1",
    "omniworld/text_question=0.5",
)
# Weights that join an encoder to the decoder.
ADAPTERS = (r"^audio/(final_norm|proj_)", r"^vision/merger")

# All tasks, packed: about 29 examples a step. Long captions do not drown short answers.
JOINT = {
    "mixture": TASKS,
    "batch": 2,
    "tokens": 1024,
    "audio_chunks": 40,
    "patches": 480,
    "loss_weighting": "sqrt",
}

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="aut",
            objective="aed",
            mixture=("omniworld/transcribe=2", "omniworld/picture_question_spoken=1"),
            steps=1600,
            batch=32,
            tokens=40,
            audio_chunks=4,
            patches=0,
            on_too_long="drop",  # one clip in a hundred
            window_chunks=(3, 10),
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=150),
            augment=VOICES,
        ),
        Stage(
            name="pictures",
            objective="aed",
            mixture=("omniworld/describe=1",),
            steps=1000,
            batch=32,
            tokens=32,
            audio_chunks=0,
            patches=36,
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=100),
        ),
        Stage(
            name="clips",
            objective="aed",
            starts_from=("pictures",),
            mixture=("omniworld/caption=1",),
            steps=1000,
            batch=32,
            tokens=32,
            audio_chunks=0,
            patches=128,
            optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=50),
        ),
        Stage(
            name="lm",
            mixture=("omniworld/text_question=1",),
            trains=(r"^(embed|decoder|lm_head)",),
            steps=450,
            batch=4,
            audio_chunks=0,
            patches=0,
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=50),
        ),
        Stage(
            name="s1_adapters",
            starts_from=("lm", "audio=aut", "vision=clips"),
            trains=ADAPTERS,
            **JOINT,
            steps=100,
            optimizer=OptimizerConfig(learning_rate=2e-3, warmup_steps=20),
        ),
        Stage(
            name="s1",
            starts_from=("s1_adapters",),
            trains=(r"^(audio|vision)/",),
            **JOINT,
            steps=100,
            optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20),
            augment=VOICES,
        ),
        Stage(
            name="s2",
            starts_from=("s1",),
            **JOINT,
            steps=4000,
            optimizer=OptimizerConfig(learning_rate=1.5e-3, warmup_steps=100),
            augment=VOICES,
        ),
    )
}


def get_config(stage: str = "s2") -> ml_collections.ConfigDict:
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
