from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.runs.synthetic import trained_run

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.runs import EventLog, Run, ours, sign
from modelwright.runs.environment import chosen_variables, environment
from modelwright.runs.origin import secret_path
from modelwright.runs.report import write_report
from modelwright.runs.scrub import scrub_arguments, scrub_text

PLANTED = "pl4nt3d-S3CRET-value"


@pytest.fixture(autouse=True)
def own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_planted_secrets_reach_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "MODELWRIGHT_API_KEY",
        "SLURM_TOKEN",
        "NCCL_SECRET",
        "TORCH_PASSWORD",
        "HF_TOKEN",
        "DATABASE",
    ):
        monkeypatch.setenv(name, PLANTED)
    monkeypatch.setenv("MODELWRIGHT_STORE", f"s3://me:{PLANTED}@host/bucket")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    arguments = [
        "modelwright",
        "train",
        f"--password={PLANTED}",
        "--token",
        PLANTED,
        f"data.password={PLANTED} more",
    ]
    monkeypatch.setattr(
        sys, "argv", [*arguments, f"https://u:{PLANTED}@h/x", f"--api-key={PLANTED}", "budget.tokens=5M"]
    )
    run = trained_run(tmp_path, steps=20)
    run.write_environment(endpoint=f"http://u:{PLANTED}@h", note={"api_key": PLANTED})
    log = EventLog(run.events_path)
    log(Event(kind="k", message=f"cannot reach https://u:{PLANTED}@h", details={"password": PLANTED}))
    log.close()
    run.update(status="failed", error=ModelwrightError(f"token={PLANTED} was refused"))
    write_report(run)
    holding = [
        path.name for path in run.path.rglob("*") if path.is_file() and PLANTED in path.read_text(errors="replace")
    ]
    assert holding == []
    recorded = run.environment()
    assert recorded["variables"]["OMP_NUM_THREADS"] == "3"
    assert "budget.tokens=5M" in recorded["argv"] and "MODELWRIGHT_STORE" in recorded["variables"]
    assert "DATABASE" not in recorded["variables"]


def test_the_search_for_secrets_can_fail(tmp_path: Path) -> None:
    (tmp_path / "leak").write_text(f"x{PLANTED}y")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and PLANTED in path.read_text()] == ["leak"]


@pytest.mark.parametrize(
    "text",
    [
        f"--password={PLANTED}",
        f"--db-password '{PLANTED}'",
        f"token: {PLANTED}",
        f'{{"api_key": "{PLANTED}"}}',
        f"Authorization: Bearer {PLANTED}",
        f"curl -H 'X-Auth: {PLANTED}'",
        f"postgres://user:{PLANTED}@host:5432/db",
        f"HF_TOKEN={PLANTED} python x.py",
        "hf_" + PLANTED.replace("-", "") + "abc",
        "sk-" + PLANTED,
    ],
)
def test_secrets_are_blanked(text: str) -> None:
    scrubbed = scrub_text(text)
    assert PLANTED not in scrubbed and PLANTED.replace("-", "") not in scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "budget.tokens=5M", "data.tokenizer.use=bpe", "optimizer.lr=3e-4", "--monkey=1", "https://host/a@b", "passes=3",
        "author=me", "12,300 tokens/s", "keys: 4", "the token was long",
    ],
)  # fmt: skip
def test_harmless_text_stays(text: str) -> None:
    assert scrub_text(text) == text
    assert scrub_arguments([text]) == [text]


def test_only_listed_variables_are_recorded() -> None:
    variables = {"RANK": "1", "HOME": "/h", "CUDA_VISIBLE_DEVICES": "0", "CUDA_AUTH": "x", "RANKING": "2"}
    assert chosen_variables(variables) == {"RANK": "1", "CUDA_VISIBLE_DEVICES": "0"}


def test_the_environment_names_what_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = environment(devices=["a"])
    assert recorded["python"] == sys.version.split()[0]
    assert recorded["packages"]["torch"] and recorded["packages"]["modelwright"]
    assert recorded["devices"] == ["a"] and recorded["git"] is None


def test_the_commit_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "m"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert environment()["git"] == {"commit": head.stdout.strip(), "changed": False}


def test_our_own_text_is_known_again() -> None:
    signature = sign("model: gpt")
    assert len(signature) == 64 and sign("model: gpt") == signature
    assert ours("model: gpt", signature)
    assert not ours("model: gpT", signature)
    assert not ours("model: gpt", "0" * 64)
    assert not ours("model: gpt", "")
    assert not ours("model: gpt", "\u00e9")


def test_another_users_text_is_foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = sign("x")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    assert not ours("x", signature)
    assert not secret_path().exists()  # looking makes none
    assert sign("x") != signature


def test_the_secret_is_private_and_replaced_when_it_was_not() -> None:
    signature = sign("x")
    path = secret_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(path.read_bytes()) == 32
    assert [entry.name for entry in path.parent.iterdir()] == ["origin"]
    path.chmod(0o644)
    assert not ours("x", signature)
    told: list[Event] = []
    with listening(told.append):
        assert ours("x", sign("x"))
    assert [event.kind for event in told] == ["origin-replaced"]


def test_no_place_for_a_secret_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "blocked"))
    told: list[Event] = []
    with listening(told.append):
        assert sign("x") == ""
    assert [event.kind for event in told] == ["origin-not-kept"]


def test_a_changed_recipe_is_no_longer_ours(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "r", "train")
    assert not run.ours()
    run.write_recipe("model: {use: gpt}\n")
    assert run.ours()
    run.update(status="finished")
    assert run.ours()
    run.recipe_path.write_text("model: {use: evil:Model}\n")
    assert not run.ours()


def test_many_processes_agree_on_one_secret(tmp_path: Path) -> None:
    code = "from modelwright.runs import sign; print(sign('x'))"
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "shared")}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) for _ in range(4)
    ]
    answers = {process.communicate()[0] for process in started}
    assert len(answers) == 1 and len(answers.pop().strip()) == 64


def test_scrubbing_is_fast_on_long_lines() -> None:
    for line in (
        "a-" * 20_000,
        "key_" * 10_000,
        "://a@" * 10_000,
        "eyJ-" * 10_000,
        "token " * 9000,
        "." * 40_000 + "=",
    ):
        start = time.perf_counter()
        scrub_text(line)
        assert time.perf_counter() - start < 1.0, line[:5]
