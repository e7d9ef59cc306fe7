"""Scenes that fit a question about a picture: the answer first, then what else is there."""

from omnijax.data.omniworld.language import NUMBERS
from omnijax.data.omniworld.splits import COLOURS, PLACES, SHAPES


def pick(rng, values):
    return values[int(rng.integers(len(values)))]


def draw_scene(rng, kind: str, answer: tuple, size: int) -> tuple[list[dict], dict, int] | None:
    """Objects, the slots of the question, and how many of the first objects it asks about."""
    shape, colour, place = (pick(rng, v) for v in (SHAPES, COLOURS, PLACES))
    count = 1
    match kind:
        case "colour_of":
            (colour,) = answer
        case "shape_of":
            (shape,) = answer
        case "place_of_shape" | "place_of_colour":
            (place,) = answer
        case "what_at":
            colour, shape = answer
        case "how_many":
            (count,) = answer
    places = [place, *(str(p) for p in rng.permutation([p for p in PLACES if p != place]))]
    objects = [{"shape": shape, "colour": colour, "place": place}]
    if kind == "how_many":
        objects += [
            {"shape": shape, "colour": pick(rng, COLOURS), "place": places[1 + i]}
            for i in range(count - 1)
        ]
    for _ in range(size - len(objects)):
        other = {"shape": pick(rng, SHAPES), "colour": pick(rng, COLOURS)}
        if kind in ("colour_of", "place_of_shape", "how_many") and other["shape"] == shape:
            return None
        if kind in ("shape_of", "place_of_colour") and other["colour"] == colour:
            return None
        objects.append(other | {"place": places[len(objects)]})
    return objects, {"shape": shape, "colour": colour, "place": place}, count


def draw_answer(rng, kind: str) -> tuple[tuple, str]:
    match kind:
        case "colour_of":
            colour = pick(rng, COLOURS)
            return (colour,), colour
        case "shape_of":
            shape = pick(rng, SHAPES)
            return (shape,), shape
        case "place_of_shape" | "place_of_colour":
            place = pick(rng, PLACES)
            return (place,), place
        case "what_at":
            colour, shape = pick(rng, COLOURS), pick(rng, SHAPES)
            return (colour, shape), f"{colour} {shape}"
    count = int(rng.integers(1, 4))
    return (count,), NUMBERS[count - 1]
