"""Sound against Python's ``wave`` and SciPy."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.labelled import write_records, write_sounds

from modelwright.base.errors import ModelwrightError
from modelwright.base.events import Event, listening
from modelwright.data.batches import read
from modelwright.data.media import wav
from modelwright.data.media.riff import read_wav
from modelwright.data.media.wav import Wav
from modelwright.testing.data import digest

wavfile = pytest.importorskip("scipy.io.wavfile")
RANDOM = np.random.default_rng(0)


def _write(path: Path, samples: np.ndarray[Any, Any], rate: int = 800) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, samples)
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["u1", "<i2", "<i4", "<f4", "<f8"])
def test_samples_are_those_of_scipy(kind: str, channels: int, tmp_path: Path) -> None:
    floats = RANDOM.uniform(-1, 1, (50, channels))
    integer = np.dtype(kind).kind in "iu"
    info = np.iinfo(kind) if integer else None
    samples = (floats * info.max / 2).astype(kind) if info else floats.astype(kind)
    path = _write(tmp_path / "a.wav", samples, 123)
    rate, theirs = wavfile.read(path)
    ours = read_wav(path)
    expected = theirs.reshape(50, channels).astype(np.float64)
    if kind == "u1":
        expected = (expected - 128) / 128
    elif info:
        expected = expected / (-float(info.min))
    assert ours.rate == rate and ours.samples.dtype == np.float32
    assert np.allclose(ours.samples, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_frames_are_those_of_wave(width: int, tmp_path: Path) -> None:
    """24 bits too, which SciPy writes not; extreme numbers among them."""
    values = [-(2 ** (8 * width - 1)), 2 ** (8 * width - 1) - 1, 0, 1, -1, 5]
    shift = 128 if width == 1 else 0
    data = b"".join((value + shift).to_bytes(width, "little", signed=width > 1) for value in values)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, width, 4000, 3, "NONE", ""))
        file.writeframes(data)
    sound = read_wav(tmp_path / "a.wav")
    assert sound.rate == 4000 and sound.samples.shape == (3, 2)
    assert np.allclose(sound.samples.ravel(), np.array(values) / 2 ** (8 * width - 1), rtol=1e-7)
    assert sound.samples[0].tolist()[0] == -1.0


def test_other_chunks_are_passed_over(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.wav", np.arange(4, dtype=np.int16))
    plain = path.read_bytes()
    path.write_bytes(plain[:12] + b"LIST" + (3).to_bytes(4, "little") + b"abc\0" + plain[12:])
    assert (read_wav(path).samples[:, 0] * 2**15).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: b"", "no RIFF"),
        (lambda data: b"x" * 50, "no RIFF"),
        (lambda data: data[:-3], "cut short"),
        (lambda data: data[:36], "no data chunk"),
        (lambda data: data[:12] + data[36:], "not told"),
        (lambda data: data[:20] + b"\x11\0" + data[22:], "no PCM"),
        (lambda data: data[:22] + b"\0\0" + data[24:], "do not fill"),
    ],
)
def test_damaged_files_are_refused(change: Any, what: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "one" / "a.wav", np.arange(40, dtype=np.int16))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=what):
        read_wav(path)
    with pytest.raises(ModelwrightError, match="the sound cannot be read") as caught:
        Wav(folder=str(tmp_path), rate=800).prepare(tmp_path / "cache")
    assert caught.value.where == str(path)


def test_channels_are_mixed_and_lengths_made_equal(tmp_path: Path) -> None:
    stereo = RANDOM.uniform(-1, 1, (60, 2)).astype(np.float32)
    _write(tmp_path / "sounds" / "a" / "short.wav", stereo)
    _write(tmp_path / "sounds" / "b" / "long.wav", np.concatenate([stereo, stereo]))
    data = Wav(folder=str(tmp_path / "sounds"), rate=800, seconds=0.1, held_out=0.0)
    splits = data.open(data.prepare(tmp_path / "cache"))
    batch = read(splits.train, [0, 1])
    assert splits.facts == {"samples": 80, "sample_rate": 800, "classes": 2} and batch["targets"].tolist() == [0, 1]
    mono = stereo.mean(axis=1)
    assert np.allclose(batch["inputs"][0], np.pad(mono, (0, 20)), atol=1e-7)
    assert np.allclose(batch["inputs"][1], np.concatenate([mono, mono[:20]]), atol=1e-7)


@pytest.mark.parametrize(("tone", "kept"), [(100, True), (700, False)])
def test_resampling_keeps_what_fits_and_nothing_else(tone: int, kept: bool, tmp_path: Path) -> None:
    """From 1600 to 800 samples a second: 100 Hz stays, 700 Hz must not come back as 100 Hz."""
    seconds = np.arange(1600) / 1600
    _write(tmp_path / "sounds" / "a" / "tone.wav", np.sin(2 * np.pi * tone * seconds).astype(np.float32), 1600)
    data = Wav(folder=str(tmp_path / "sounds"), rate=800, seconds=1.0, held_out=0.0)
    found = read(data.open(data.prepare(tmp_path / "cache")).train, [0])["inputs"][0].numpy()
    middle = slice(100, 700)
    ideal = np.sin(2 * np.pi * 100 * np.arange(800) / 800)
    power = float((found[middle] ** 2).mean())
    if kept:
        assert np.abs(found[middle] - ideal[middle]).max() < 0.01
    else:
        assert power < 1e-4 < 0.4 < float((np.sin(2 * np.pi * tone * seconds[::2])[middle] ** 2).mean())


def test_without_scipy_another_rate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_sounds(tmp_path / "sounds", rate=800)
    monkeypatch.setattr(wav, "scipy", None)
    Wav(folder=str(root), rate=800, seconds=0.1).prepare(tmp_path / "cache")
    with pytest.raises(ModelwrightError, match="800 samples a second, not 400") as caught:
        Wav(folder=str(root), rate=400, seconds=0.1).prepare(tmp_path / "cache")
    assert caught.value.remedy == "pip install scipy, or set rate: 800" and str(root) in caught.value.where


def test_records_name_files_beside_them(tmp_path: Path) -> None:
    root = write_sounds(tmp_path / "sounds")
    rows = [{"path": path.relative_to(root).as_posix(), "label": path.parent.name} for path in root.rglob("*.wav")]
    listed = write_records(root / "listed.jsonl", sorted(rows, key=str))
    settings: dict[str, Any] = {"rate": 800, "seconds": 0.1, "held_out": 0.3}
    folders = [
        Wav(files=(str(listed),), **settings).prepare(tmp_path / "one"),
        Wav(folder=str(root), **settings).prepare(tmp_path / "other"),
    ]
    assert digest(folders[0]) == digest(folders[1])
    write_records(listed, [{"path": "gone.wav", "label": "bird"}])
    with pytest.raises(ModelwrightError, match="there is no file") as caught:
        Wav(files=(str(listed),), **settings).prepare(tmp_path / "one")
    assert caught.value.where == f"{listed}:1"


@pytest.mark.parametrize("label", [None, "", 0.5])
def test_a_label_that_is_no_name_is_refused(label: object, tmp_path: Path) -> None:
    root = write_sounds(tmp_path / "sounds")
    listed = write_records(root / "listed.jsonl", [{"path": "bird/0.wav", "label": label}])
    with pytest.raises(ModelwrightError, match="not a name") as caught:
        Wav(files=(str(listed),), rate=800, seconds=0.1).prepare(tmp_path / "cache")
    assert caught.value.where == f"{listed}:1"


def test_skipped_files_are_told(tmp_path: Path) -> None:
    root = write_sounds(tmp_path / "sounds")
    (root / "bird" / "0.wav").write_bytes(b"RIFF")
    told: list[Event] = []
    with listening(told.append):
        Wav(folder=str(root), rate=800, corrupt="skip", threads=2).prepare(tmp_path / "cache")
    assert [event.details["files"] for event in told if event.kind == "files-skipped"] == [["bird/0.wav"]]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({}, "folder"),
        ({"folder": "a", "files": ("b",)}, "folder"),
        ({"folder": "a", "seconds": 0}, "seconds"),
        ({"folder": "a", "held_out": 0.1, "held_out_folder": "b"}, "held_out"),
        ({"folder": "a", "corrupt": "mend"}, "corrupt"),
        ({"folder": "gone"}, "folder"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], where: str, tmp_path: Path) -> None:
    with pytest.raises(ModelwrightError) as caught:
        Wav(**fields).prepare(tmp_path)
    assert caught.value.where == where and caught.value.remedy
