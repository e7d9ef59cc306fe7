"""A spoken answer on a page."""

import numpy as np

from omnijax.eval.speech_page import spoken, stream_order


def test_the_order_is_text_and_frames_as_they_came():
    order = stream_order([4, 8, 9, 9], [2, 2, 1, 3])
    assert "".join("tf"[f] for f in order) == "ttttffttttfftffff"


def test_a_spoken_answer_has_its_player_and_three_pictures():
    samples = np.sin(np.arange(24_000) / 20).astype(np.float32) / 2
    html = spoken(samples, 24_000, [4, 6], [4, 8])
    assert html.count("<audio") == 1 and html.count("<img") == 3
    assert "nothing was said" in spoken(samples[:0], 24_000, [], [])
