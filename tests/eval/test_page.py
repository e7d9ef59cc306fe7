import base64
import io
import re

import numpy as np
import soundfile
from PIL import Image

from omnijax.eval import page


def embedded(html: str) -> bytes:
    return base64.b64decode(re.search(r"base64,([^\"]+)", html).group(1))


def test_an_embedded_picture_decodes_to_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    decoded = Image.open(io.BytesIO(embedded(page.image(pixels, alt="x"))))
    np.testing.assert_array_equal(np.asarray(decoded), pixels)


def test_an_embedded_sound_decodes_to_the_same_samples():
    samples = np.sin(np.arange(1600) / 10).astype(np.float32)
    decoded, rate = soundfile.read(io.BytesIO(embedded(page.audio(samples, 16_000))))
    assert rate == 16_000
    np.testing.assert_allclose(decoded, samples, atol=1e-4)


def test_what_a_model_says_cannot_inject_markup():
    assert "<script>" not in page.turn("model", "<script>alert(1)</script>")
    assert "<b>" not in page.table(["<b>"], [["<b>"]])


def test_a_page_needs_nothing_from_outside(tmp_path):
    mel = np.random.default_rng(0).normal(size=(50, 8))
    path = page.write(
        tmp_path / "deep" / "page.html",
        "Demo",
        page.section("One", page.spectrogram(mel), page.note("small print")),
    )
    text = path.read_text()
    assert text.count("data:image/png") == 1
    assert not re.search(r"""(src|href)=["']?(http|//|/)""", text)
