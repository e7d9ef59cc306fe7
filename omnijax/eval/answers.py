"""A model's answers to a list of chats, in batches; also with a modality replaced by noise."""

import copy
from collections.abc import Sequence

import numpy as np

from omnijax.errors import UserError
from omnijax.generate.prompts import collate_prompts
from omnijax.generate.text import TextGenerator
from omnijax.media.audio import Audio
from omnijax.media.processor import ProcessorConfig
from omnijax.media.video import Video
from omnijax.text.chat import render
from omnijax.text.tokenizer import Tokenizer

MODALITIES = ("image", "audio", "video")


def prompt(chat: dict) -> dict:
    """The chat up to the assistant's first turn."""
    roles = [message["role"] for message in chat["messages"]]
    end = roles.index("assistant") if "assistant" in roles else len(roles)
    return {**chat, "messages": chat["messages"][:end]}


def with_noise(chat: dict, modality: str, rng: np.random.Generator) -> dict:
    """The chat with every picture, clip or sound of a modality replaced by noise of its size.

    A clip's frames belong to "video", its sound track to "audio". Sound becomes white noise of
    the same power, pictures become uniform noise.
    """
    if modality not in MODALITIES:
        raise UserError(f"modality is {modality!r}, it must be one of {MODALITIES}")

    def noisy_pixels(pixels):
        return rng.integers(0, 256, pixels.shape, dtype=np.uint8)

    def noisy_audio(audio):
        power = float(np.sqrt(np.mean(np.square(audio.samples)))) or 0.05
        noise = power * rng.standard_normal(audio.samples.shape)
        return Audio(np.clip(noise, -1, 1).astype(np.float32), audio.sample_rate)

    def noisy(item):
        if item.get("type") == "image" and modality == "image":
            return {**item, "image": noisy_pixels(item["image"])}
        if item.get("type") == "audio" and modality == "audio":
            return {**item, "audio": noisy_audio(item["audio"])}
        if item.get("type") == "video":
            video: Video = item["video"]
            if modality == "video":
                video = video._replace(frames=noisy_pixels(video.frames))
            elif modality == "audio" and video.audio is not None:
                video = video._replace(audio=noisy_audio(video.audio))
            return {**item, "video": video}
        return item

    chat = copy.copy(chat)
    chat["messages"] = [
        {**message, "content": [noisy(item) for item in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in chat["messages"]
    ]
    return chat


def answer(
    generator: TextGenerator,
    tokenizer: Tokenizer,
    processor: ProcessorConfig,
    chats: Sequence[dict],
    *,
    batch_size: int = 32,
    max_new_tokens: int = 96,
) -> list[str]:
    """The model's first turn in each chat, as text without the stop token.

    Raises:
      UserError: a chat does not fit, said before the first is answered.
    """
    rendered = [render(prompt(c), tokenizer, processor, add_generation_prompt=True) for c in chats]
    lengths = [len(row.tokens) for row in rendered]
    if lengths and (longest := max(lengths)) + max_new_tokens > generator.max_len:
        raise UserError(
            f"chat {lengths.index(longest)} of {len(chats)} does not fit: {longest} tokens and an "
            f"answer of up to {max_new_tokens}, the limit (max_len) is {generator.max_len}"
        )
    # Prompts of like size share a batch; answers go back to their own places.
    order = sorted(
        range(len(rendered)),
        key=lambda i: (len(rendered[i].patch_frames), lengths[i]),
    )
    answers = [""] * len(rendered)
    for begin in range(0, len(order), batch_size):
        places = order[begin : begin + batch_size]
        inputs = collate_prompts([rendered[i] for i in places], processor, batch_size)
        tokens = generator(inputs, max_new_tokens)
        for place, row in zip(places, tokens, strict=False):
            row = [token for token in row if token not in generator.stop_ids]
            answers[place] = tokenizer.decode(row)
    return answers
