"""The codec as a tool: what goes in comes back, and what is wrong is said before any work."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnijax.data.codes import fingerprint
from omnijax.media import Audio, load_audio, save_audio
from omnijax.models.codec import Codec
from omnijax.train.checkpoint import load_weights, save_weights
from omnijax.train.stages import to_dict

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "codec"))
import tiny_codec as tiny  # noqa: E402

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "experiments/codec.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    codec = Codec(tiny.config())
    samples = jnp.zeros((1, codec.config.samples_per_frame))
    params = jax.jit(codec.init)(jax.random.key(0), samples)["params"]
    save_weights(folder, {"codec": params}, {"codec": to_dict(codec.config)})
    return folder


def mark_of(weights):
    return fingerprint(load_weights(weights)[0]["codec"]["quantiser"]["codebooks"])


def test_a_clip_goes_to_codes_and_comes_back_at_its_own_length(weights, tmp_path):
    rng = np.random.default_rng(0)
    wave, codes = tmp_path / "x.wav", tmp_path / "codes.npz"
    save_audio(wave, Audio((0.1 * rng.standard_normal(1000)).astype(np.float32), 24_000))
    done = run("encode", wave, codes, f"--weights={weights}")
    assert done.returncode == 0, done.stderr
    config = tiny.config()
    with np.load(codes) as file:
        assert file["codes"].shape == (-(-1000 // config.samples_per_frame), config.codebooks)
        assert int(file["samples"]) == 1000
        assert str(file["codec"]) == mark_of(weights)
    done = run("decode", codes, tmp_path / "y.wav", f"--weights={weights}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    back = load_audio(tmp_path / "y.wav")
    assert back.sample_rate == 24_000 and len(back.samples) == 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of train, encode IN OUT"),
        (("encode", "nowhere.wav", "codes.npz"), "nowhere.wav"),
        (("decode", "nowhere.npz", "y.wav"), "cannot read codes from nowhere.npz"),
        (("decode", "nowhere.npz", "y.xyz"), "give the name of a .wav file"),
        (("score", "--out=no/where.json"), "cannot write no/where.json: its folder does not exist"),
        # Before the codec is loaded, and so before it is scored.
        (("score", "--recogniser=typo", "--weights=typo"), "no weights at 'typo'"),
        (("train",), "give --config=FILE:STAGE"),
        (("export", "nowhere", "folder"), "nowhere"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_file_of_codes_that_is_cut_off_is_named(weights, tmp_path):
    np.savez(tmp_path / "whole.npz", codes=np.zeros((2, 4), np.int32), samples=10)
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in (0, 40, len(whole) // 2):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        done = run("decode", tmp_path / "cut.npz", tmp_path / "y.wav", f"--weights={weights}")
        assert done.returncode == 2 and "cannot read codes from" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_codes_that_the_codec_does_not_have_are_named(weights, tmp_path):
    config = tiny.config()
    codes = np.full((2, config.codebooks), config.codes, np.int32)
    np.savez(tmp_path / "bad.npz", codes=codes, samples=10, sample_rate=24_000)
    done = run("decode", tmp_path / "bad.npz", tmp_path / "y.wav", f"--weights={weights}")
    assert done.returncode == 2 and "is out of range" in done.stderr
    assert "bad.npz does not say which codec made it" in done.stderr


def test_codes_of_another_codec_are_refused(weights, tmp_path):
    codes = np.zeros((2, tiny.config().codebooks), np.int32)
    np.savez(tmp_path / "x.npz", codes=codes, samples=10, sample_rate=24_000, codec="another")
    done = run("decode", tmp_path / "x.npz", tmp_path / "y.wav", f"--weights={weights}")
    assert done.returncode == 2 and not (tmp_path / "y.wav").exists()
    said = f"x.npz has codes of codec another, --weights={weights} is {mark_of(weights)}"
    assert said in done.stderr
