"""How things are asked: six wordings a question, a request or a prompt, so that wording x subject
can be held out."""

# group: (slot that is the subject, six wordings)
QUESTIONS = {
    "colour_of": ("shape", (
        "what colour is the {shape}", "which colour does the {shape} have",
        "tell me the colour of the {shape}", "the {shape} is what colour",
        "name the colour of the {shape}", "can you see what colour the {shape} is",
    )),
    "shape_of": ("colour", (
        "what shape is {colour}", "which shape is the {colour} one",
        "tell me the shape of the {colour} thing", "the {colour} thing has what shape",
        "name the shape that is {colour}", "can you see which shape is {colour}",
    )),
    "place_of_shape": ("shape", (
        "where is the {shape}", "in which place is the {shape}",
        "tell me where the {shape} is", "the {shape} is where",
        "name the place of the {shape}", "can you see where the {shape} is",
    )),
    "place_of_colour": ("colour", (
        "where is the {colour} thing", "in which place is the {colour} one",
        "tell me where the {colour} thing is", "the {colour} one is where",
        "name the place of the {colour} thing", "can you see where the {colour} one is",
    )),
    "what_at": ("place", (
        "what is at the {place}", "which thing is at the {place}",
        "tell me what is at the {place}", "at the {place} there is what",
        "name the thing at the {place}", "can you see what is at the {place}",
    )),
    "how_many": ("shape", (
        "how many {shape}s are there", "what is the number of {shape}s",
        "tell me how many {shape}s you see", "count the {shape}s",
        "name the number of {shape}s", "can you see how many {shape}s there are",
    )),
    "sound_time": ("sound", (
        "when do you hear the {sound}?", "at what time does the {sound} sound?",
        "tell me when the {sound} comes.", "the {sound} comes when?",
        "name the time of the {sound}.", "how many seconds until the {sound}?",
    )),
}  # fmt: skip

TRANSCRIBE_PROMPTS = (
    "transcribe the speech.", "write down what is said.", "what does the voice say?",
    "write the words you hear.",
)  # fmt: skip
DESCRIBE_PROMPTS = (
    "describe the picture.", "what is in the picture?", "say what you see and where.",
    "name everything in the picture.",
)  # fmt: skip
CAPTION_PROMPTS = (
    "describe what happens, with times.", "what happens in the clip, and when?",
    "write a caption with a time for each event.", "list the events with their times.",
)  # fmt: skip
SAY_PROMPTS = (
    "say in the voice of {voice}: {text}", "read this aloud as {voice}: {text}",
    "with the voice of {voice}, say: {text}", "speak as {voice} and say: {text}",
)  # fmt: skip

# name: (description, parameters in order of the subject first, six requests, result, closing words)
TOOLS = {
    "draw": ("draw a new shape", ("shape", "colour", "place"), (
        "draw a {colour} {shape} at the {place}",
        "please draw a {shape} in {colour} at the {place}",
        "i want a {colour} {shape} at the {place}", "at the {place} draw a {colour} {shape}",
        "could you add a {colour} {shape} at the {place}",
        "make a {colour} {shape} at the {place}",
    ), "done. there is now a {colour} {shape} at the {place}."),
    "move": ("move a shape to a place", ("shape", "place"), (
        "move the {shape} to the {place}", "please bring the {shape} to the {place}",
        "i want the {shape} at the {place}", "to the {place} with the {shape}",
        "could you push the {shape} to the {place}", "let the {shape} go to the {place}",
    ), "done. the {shape} is now at the {place}."),
    "paint": ("give a shape a new colour", ("shape", "colour"), (
        "paint the {shape} {colour}", "please give the {shape} the colour {colour}",
        "i want the {shape} to be {colour}", "{colour} is the new colour of the {shape}",
        "could you turn the {shape} {colour}", "make the {shape} {colour}",
    ), "done. the {shape} is now {colour}."),
    "play": ("play a sound", ("sound", "times"), (
        "play the {sound} {times} times", "please play {times} times the {sound}",
        "i want to hear the {sound} {times} times", "{times} times the {sound}",
        "could you play me the {sound} {times} times", "let the {sound} sound {times} times",
    ), "done. the {sound} played {times} times."),
    "timer": ("start a timer", ("amount", "unit"), (
        "set a timer for {amount} {unit}", "please start a timer of {amount} {unit}",
        "i want a timer for {amount} {unit}", "in {amount} {unit} wake me up",
        "could you count {amount} {unit} for me", "let the timer run for {amount} {unit}",
    ), "done. the timer runs for {amount} {unit}."),
    "remove": ("remove a shape", ("colour", "shape"), (
        "remove the {colour} {shape}", "please take the {colour} {shape} away",
        "i want the {colour} {shape} gone", "away with the {colour} {shape}",
        "could you delete the {colour} {shape}", "let the {colour} {shape} disappear",
    ), "done. the {colour} {shape} is gone."),
}  # fmt: skip
UNITS = ("seconds", "minutes", "hours")


def tool_definition(name: str) -> dict:
    """A tool in the format that a chat's ``tools`` list takes."""
    description, parameters, _, _ = TOOLS[name]
    kinds = {key: "integer" if key in ("times", "amount") else "string" for key in parameters}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in kinds.items()},
                "required": list(parameters),
            },
        },
    }
