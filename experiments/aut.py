"""Pretrains AuT inside an attention encoder-decoder (AED): it writes down what is said.

    python experiments/aut.py --config=experiments/configs/nano.py:aut --workdir=runs/nano/aut

The decoder reads `<|endoftext|>` and the words, and predicts the words and `<|endoftext|>`;
afterwards it is thrown away, the encoder goes on in experiments/thinker.py. Window sizes are drawn
anew for each clip (`stage.window_chunks`), so that one model serves streaming and whole clips. The
stages `pictures` and `clips` train the vision encoder likewise, on descriptions. The same command
resumes a run that was stopped.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments._main import launch  # noqa: E402
from experiments._stage import main_of  # noqa: E402

if __name__ == "__main__":
    launch(lambda: main_of("aed", "aut"))
