"""One self-contained HTML page: pictures, frames, audio players, spectrograms, text and tables.

Everything is embedded as data URIs, so the file can be sent to somebody as it is.
"""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from omnijax.files import whole

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #1a7f37; --bad: #b42318; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
img { max-width: 100%; border-radius: 4px; vertical-align: top; }
img.pixel { image-rendering: pixelated; }
audio { width: 100%; max-width: 24rem; display: block; margin: .4rem 0; }
.table { overflow-x: auto; font-size: 0.9em; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
.strip { display: flex; flex-wrap: wrap; gap: .4rem; }
.strip figure { margin: 0; font-size: .75rem; }
.turn { padding: .5rem .8rem; border-radius: .5rem; margin: .5rem 0; background: var(--soft); }
.turn { white-space: pre-wrap; overflow-wrap: anywhere; }
.turn b { display: block; font-size: .75rem; opacity: .7; }
.right { border-left: 4px solid var(--good); }
.wrong { border-left: 4px solid var(--bad); }
.note { opacity: .75; font-size: .9rem; }
"""


def _uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def image(pixels: np.ndarray, *, alt: str, scale: int = 1) -> str:
    """An <img> of uint8 pixels [H, W, 3], enlarged ``scale`` times without smoothing."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    height, width = (side * scale for side in pixels.shape[:2])
    style = "pixel" if scale > 1 else "plain"
    return (
        f'<img class="{style}" width="{width}" height="{height}" alt="{html.escape(alt)}" '
        f'src="{_uri("image/png", buffer.getvalue())}">'
    )


def frames(pixels: np.ndarray, times: Sequence[float], *, scale: int = 1) -> str:
    """A strip of captioned frames, uint8 [N, H, W, 3] at ``times`` seconds."""
    cells = "".join(
        f"<figure>{image(frame, alt=f'frame at {time:.2f} s', scale=scale)}"
        f"<figcaption>{time:.2f} s</figcaption></figure>"
        for frame, time in zip(pixels, times, strict=True)
    )
    return f'<div class="strip">{cells}</div>'


def audio(samples: np.ndarray, sample_rate: int) -> str:
    """A player of float samples [A]."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, sample_rate, format="WAV", subtype="PCM_16")
    source = _uri("audio/wav", buffer.getvalue())
    return f'<audio controls preload="metadata" src="{source}"></audio>'


def spectrogram(mel: np.ndarray, *, hop_seconds: float = 0.01) -> str:
    """A picture of a log-mel spectrogram [T, M], time to the right, low bands below."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 1.9), dpi=90, layout="constrained")
    axis.imshow(
        mel.T, origin="lower", aspect="auto", extent=(0, len(mel) * hop_seconds, 0, mel.shape[1])
    )
    axis.set(xlabel="seconds", ylabel="mel band")
    return plot(figure, alt="log-mel spectrogram")


def plot(figure, *, alt: str) -> str:
    """An <img> of a matplotlib figure, which is closed."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return f'<img alt="{html.escape(alt)}" src="{_uri("image/png", buffer.getvalue())}">'


def turn(who: str, text: str, *, right: bool | None = None) -> str:
    """What somebody said; ``right`` marks an answer as right or wrong."""
    mark = "" if right is None else " right" if right else " wrong"
    return f'<div class="turn{mark}"><b>{html.escape(who)}</b>{html.escape(text)}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text."""
    cells = lambda tag, row: "".join(f"<{tag}>{html.escape(str(x))}</{tag}>" for x in row)  # noqa: E731
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<div class='table'><table><tr>{cells('th', header)}</tr>{body}</table></div>"


def section(title: str, *parts: str) -> str:
    """A heading and its parts (HTML)."""
    return f"<section><h2>{html.escape(title)}</h2>{''.join(parts)}</section>"


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{html.escape(text)}</p>'


def write(path: str | Path, title: str, *parts: str) -> Path:
    """Write the page, whole or not at all."""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{''.join(parts)}</body></html>"
    )
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return Path(path)
