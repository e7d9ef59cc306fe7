"""nano's codec: 2.6 M parameters, from scratch on OmniWorld's speech, on two CPU cores.

codec_encoder  the encoder and the codebooks alone, a cheap step: a frame's features say its own
               spectrum and pitch, all of a clip's the colour of its voice, and codebook 0 learns
               to carry what nano's AuT makes of the same sound
codec_decoder  Code2Wav alone, on all codebooks of every clip: the codes stay as they are
codec_judged   Code2Wav among judges, by periods and by spectrograms; no part of nano
codec          encoder and Code2Wav together, no part of nano either: the codes move, and a Talker
               would have to learn them anew
"""

import dataclasses

import ml_collections

from omnijax.errors import UserError
from omnijax.media import nano_processor
from omnijax.models import codec, presets
from omnijax.models.codec.losses import MelLossConfig
from omnijax.train.codec import CodecTraining
from omnijax.train.objectives.codec import (
    DECODER,
    ENCODER,
    GENERATOR,
    JUDGES,
    CodecLossConfig,
)
from omnijax.train.stages import OptimizerConfig, RunConfig, Stage, to_dict

# Much of it in 2,000 drawn voices, so that neither codes nor Code2Wav learn ten by heart.
SPEECH = (
    "omniworld_live/say=0.4",
    "omniworld_live/say_by_many=0.5",
    "omniworld_live/say_words=0.1",
)
# Codes must not move faster than their averages follow.
SLOWLY = (r"^codec/(encoder|quantiser)/=0.1",)
CODED, LAST = "codec_encoder", "codec_decoder"  # nano's codes, and the last of its stages
STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="codec_encoder",
            objective="codec",
            trains=ENCODER,
            mixture=SPEECH,
            steps=8000,
            batch=8,
            optimizer=OptimizerConfig(
                learning_rate=2e-3, warmup_steps=50, end_fraction=0.05, weight_decay=0.01
            ),
        ),
        Stage(
            name="codec_decoder",
            objective="codec",
            starts_from=("codec=codec_encoder", "codebook_usage=codec_encoder"),
            trains=DECODER,
            mixture=SPEECH,
            steps=2800,
            batch=8,
            seed=3,  # each goes on with other speech
            optimizer=OptimizerConfig(
                learning_rate=1.5e-3, warmup_steps=100, end_fraction=0.05, weight_decay=0.01
            ),
        ),
        Stage(
            name="codec_judged",
            objective="codec",
            starts_from=("codec_decoder",),
            trains=(*DECODER, *JUDGES),
            mixture=SPEECH,
            steps=700,
            batch=8,
            seed=2,
            optimizer=OptimizerConfig(
                learning_rate=6e-4, warmup_steps=50, b1=0.8, weight_decay=0.01
            ),
        ),
        Stage(
            name="codec",
            objective="codec",
            starts_from=("codec_encoder", "codec/code2wav=codec_decoder"),
            seed=1,
            trains=GENERATOR,
            mixture=SPEECH,
            steps=1500,
            batch=6,
            optimizer=OptimizerConfig(
                learning_rate=1e-3,
                warmup_steps=100,
                end_fraction=0.1,
                weight_decay=0.01,
                clip=1.0,
                rate_factors=SLOWLY,
            ),
        ),
    )
}


# No window much shorter than two periods of a low voice: it hears where in its period a voice
# stands, which no code says, and would rather have noise. In the longest its harmonics lie apart.
SOUND = CodecLossConfig(
    periodicity=12.0,
    timbre=5.0,
    mel_scales=MelLossConfig(windows=(512, 1024, 2048), bins=(64, 80, 160)),
)
CODES = {"envelope": 5.0, "pitch": 20.0, "timbre": 20.0}
BOTH = dataclasses.replace(SOUND, **CODES | {"timbre": SOUND.timbre})
TRAINING = {
    "codec_encoder": CodecTraining(decoded=False, losses=CodecLossConfig(**CODES)),
    "codec_decoder": CodecTraining(encoded=False, losses=SOUND),
    "codec_judged": CodecTraining(encoded=False, judged=True, losses=SOUND),
    "codec": CodecTraining(losses=BOTH),
}


def get_config(stage: str = LAST) -> ml_collections.ConfigDict:
    """The resolved config of one stage; every field can be overridden by a flag."""
    if stage not in STAGES:
        raise UserError(f"nano_codec has no stage {stage!r}, it has {', '.join(STAGES)}")
    return ml_collections.ConfigDict(
        {
            "name": "nano_codec",
            "codec": to_dict(codec.nano()),
            "training": to_dict(TRAINING[stage]),
            "model": to_dict(presets.nano()),  # its AuT is the teacher
            "processor": to_dict(nano_processor()),
            "stage": to_dict(STAGES[stage]),
            "mesh": {"data": 1, "fsdp": 1, "context": 1, "tensor": 1, "expert": 1},
            "run": to_dict(RunConfig()),
        }
    )
