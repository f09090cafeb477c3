"""Which commands there are, and what is answered without them."""

import importlib
import subprocess
import sys

import pytest

from sslam.__main__ import OTHER_COMMANDS, main


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_main__help_names_every_command(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 0
    text = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", "convert", "--version"):
        assert command in text


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["fti"],
        ["fit", "--config", "nope.yaml"],
        *([command, "--help"] for command in OTHER_COMMANDS),
        ["embed", "x.wav", "--checkpoint", "x.ckpt", "--output", "x.npz", "--batch_size", "0"],
        ["embed", "x.wav", "--checkpoint", "x.ckpt", "--output", "x.txt"],
    ],
    ids=" ".join,
)
def test_main__answers_without_torch(args: list[str]) -> None:
    code = (
        "import sys; from sslam.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "sys.exit('loaded: torch' if {'torch', 'lightning'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


HEAVY = ("torch._dynamo.utils", "scipy.signal", "scipy.optimize", "matplotlib", "sklearn", "wandb")


@pytest.mark.slow
def test_main__help_of_fit_waits_for_nothing_that_only_training_needs() -> None:
    code = (
        "import sys; from sslam.__main__ import main\n"
        "try: main({args})\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"loaded = set({HEAVY}) & set(sys.modules)\n"
        "sys.exit({is_light} and ', '.join(loaded) or 0)"
    )
    said = []
    for args, is_light in (("", True), ("sys.argv[1:]", False)):  # as the process's own, and as by another program
        command = [sys.executable, "-c", code.format(args=args, is_light=is_light), "fit", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1]
    assert "--trainer.max_steps" in said[0]


@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_main__a_wrong_option_is_answered_in_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([command, "--hlep=x"])
    error = capsys.readouterr().err
    assert error.startswith(f"sslam {command}: ")
    assert error.endswith(f". See sslam {command} --help.\n")
    assert error.count("\n") == 1


def test_main__version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split()[0] == "sslam"


def test_main__a_misspelt_command_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fti"]) == 2
    assert capsys.readouterr().err == "sslam: there is no command 'fti'. Did you mean fit?\n"


def test_main__runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "sslam", "--version"], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("sslam ")


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
@pytest.mark.parametrize("args", [["fit"], ["convert", "a", "b"]], ids=["fit", "convert"])
def test_main__a_broken_environment_is_explained(
    args: list[str],
    error: type[Exception],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> object:
        if name.startswith("sslam.") or name == "torchaudio":
            raise error("libtorchaudio.so: undefined symbol: _ZN2at4_ops")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("Environment is broken: torchaudio cannot be imported")
    assert "remove .venv and run 'make setup'" in message


def test_main__a_wrong_import_of_our_own_is_no_broken_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> object:
        if name == "sslam.commands.fit":
            raise ImportError("cannot import name 'Encodr'")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match="Encodr"):
        main(["fit"])


def test_main__a_library_that_only_the_work_needs_is_no_file_of_the_users(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> object:
        if name == "torchaudio":
            raise OSError("libtorchaudio.so: undefined symbol: _ZN2at4_ops")
        return real(name, package)

    def report(*_: object) -> int:
        raise OSError("libtorchaudio.so: undefined symbol: _ZN2at4_ops")

    monkeypatch.setattr("sslam.commands.report.report", report)
    with pytest.raises(OSError, match="libtorchaudio"):  # by a bug of ours, as far as anybody can see
        main(["report", "runs"])
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(SystemExit, match="1"):
        main(["report", "runs"])
    assert capsys.readouterr().err.startswith("Environment is broken: torchaudio cannot be imported")
