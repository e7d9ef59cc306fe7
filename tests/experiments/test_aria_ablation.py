"""The ablation trains and scores every way to interleave, goes on, and names what is wrong."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import aria_ablation as ablation
from omnijax.data.codes import CodesSource, Utterance, fingerprint, write_codes
from omnijax.errors import UserError
from omnijax.generate.speech import SpeechConfig
from omnijax.models.talker import TalkerConfig
from omnijax.train.checkpoint import save_weights
from omnijax.train.stages import from_dict, to_dict
from omnijax.train.talker import TalkerTraining

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
import test_voice_stages as voices  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_compile")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("codes"), np.random.default_rng(0)
    params = voices.codec_params()
    for split in ("train", "validation", "test"):
        made = [
            Utterance(f"a red bell {i}", "en", "ab"[i % 2], "a man", rng.integers(0, 11, (9, 4)))
            for i in range(12)
        ]
        write_codes(folder, split, made, fingerprint(params["quantiser"]["codebooks"]))
    config = {"codec": to_dict(voices.tiny.config())}
    save_weights(folder / "codec", {"codec": params}, config)
    return ablation.Settings(
        variants=("chunked", "dual_track", "learned"), seeds=1, steps=1, languages=("en",),
        prefixes=(0, 6), sentences=(1, 2), answers=3, codes=str(folder),
        codec=str(folder / "codec"),
    )  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """The least Talker in place of nano's, and a recogniser that hears the same in everything."""

    def config_of(variant, settings, seed):
        config = voices.talker_config(settings.codes, settings.steps)
        config["talker"]["form"] = variant.form
        config["training"] |= {"schedules": ",".join(variant.schedules), "asks": variant.asks}
        return config

    monkeypatch.setattr(ablation, "config_of", config_of)
    heard = SimpleNamespace(params={"embed": {"table": np.ones(3)}})
    monkeypatch.setattr("omnijax.pretrained.load", lambda name: heard)
    hearings = []

    def transcripts(recogniser, clips):
        hearings.append(len(clips))
        return ["a red bell"] * len(clips)

    monkeypatch.setattr("omnijax.eval.spoken.transcripts", transcripts)
    return hearings


@pytest.mark.parametrize(
    "variants",
    [
        ("dual_track",),
        pytest.param(("chunked", "dual_track", "learned"), marks=pytest.mark.slow),
    ],
)
def test_every_variant_is_trained_scored_and_shown_and_a_second_run_adds_nothing(
    settings, tiny, variants, tmp_path, capsys
):
    settings = ablation.dataclasses.replace(settings, variants=variants)
    page = ablation.run(settings, tmp_path)
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [*runs] == [f"{name}/0" for name in variants]
    for key, run in runs.items():
        prefixes = ["0"] if key.startswith("dual") else ["0", "6"]
        assert [*run["cells"]] == prefixes and np.isfinite(run["losses"]["semantic"])
        assert ("request" in run["losses"]) == key.startswith("learned")
        for languages in run["cells"].values():
            for cell in languages["en"].values():
                assert 0 < cell["wer"] <= 1 and cell["seconds"] >= 0
        if key.startswith("chunked"):
            first = run["first sound"]
            assert first["0"]["tokens"] == 4 and first["6"]["tokens"] >= 6
    # The source speech of both lengths once, whatever the variants and prefixes.
    assert tiny == [3] * (2 + sum(2 * len(run["cells"]) for run in runs.values()))
    text = page.read_text()
    for words in (*variants, "In short", "Word error rate"):
        assert words in text
    capsys.readouterr()
    ablation.run(settings, tmp_path)
    assert f"{variants[0]}/0 is in" in capsys.readouterr().out

    results = json.loads((tmp_path / "results.json").read_text())
    results["runs"][f"{variants[0]}/0"]["variant"]["window"] = 9
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=rf"{variants[0]}/0 in .* was .*'window': 9"):
        ablation.run(settings, tmp_path)

    if len(variants) == 1:  # the rest is of the slow one
        return
    # Killed between training and the end of scoring: trained to its end, and not in the results.
    (tmp_path / "results.json").unlink()
    ablation.run(ablation.dataclasses.replace(settings, variants=("dual_track",)), tmp_path)
    again = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert again["dual_track/0"]["losses"] == runs["dual_track/0"]["losses"]


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_a_variants_config_has_its_streams_and_its_window(settings, name):
    variant = ablation.VARIANTS[name]
    config = ablation.config_of(variant, settings, 3)
    talker = from_dict(TalkerConfig, config["talker"])
    training = from_dict(TalkerTraining, config["training"])
    assert (talker.form, talker.decoder.attention_window) == (variant.form, variant.window)
    assert (training.schedules, training.asks) == (variant.schedules, variant.asks)
    assert SpeechConfig(**variant.speech).lead == (12 if name == "held" else 0)
    assert (config["stage"]["seed"], config["stage"]["steps"]) == (3, settings.steps)
    # The recipe's own ways are not the ablation's, whose results stand.
    assert (training.codes, training.mtp_frames, training.frame_noise) == ("", 128, 0.0)


def test_variants_may_start_from_one_talker(settings):
    for start, expected in (("", ()), ("weights:nano/talker", ("weights:nano/talker",))):
        chosen = ablation.dataclasses.replace(settings, starts_from=start)
        config = ablation.config_of(ablation.VARIANTS["chunked"], chosen, 0)
        assert tuple(config["stage"]["starts_from"]) == expected


def test_a_start_that_is_no_weights_is_refused_before_anything_is_loaded(settings, tmp_path):
    settings = ablation.dataclasses.replace(settings, starts_from="nano/talker")
    with pytest.raises(UserError, match=r"--starts_from=nano/talker: give weights:FOLDER"):
        ablation.run(settings, tmp_path)
    settings = ablation.dataclasses.replace(settings, starts_from="weights:nowhere")
    with pytest.raises(UserError, match="nowhere"):
        ablation.run(settings, tmp_path)


def test_answers_are_of_one_voice_and_use_no_sentence_twice(settings):
    source = CodesSource(settings.codes, "test")
    answers = ablation.answers_of(source, "en", 2, 6)
    sentences = [
        s for text, _, _ in answers for s in text.replace("a red", "|a red").split("|")[1:]
    ]
    assert len(sentences) == len({s.strip() for s in sentences}) == 12
    assert {voice for _, voice, _ in answers} == {"a", "b"}
    with pytest.raises(UserError, match="the codes have 6 answers of 2 sentences in 'en'"):
        ablation.answers_of(source, "en", 2, 7)


def test_codes_of_another_codec_are_refused(settings, tiny, tmp_path):
    write_codes(tmp_path / "codes", "train", [CodesSource(settings.codes)[0]], "of another")
    other = ablation.dataclasses.replace(settings, codes=str(tmp_path / "codes"))
    with pytest.raises(UserError, match="are of another codec than"):
        ablation.run(other, tmp_path / "into")


def test_results_of_another_recogniser_are_not_mixed_in(settings, tiny, monkeypatch, tmp_path):
    none = ablation.dataclasses.replace(settings, variants=())
    ablation.run(none, tmp_path)
    other = SimpleNamespace(params={"embed": {"table": np.zeros(3)}})
    monkeypatch.setattr("omnijax.pretrained.load", lambda name: other)
    with pytest.raises(UserError, match="was made with marks"):
        ablation.run(none, tmp_path)
