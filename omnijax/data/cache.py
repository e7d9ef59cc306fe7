"""Rendered examples kept in memory: the first epoch renders, later ones only copy."""

import threading
from typing import Any, NamedTuple

import numpy as np

LARGE = ("audio_mel", "mel", "patches")  # of Rendered and Spoken


class PackedPatches:
    """Patches of 8-bit images as bytes and the table that restores them bit for bit.

    A patch value is one of 256: what the processor makes of a byte x is (x / 255 - 0.5) / 0.5.
    """

    __slots__ = ("codes", "table")

    def __init__(self, codes: np.ndarray, table: np.ndarray):
        self.codes, self.table = codes, table

    def unpack(self) -> np.ndarray:
        return self.table[self.codes]

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes


def pack_patches(patches: np.ndarray) -> "PackedPatches | np.ndarray":
    """A quarter of the memory where that loses nothing, else the array itself."""
    codes = np.clip(np.rint((patches * 0.5 + 0.5) * 255), 0, 255).astype(np.uint8)
    table = np.zeros(256, np.float32)
    table[codes.reshape(-1)] = patches.reshape(-1)
    return PackedPatches(codes, table) if np.array_equal(table[codes], patches) else patches


class RenderedCache:
    """Examples by key and variant, until ``limit_bytes`` are used; further ones are not kept.

    Variants of an example differ in short arrays; its mel and patches are kept once.
    """

    def __init__(self, limit_bytes: int):
        self.limit_bytes, self.used_bytes = limit_bytes, 0
        self._media: dict[Any, tuple] = {}
        self._rest: dict[Any, NamedTuple] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rest)

    def get(self, key: Any, variant: int = 0) -> Any:
        rest = self._rest.get((key, variant))
        if rest is None:
            return None
        values = (x.unpack() if isinstance(x, PackedPatches) else x for x in self._media[key])
        fields = (name for name in LARGE if hasattr(rest, name))
        return rest._replace(**dict(zip(fields, values, strict=True)))

    def put(self, key: Any, variant: int, example: Any) -> None:
        if self.used_bytes >= self.limit_bytes:
            return
        large = {name: getattr(example, name) for name in LARGE if hasattr(example, name)}
        rest = example._replace(**{name: value[:0].copy() for name, value in large.items()})
        size = sum(x.nbytes for x in rest)
        media = self._media.get(key)
        if media is None:
            if large.get("patches") is not None and large["patches"].size:
                large["patches"] = pack_patches(large["patches"])
            media = tuple(large.values())
            size += sum(x.nbytes for x in media)
        with self._lock:
            if (key, variant) not in self._rest and self.used_bytes + size <= self.limit_bytes:
                self._media.setdefault(key, media)
                self._rest[key, variant] = rest
                self.used_bytes += size
