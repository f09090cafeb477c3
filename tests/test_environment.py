"""The check at the end of ``make setup``."""

import importlib

import pytest

from sslam import environment


def test_check__names_every_version() -> None:
    line = environment.check()
    assert "torch 2.11" in line
    assert "torchaudio 2.11" in line


def test_main__explains_a_broken_pair(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = importlib.import_module

    def broken(name: str) -> object:
        if name == "torchaudio":
            raise OSError("libtorchaudio.so: undefined symbol: _ZN2at4_ops")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", broken)
    assert environment.main() == 1
    message = capsys.readouterr().err
    assert "torchaudio cannot be imported (OSError: libtorchaudio.so: undefined symbol" in message
    assert "must come from one release" in message
    assert "remove .venv and run 'make setup'" in message
    assert "'torchaudio<2.12,>=2.11.0'" in message


def test_main__names_a_missing_package(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(environment, "OTHERS", ("no_such_package",))
    assert environment.main() == 1
    assert "no_such_package not installed" in capsys.readouterr().err
