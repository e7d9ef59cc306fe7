"""The demo and the score table, as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(script: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *flags],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


def test_a_page_that_cannot_be_written_is_said_before_anything_is_done(tmp_path):
    (tmp_path / "file").write_text("")
    done = start("demo.py", f"--out={tmp_path / 'file' / 'index.html'}")
    assert done.returncode == 2 and "cannot write" in done.stderr
    assert "Traceback" not in done.stderr and "Compiling" not in done.stdout


def test_questions_longer_than_the_limit_are_named_before_any_is_answered():
    done = start("evaluate.py", "--examples=1", "--max_len=97")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "chat 0 of 1 does not fit" in done.stderr and "(max_len) is 97" in done.stderr


@pytest.mark.slow
def test_the_demo_holds_its_conversation_and_writes_the_page(tmp_path):
    out = tmp_path / "page" / "index.html"
    done = start("demo.py", "--examples=1", f"--out={out}")
    assert done.returncode == 0, done.stderr[-3000:]
    page = out.read_text()
    for words in ("<audio", "<img", "A tool, called by voice", "Scores", "first sound"):
        assert words in page, words
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page


@pytest.mark.slow
def test_the_score_table_has_a_line_for_every_task_and_keeps_it_as_json(tmp_path):
    done = start("evaluate.py", "--examples=2", f"--out={tmp_path / 'scores.json'}")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert len(rows) == 9 and all(row["count"] for row in rows)
    assert {name for row in rows for name in row["noise"]} == {"audio", "image", "video"}
