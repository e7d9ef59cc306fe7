"""Requests, spoken or written, that a tool call answers."""

from omnijax.data.omniworld import language as lang
from omnijax.data.omniworld.drawing import (
    VALUES,
    assistant_turn,
    draw_wording,
    spoken,
    text_item,
    trained_wording,
    until_it_belongs,
    user_turn,
)
from omnijax.data.omniworld.scenes import pick
from omnijax.data.omniworld.wordings import TOOLS, tool_definition

MORE_REQUESTS = 3  # that may follow in training: the tools' definitions cost more than a request
GOES_ON = 0.8


def tool_call(rng, split: str, by_voice: bool) -> dict:
    """A request for one of two or three tools that are offered; sometimes what follows the call.

    In training most go on with further requests for what is offered.
    """
    name = pick(rng, list(TOOLS))
    parameters = TOOLS[name][1]

    def draw():
        slots = {key: pick(rng, VALUES[key]) for key in parameters}
        subject = parameters[0]
        wording = draw_wording(rng, f"tool {name}", VALUES[subject].index(slots[subject]))
        first = _request(name, slots, wording)
        things = first["things"]
        others = [str(n) for n in rng.permutation([n for n in TOOLS if n != name])]
        offered = [name, *others[: int(rng.integers(1, 3))]]
        tools = [tool_definition(offered[i]) for i in rng.permutation(len(offered))]
        meta = {"objects": things, "asked": {"objects": list(range(len(things)))},
                "wording": wording, "call": first["call"], "question": first["words"],
                "answer": ""}  # fmt: skip
        requests, ends = [first], rng.random() < 0.4
        if split == "train" and rng.random() < GOES_ON:
            requests += [_trained_request(rng, pick(rng, offered))
                         for _ in range(int(rng.integers(1, MORE_REQUESTS + 1)))]  # fmt: skip
            meta["objects"] = [thing for request in requests for thing in request["things"]]
            meta["more_wordings"] = [request["wording"] for request in requests[1:]]
        media, messages = [], []
        for number, request in enumerate(requests):
            item = text_item(request["words"] + ".")
            if by_voice:
                item = {"type": "audio", "audio": number}
                voice = media[0] if media else spoken(rng, "", "en", split)
                media.append(voice | {"text": request["words"]})
            messages += [user_turn(item), request["answer"]]
            if ends or number + 1 < len(requests):
                messages += [{"role": "tool", "content": '{"ok": true}'},
                             assistant_turn(request["closing"])]  # fmt: skip
        if by_voice:
            meta |= {"voice": media[0]["voice"], "language": "en", "transcript": first["words"]}
        return {"messages": messages, "tools": tools, "media": media, "meta": meta}

    return until_it_belongs(split, draw)


def _request(name: str, slots: dict, wording: dict) -> dict:
    """A request in words, the call that answers it, and what is said once that is done."""
    _, _, requests, closing = TOOLS[name]
    arguments = {key: lang.NUMBERS.index(value) + 1 if key in ("times", "amount") else value
                 for key, value in slots.items()}  # fmt: skip
    call = {"name": name, "arguments": arguments}
    thing = {key: slots[key] for key in ("shape", "colour", "place") if key in slots}
    return {
        "words": lang.fluent(requests[wording["index"]].format(**slots)),
        "wording": wording,
        "things": [thing] if "shape" in slots else [],
        "call": call,
        "answer": {"role": "assistant", "content": "",
                   "tool_calls": [{"type": "function", "function": call}]},
        "closing": lang.fluent(closing.format(**slots)),
    }  # fmt: skip


def _trained_request(rng, name: str) -> dict:
    """A request that training may hold."""
    parameters = TOOLS[name][1]

    def draw():
        slots = {key: pick(rng, VALUES[key]) for key in parameters}
        subject = VALUES[parameters[0]].index(slots[parameters[0]])
        request = _request(name, slots, trained_wording(rng, f"tool {name}", subject))
        return request | {"meta": {"objects": request["things"]}}

    return until_it_belongs("train", draw)
