"""The notebooks as a reader runs them: every cell, in this interpreter, without errors."""

from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "notebooks" / "tour.ipynb"
PICTURE_BYTES = 5_000  # an empty pair of axes has less


def read():
    return nbformat.read(TOUR, as_version=4)


def tagged(book, tag):
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", ())]


def printed(cell):
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def shown(cell, kind):
    return [out.data[kind] for out in cell.outputs if kind in out.get("data", {})]


def test_the_tour_is_kept_without_outputs():
    book = read()
    nbformat.validate(book)
    for cell in book.cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_the_tour_runs_and_draws_every_picture(execute):
    book = execute(read())
    for cell in book.cells:
        assert not any(out.output_type == "error" for out in cell.get("outputs", ()))
    pictures = tagged(book, "picture")
    assert len(pictures) >= 10
    for cell in pictures:
        images = shown(cell, "image/png")
        assert images and all(len(image) > PICTURE_BYTES for image in images), cell.source
    (tokens,) = tagged(book, "tokens")
    assert "▣" in shown(tokens, "text/html")[0] and "♪" in shown(tokens, "text/html")[0]
    (answer,) = tagged(book, "answer")
    assert "tokens," in printed(answer) and "truth:" in printed(answer)
    assert any("<audio" in page for cell in pictures for page in shown(cell, "text/html"))


@pytest.mark.slow
def test_without_weights_the_tour_says_so_and_goes_on(execute):
    book = read()
    (model,) = tagged(book, "model")
    assert 'WEIGHTS = "nano"' in model.source
    model.source = model.source.replace('WEIGHTS = "nano"', 'WEIGHTS = "/nowhere"')
    del book.cells[book.cells.index(model) + 1 :]
    book = execute(book)
    (model,) = tagged(book, "model")
    assert printed(model).startswith("FRESH RANDOM PARAMETERS")
    assert "no weights at '/nowhere'" in printed(model)
    assert "decoder" in printed(model)
