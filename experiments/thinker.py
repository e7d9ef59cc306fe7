"""Trains the Thinker, a stage at a time.

    python experiments/thinker.py --config=experiments/configs/nano.py:s2 --workdir=runs/nano/s2

                aut ─ audio ──┐
    pictures ─> clips ─ vision ┤
                 lm ─ decoder ─┴─> s1_adapters ─> s1 ─> s2_decoder ─> s2 ─> … ─> s2_balance

A stage that another starts from and that has not run is trained first. The same command resumes a
run that was stopped. Any field is a flag; attention in place of Gated DeltaNet is

    python experiments/thinker.py --config=experiments/configs/nano.py:s2 \
        --config.model.decoder.pattern=full

What the model reads and must say (the loss is on what stands after `assistant`):

    <|im_start|>user
    <|vision_start|><|image_pad|>…<|vision_end|>What is left of the circle?<|im_end|>
    <|im_start|>assistant
    A red square.<|im_end|>
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments._main import launch  # noqa: E402
from experiments._stage import main_of  # noqa: E402

if __name__ == "__main__":
    launch(lambda: main_of("lm", "s2"))
