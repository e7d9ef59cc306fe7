"""Requests, spoken or written, that a tool call answers."""

from omnijax.data.omniworld import language as lang
from omnijax.data.omniworld.drawing import (
    VALUES,
    assistant_turn,
    draw_wording,
    spoken,
    text_item,
    until_it_belongs,
    user_turn,
)
from omnijax.data.omniworld.scenes import pick
from omnijax.data.omniworld.wordings import TOOLS, tool_definition


def tool_call(rng, split: str, by_voice: bool) -> dict:
    """A request for one of two or three tools that are offered; sometimes what follows the call."""
    name = pick(rng, list(TOOLS))
    _, parameters, requests, closing = TOOLS[name]

    def draw():
        slots = {key: pick(rng, VALUES[key]) for key in parameters}
        subject = parameters[0]
        wording = draw_wording(rng, f"tool {name}", VALUES[subject].index(slots[subject]))
        request = lang.fluent(requests[wording["index"]].format(**slots))
        arguments = {key: lang.NUMBERS.index(value) + 1 if key in ("times", "amount") else value
                     for key, value in slots.items()}  # fmt: skip
        things = [{key: slots[key] for key in ("shape", "colour", "place") if key in slots}]
        if "shape" not in slots:
            things = []
        others = [str(n) for n in rng.permutation([n for n in TOOLS if n != name])]
        offered = [name, *others[: int(rng.integers(1, 3))]]
        tools = [tool_definition(offered[i]) for i in rng.permutation(len(offered))]
        call = {"name": name, "arguments": arguments}
        messages = [{"role": "assistant", "content": "",
                     "tool_calls": [{"type": "function", "function": call}]}]  # fmt: skip
        if rng.random() < 0.4:
            messages += [{"role": "tool", "content": '{"ok": true}'},
                         assistant_turn(lang.fluent(closing.format(**slots)))]  # fmt: skip
        meta = {"objects": things, "asked": {"objects": list(range(len(things)))},
                "wording": wording, "call": call, "question": request,
                "answer": ""}  # fmt: skip
        media, item = [], text_item(request + ".")
        if by_voice:
            media = [spoken(rng, request, "en", split)]
            item = {"type": "audio", "audio": 0}
            meta |= {"voice": media[0]["voice"], "language": "en", "transcript": request}
        messages = [user_turn(item), *messages]
        return {"messages": messages, "tools": tools, "media": media, "meta": meta}

    return until_it_belongs(split, draw)
