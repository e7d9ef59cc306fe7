"""The Gated DeltaNet notebook as a reader runs it; what its cells claim to check, they show."""

import re
from pathlib import Path

import nbformat

BOOK = Path(__file__).parents[2] / "notebooks" / "gated_delta_net.ipynb"
PICTURE_BYTES = 5_000  # an empty pair of axes has less


def tagged(book, tag):
    return [cell for cell in book.cells if tag in cell.metadata.get("tags", ())]


def printed(cell):
    return "".join(out.text for out in cell.outputs if out.output_type == "stream")


def test_it_is_kept_without_outputs():
    book = nbformat.read(BOOK, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_every_step_of_the_derivation_is_right_and_every_picture_is_drawn(execute):
    book = nbformat.read(BOOK, as_version=4)
    (lengths,) = tagged(book, "lengths")
    assert "ROUNDS = 7" in lengths.source and "4096" in lengths.source
    lengths.source = "LENGTHS = (32, 64)\nROUNDS = 2"  # the same path, in less time
    book = execute(book)
    checks = "".join(printed(cell) for cell in tagged(book, "check"))
    # Errors of the derivation; the series that is meant to fail is the only large one.
    errors = [float(x) for x in re.findall(r"\d\.\de[+-]\d+", checks)]
    assert len(errors) >= 20
    assert [e for e in errors if e > 1e-5] == [max(errors)] and max(errors) > 1e3
    pictures = tagged(book, "picture")
    assert len(pictures) == 5
    for cell in pictures:
        drawn = [
            out.data["image/png"] for out in cell.outputs if "image/png" in out.get("data", {})
        ]
        assert drawn and all(len(image) > PICTURE_BYTES for image in drawn), cell.source
    (crossover,) = tagged(book, "crossover")
    assert "GDN is faster from T = " in printed(crossover)
