"""Trains the Thinker, a stage at a time.

    python experiments/thinker.py --config=experiments/configs/nano.py:s2 --workdir=runs/nano/s2
    python experiments/thinker.py export runs/nano/s2 FOLDER    its weights, as a small folder

                aut ─ audio ──┐
    pictures ─> clips ─ vision ┤
                 lm ─ decoder ─┴─> s1_adapters ─> s1 ─> s2_decoder ─> s2_sounds ─> s2

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
from omnijax.errors import UserError  # noqa: E402


def main(arguments: list[str]) -> int:
    if not arguments:
        return main_of("lm", "s2")
    if arguments[0] != "export" or len(arguments) != 3:
        raise UserError(f"give nothing, or export RUN FOLDER; got {' '.join(arguments)}")
    from omnijax.pretrained import export

    file = export(*map(Path, arguments[1:]))
    print(f"weights: {file} ({file.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    launch(main, commands=True)
