"""nano: under 7 M parameters, from scratch on OmniWorld, on two CPU cores.

aut          AuT inside an attention encoder-decoder learns to write down what is said or sounds
pictures     the vision encoder likewise learns to describe pictures,
clips        then clips
lm           the decoder alone learns the world's language, from text
s1_adapters  what joins the encoders to the frozen decoder
s1           the encoders too, the decoder still frozen
s2_decoder   the decoder learns to read the encoders, which stand still: a step costs less
s2           everything, under doubt
s2_questions everything again, with a dozen questions about a scene and more words in no order
s2_more      and again for longer, with more of what is still furthest from its aim
s2_sounds    when which sound comes, and nothing else: among other tasks it was not learned
s2_events    everything again, two examples in five captions
s2_speech    and again, mostly speech, which the two before had little of
s2_balance   and again, half of it speech and a quarter captions

Every example is new: it is made as it is read. Every stage's matrices are trained by Muon.
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


TASKS = {
    "transcribe": 2.3,
    "words": 1,
    "picture_question_written": 1.4,
    "picture_question_spoken": 2,
    "describe": 1.6,
    "sound_time": 2,
    "caption": 2.6,
    "tool_call": 1.1,
    "tool_call_written": 0.1,
    "text_question": 1.5,
}
# Packed: about 50 answers a step. Long captions do not drown short answers.
JOINT = {
    "mixture": live(**TASKS),
    "batch": 2,
    "tokens": 1024,
    "audio_chunks": 40,
    "patches": 480,
    "loss_weighting": "sqrt",
}

# Practice in looking up, and words that are mostly not English.
QUESTIONS = {
    "transcribe": 2.6,
    "words": 2,
    "picture_question_written": 1.5,
    "picture_question_spoken": 3,
    "recall_pictures": 1.5,
    "describe": 1.2,
    "sound_time": 2,
    "caption": 2.2,
    "tool_call": 1,
    "tool_call_written": 0.1,
    "text_question": 0.7,
    "recall_scenes": 0.8,
}
# Of what was furthest from its aim after that.
MORE = {"words": 2.5, "picture_question_spoken": 3.5, "sound_time": 2.5, "caption": 2}

# Two examples in five are captions, some 17,000: what moves how is learned from many clips.
EVENTS = {
    "transcribe": 1.2,
    "words": 0.8,
    "picture_question_written": 1,
    "picture_question_spoken": 1.5,
    "recall_pictures": 0.7,
    "describe": 0.8,
    "sound_time": 1.2,
    "recall_sounds": 1.2,
    "caption": 3,
    "recall_clips": 4,
    "tool_call": 0.8,
    "tool_call_written": 0.1,
    "text_question": 0.4,
    "recall_scenes": 0.4,
}

SPEECH = EVENTS | {
    "transcribe": 4,
    "words": 3,
    "picture_question_written": 1.2,
    "picture_question_spoken": 4,
    "recall_pictures": 1,
    "describe": 1,
    "sound_time": 0.6,
    "recall_sounds": 0.4,
    "caption": 1,
    "recall_clips": 1,
    "tool_call": 2,
}

# What was unlearned by turns, at once: half of the examples are speech, a quarter captions.
BALANCE = {
    "transcribe": 3,
    "words": 2,
    "picture_question_written": 1.2,
    "picture_question_spoken": 3.5,
    "recall_pictures": 0.6,
    "describe": 0.8,
    "sound_time": 0.6,
    "recall_sounds": 0.2,
    "caption": 2.5,
    "recall_clips": 2,
    "tool_call": 1,
    "tool_call_written": 0.05,
    "text_question": 0.5,
    "recall_scenes": 0.4,
}


def everything(
    name: str, after: str, shares: dict[str, float], steps: int, seed: int, rate: float = 1.5e-3
) -> Stage:
    """A stage that trains all weights on all tasks, by their shares, under doubt.

    seed: another than the stages' before it, so that it goes on with other examples.
    """
    return Stage(
        name=name,
        starts_from=(after,),
        **JOINT | {"mixture": live(**shares)},
        steps=steps,
        seed=seed,
        optimizer=muon(rate, 50),
        augment=DOUBT,
    )


LAST = "s2_balance"
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
            optimizer=muon(5e-4, 10),
            augment=VOICES,
        ),
        Stage(
            name="s2_decoder",
            starts_from=("s1",),
            trains=(DECODER, *ADAPTERS),
            **JOINT,
            steps=900,
            optimizer=muon(2e-3, 100, end_fraction=0.4),
            augment=VOICES,
        ),
        everything("s2", "s2_decoder", TASKS, steps=1700, seed=1),
        everything("s2_questions", "s2", QUESTIONS, steps=1100, seed=2),
        everything("s2_more", "s2_questions", QUESTIONS | MORE, steps=2000, seed=3),
        Stage(
            name="s2_sounds",
            starts_from=("s2_more",),
            # Vision would get no gradient and only decay, and AuT would unlearn speech.
            trains=(DECODER, ADAPTERS[0]),
            **JOINT | {"mixture": live(recall_sounds=1), "patches": 0},
            steps=400,
            seed=6,
            optimizer=muon(3e-3, 50),
            augment=DOUBT,
        ),
        everything("s2_events", "s2_sounds", EVENTS, steps=3000, seed=4, rate=2e-3),
        everything("s2_speech", "s2_events", SPEECH, steps=900, seed=7),
        everything("s2_balance", "s2_speech", BALANCE, steps=2600, seed=8),
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
