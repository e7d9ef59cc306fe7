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


def answer_about(kind: str, thing: dict, objects: list[dict]) -> str | None:
    """The answer to a question about one object of a picture; None where it is not the only one."""

    def alone(key: str) -> bool:
        return sum(other[key] == thing[key] for other in objects) == 1

    match kind:
        case "colour_of":
            return thing["colour"] if alone("shape") else None
        case "shape_of":
            return thing["shape"] if alone("colour") else None
        case "place_of_shape":
            return thing["place"] if alone("shape") else None
        case "place_of_colour":
            return thing["place"] if alone("colour") else None
        case "what_at":
            return f"{thing['colour']} {thing['shape']}"
    return NUMBERS[sum(other["shape"] == thing["shape"] for other in objects) - 1]
