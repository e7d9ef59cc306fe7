"""Speech by espeak-ng, in process, the same samples for the same words and voice.

espeak-ng keeps state from one utterance to the next (pitch phase, flutter), so that the same words
sound different a second time. Each utterance therefore loads a fresh copy of the library, which
takes half a millisecond. Source: espeak-ng 1.52, ``speak_lib.h``.
"""

import _ctypes
import atexit
import ctypes
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr

from omnijax.data.omniworld.voices import Formants, voice_of
from omnijax.errors import UserError
from omnijax.typing import Float

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_RATE, _PITCH = 1, 3
_UTF8 = 1
_VARIANTS = Path("voices/!v")
_MAX_DATA_PATH = 140  # espeak copies the path of its data into a buffer of 160 bytes
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
_lock = threading.Lock()  # the library has one global state


def speak(
    text: str,
    voice: str,
    accent: str,
    rng: np.random.Generator,
    sample_rate: int = 16_000,
    hiss: bool = True,
) -> Float[np.ndarray, " A"]:
    """An utterance of 1-3.5 s with a little silence about it and, if asked, a faint hiss.

    ``voice`` is a name that voices.py knows; ``rng`` moves pitch, rate and loudness a little.
    """
    speaker = voice_of(voice)
    pitch = speaker.pitch + int(rng.integers(-4, 5))
    rate = speaker.rate + int(rng.integers(-8, 9))
    rate = round(rate / speaker.stretch)  # what is played faster is spoken slower
    variant, formants = f"{accent}+{speaker.variant}", speaker.formants
    samples, own_rate = synthesise(text, variant, rate, pitch, formants)
    samples = _trim(samples)
    own_rate = own_rate if speaker.stretch == 1 else round(own_rate * speaker.stretch)
    limit = 3.2 * own_rate
    if len(samples) > limit:
        faster = int(rate * len(samples) / limit) + 8
        samples, _ = synthesise(text, variant, faster, pitch, formants)
        samples = _trim(samples)
    samples = soxr.resample(samples, own_rate, sample_rate)
    before, after = (rng.uniform(0.05, 0.2, 2) * sample_rate).astype(int)
    # A one-word utterance is filled up to a second.
    after = max(after, sample_rate - before - len(samples))
    samples = np.pad(samples / max(np.abs(samples).max(), 1e-3), (before, after))
    samples *= rng.uniform(0.35, 0.8)
    if hiss:
        samples = samples + rng.standard_normal(len(samples)) * rng.uniform(5e-4, 2e-3)
    return samples


def synthesise(
    text: str, voice: str, rate: int, pitch: int, formants: Formants = ()
) -> tuple[np.ndarray, int]:
    """Raw espeak-ng: float32 samples and their rate (22,050 Hz); rate in words a minute.

    ``voice`` is a language and a variant, "en-us+f1", whose ``formants`` are changed by
    these factors.
    """
    parts: list[np.ndarray] = []

    def keep(wave, count, _events) -> int:
        if wave and count > 0:
            parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    callback = _CALLBACK(keep)
    with _lock:
        if formants:
            data, voice = _with_formants(voice, formants)
        else:
            data = _data_path()
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        try:
            own_rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), 0)
            if own_rate <= 0:
                raise RuntimeError(f"espeak-ng does not start with its data at {data}")
            if hasattr(library, "espeak_ng_SetRandSeed"):
                library.espeak_ng_SetRandSeed(1)
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(voice.encode()):
                raise RuntimeError(f"espeak-ng has no voice {voice!r}")
            library.espeak_SetParameter(_RATE, rate, 0)
            library.espeak_SetParameter(_PITCH, pitch, 0)
            words = text.encode() + b"\0"
            library.espeak_Synth(words, len(words), 0, 0, 0, _UTF8, None, None)
            library.espeak_Synchronize()
        finally:
            library.espeak_Terminate()
            _unload(library._handle)
    if not parts:
        raise RuntimeError(f"espeak-ng said nothing for {text!r} in {voice!r}")
    return np.concatenate(parts).astype(np.float32) / 32768, own_rate


def _unload(handle: int) -> None:
    if hasattr(_ctypes, "dlclose"):
        _ctypes.dlclose(handle)
    else:
        _ctypes.FreeLibrary(handle)


def _with_formants(voice: str, factors: Formants) -> tuple[str, str]:
    """(A folder of data, a voice in it): the variant with its formants changed.

    espeak-ng reads variants from files beside its data, and lists them all: there is one of ours,
    written anew each time.
    """
    data = _own_data()
    language, _, variant = voice.partition("+")
    source = Path(espeakng_loader.get_data_path()) / _VARIANTS / variant
    lines = changed(source.read_text().splitlines(), factors)
    (data / _VARIANTS / "own").write_text("\n".join([*lines, ""]))
    return str(data), f"{language}+own"


def changed(lines: Sequence[str], factors: Formants) -> list[str]:
    """A variant's lines with each formant's percentages (frequency, height, width) times its
    factors; what a variant does not say of a formant stays as espeak-ng has it."""
    new = []
    for line in lines:
        if line.startswith("formant"):
            key, number, *percent = line.split("//")[0].split()
            own = factors[int(number)]
            scaled = [round(int(p) * by) for p, by in zip(percent, own, strict=False)]
            line = " ".join([key, number, *map(str, scaled), *percent[len(own) :]])
        new.append(line)
    return new


_own: dict[int, Path] = {}  # this process's folder, by its number: a fork makes another


def _own_data() -> Path:
    """espeak-ng's data by links, in this process's own folder, where a variant can be added."""
    process = os.getpid()
    if process not in _own or not (_own[process] / _VARIANTS).is_dir():
        folder = Path(tempfile.mkdtemp(prefix="espeak-"))
        if len(os.fsencode(folder)) > _MAX_DATA_PATH:
            folder.rmdir()
            raise UserError(
                f"the folder for temporary files is {folder.parent}: with what espeak-ng needs "
                f"there its name has {len(os.fsencode(folder))} bytes, the limit is "
                f"{_MAX_DATA_PATH} (TMPDIR names another)"
            )
        (folder / _VARIANTS).mkdir(parents=True)
        for entry in Path(espeakng_loader.get_data_path()).iterdir():
            if entry.name != _VARIANTS.parts[0]:
                (folder / entry.name).symlink_to(entry)
        atexit.register(_remove, folder, process)
        _own[process] = folder
    return _own[process]


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _data_path() -> str:
    path = str(espeakng_loader.get_data_path())
    if len(path) <= _MAX_DATA_PATH:
        return path
    name = hashlib.sha256(path.encode()).hexdigest()[:12]
    link = os.path.join(tempfile.gettempdir(), f"espeak-{os.getuid()}-{name}")
    if not os.path.isdir(link):
        fresh = f"{link}.{os.getpid()}"
        os.symlink(path, fresh)
        os.replace(fresh, link)
    return link


def _trim(samples: np.ndarray) -> np.ndarray:
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples
