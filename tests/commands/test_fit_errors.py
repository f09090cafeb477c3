"""Every mistake on the command line is answered in a line or two, with exit code 2, without usage and traceback."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from sslam.__main__ import main

SMOKE = ["--config", "experiments/pretrain.yaml", "--config", "experiments/overrides/smoke.yaml"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def complaint(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What standard error has, less the greetings of Lightning."""
    try:
        code: object = main(args)
    except SystemExit as stop:
        code = stop.code
    text = capsys.readouterr().err
    assert code == 2
    for unwanted in ("usage:", "Traceback", "tip:"):
        assert unwanted not in text
    lines = [line for line in text.splitlines() if line.startswith("sslam")]
    assert 1 <= len(lines) <= 2
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        # key
        (["--trainer.max_stepps", "3"], "Unknown key trainer.max_stepps. Did you mean trainer.max_steps?"),
        (["--modle.encoder.width", "3"], "Unknown key modle.encoder.width. Did you mean model?"),
        (["--model.weight_decai", "3"], "Unknown key model.init_args.weight_decai. Did you mean weight_decay?"),
        (
            ["--model.encoder.widht", "3"],
            "Unknown key model.init_args.encoder.init_args.widht. Did you mean width?",
        ),
        (
            ["--model.stages.learning_rat", "3"],
            "Unknown key model.init_args.stages.learning_rat. Did you mean learning_rate?",
        ),
        (
            ["--model.stages.objectives.mixd", "3"],
            "Unknown key model.init_args.stages.objectives.mixd. Did you mean mixed?",
        ),
        # an argument that the data module takes for its base class
        (["--data.batchsize", "3"], "Unknown key data.init_args.batchsize. Did you mean batch_size?"),
        (
            ["--model.encoder.zzz", "3"],
            "AudioViT has: width, depth, num_heads, mlp_ratio, patch_size, num_mel_bins, max_columns, drop_path, "
            "checkpoint_blocks.",
        ),
        (["surplus"], "'surplus' belongs to no option; options begin with --."),
        # class
        (["--model", "sslam.methods.SLAM"], "is no known class for LightningModule. Did you mean sslam.methods.SSLAM?"),
        (["--data", "data_modules.FolderDataModul"], "Did you mean data_modules.FolderDataModule?"),
        (["--data", "FolderDataModul"], "Did you mean data_modules.FolderDataModule?"),
        (["--model.encoder", "AudioVit"], "model.init_args.encoder: AudioVit is no known class for AudioViT. Did "),
        (["--model.encoder", "sslam.network.AudioViT"], "Did you mean sslam.networks.AudioViT?"),
        (["--model.encoder", "sslam.networks.ConvDecoder"], "sslam.networks.ConvDecoder does not fit for AudioViT."),
        (["--model.frontend", "zzz"], "The choices are: sslam.frontends."),
        (["--trainer.callbacks+", "callbacks.ColapseMonitor"], "Did you mean callbacks.CollapseMonitor?"),
        (["--trainer.logger", "WandbLoger"], "Did you mean lightning.pytorch.loggers.WandbLogger?"),
        (["--trainer.strategy", "dpp"], "You selected an invalid strategy name"),
        # type
        (["--model.encoder.width", "abc"], "model.init_args.encoder.init_args.width: expected int, got abc."),
        (["--model.stages.steps", "abc"], "model.init_args.stages.steps: expected int, got abc."),
        (["--trainer.max_steps", "1.5"], "trainer.max_steps: expected int, got 1.5."),
        (["--trainer.precision", "bf17-mixed"], "got bf17-mixed. Did you mean bf16-mixed?"),
        (["--seed_everything", "x"], "seed_everything: expected bool or int, got x."),
        (["--data", "data_modules.FolderDataModule"], "Missing: data.init_args.root."),
        # file
        (["--config", "experiments/pretrian.yaml"], "no config file experiments/pretrian.yaml. Did you mean"),
        (["--config=experiments/overrides/smok.yaml"], "Did you mean experiments/overrides/smoke.yaml?"),
        (["--config", "zzz.yaml"], "no config file zzz.yaml. The project's own are: experiments/contrastive.yaml, "),
        (["--model.encoder", "blocks/vit_bas.yaml"], "There is no config file blocks/vit_bas.yaml"),
        (["--model.encoder", "blocks/vit_bas.yaml"], "Did you mean blocks/vit_base.yaml?"),
        (["--data", "data_modules.FolderDataModule", "--data.root", "nowhere"], "'nowhere' does not exist"),
        (["--model.initial_checkpoint", "nowhere.ckpt"], "nowhere.ckpt"),
        (["--ckpt_path", "nowhere/a.ckpt"], "no checkpoint nowhere/a.ckpt. The folder nowhere has no checkpoint."),
        (["--ckpt_path", "last"], "--ckpt_path last needs --run_id"),
        (["--ckpt_path", "best"], "--ckpt_path best is known only while a run is in memory"),
        # value
        (["--model.encoder.width", "30"], "width must be a multiple of"),
        (["--data.batch_size", "0"], "batch_size must be at least 1, got 0."),
        (["--trainer.devices", "0"], "trainer.devices must be at least 1, -1 for all"),
        (["--checkpoint.every_n_train_steps", "0"], "checkpoint.every_n_train_steps must be at least 1, got 0."),
        (["--run_id", "a/b"], "--run_id must be a folder name"),
        (["--trainer.accumulate_grad_batches", "0"], "trainer.accumulate_grad_batches must be at least 1, got 0."),
        (["--trainer.default_root_dir", "file/runs"], "cannot be written (Not a directory). Choose another place with"),
        # null where the class does not take it; the parser lets these pass
        (["--model.cls_loss_weight", "null"], "sslam fit: model.init_args.cls_loss_weight: expected float, got null."),
        (["--model.betas", "null"], "model.init_args.betas: expected tuple[float, float], got null."),
        (["--data.batch_size", "null"], "data.init_args.batch_size: expected int, got null."),
        (["--data.clip_seconds", "null"], "data.init_args.clip_seconds: expected float, got null."),
        (["--trainer.logger", "WandbLogger", "--trainer.logger.offline", "null"], "offline: expected bool, got null."),
    ],
)  # fmt: skip
def test_fit__a_mistake_is_explained(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert message in complaint(["fit", *SMOKE, *args], capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# mine\nmodel: [", "mine.yaml, line 2: not valid YAML: "),
        ("just words", "mine.yaml must be a mapping such as 'model: ...', got str."),
        ("", "mine.yaml must be a mapping such as 'model: ...', got NoneType."),
        ("trainer: {max_stepss: 3}", "Unknown key trainer.max_stepss. Did you mean trainer.max_steps?"),
        ("modle: {init_args: {encoder: x}}", "Unknown key modle.init_args.encoder. Did you mean model?"),
        ("model: {init_args: {encoder: {init_args: {widht: 3}}}}", "model.init_args.encoder.init_args.widht. Did you"),
        ("model: {init_args: {stages: [{steps: a}]}}", "model.init_args.stages.steps: expected int, got a."),
        ("model: {init_args: {stages: [{stepps: 3}]}}", "model.init_args.stages.stepps. Did you mean steps?"),
        ("model: {init_args: {stages: [{steps: 3}]}}", "warmup_steps must be between 0 and the stage's steps"),
        ("data: {class_path: data_modules.ESC50DataModul}", "Did you mean data_modules.ESC50DataModule?"),
        ("model: {init_args: {stages: [{steps: null}]}}", "model.init_args.stages.steps: expected int, got null."),
        ("model: {init_args: {stages: [{objectives: {mixed: null}}]}}", "stages.objectives.mixed: expected float, got"),
        (
            "model: {init_args: {encoder: {init_args: {depth: null}}}}",
            "encoder.init_args.depth: expected int, got null.",
        ),
    ],
)
def test_fit__a_mistake_in_a_yaml_is_explained(content: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(content)
    assert message in complaint(["fit", *SMOKE, "--config", "mine.yaml"], capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainer:\n#  max_steps: 3\n", "mine.yaml: trainer has nothing below it. Remove the line, or write"),
        ("model: &a\n  x: *a\n", "mine.yaml has aliases that make it endless or huge. Write out what they"),
        (
            "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
            "endless or huge",
        ),
        ("[" * 5000, "mine.yaml"),
        ("# " + "x" * 2_000_000, "mine.yaml must be a YAML file of at most 1 MiB"),
    ],
)
def test_fit__a_yaml_that_would_never_end_is_refused(
    content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(content)
    assert message in complaint(["fit", *SMOKE, "--config", "mine.yaml"], capsys)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--ckpt_path", "pipe.ckpt"], "pipe.ckpt is no regular file, and so no checkpoint."),
        (["--ckpt_path", "folder"], "folder is a folder and no checkpoint. Give a file in it"),
        (["--ckpt_path", "s3://bucket/x.ckpt"], "s3://bucket/x.ckpt cannot be read (Install s3fs"),
        (["--ckpt_path", "damaged.ckpt"], "damaged.ckpt is not a checkpoint that a run can go on from."),
        (["--ckpt_path", "nan.ckpt"], "nan.ckpt: The weights encoder.weight are NaN or infinite"),
        (["--seed_everything", "-1"], "seed_everything must be between 0 and 4294967295, got -1."),
        (["--trainer.devices", "-5"], "trainer.devices must be at least 1, -1 for all, or auto, got -5."),
        (["--trainer.devices", "9999"], "processes on this machine's processor, got 9999."),
        (["--model.betas", "[2.0, 0.9]"], "Invalid beta parameter at index 0: 2.0"),
        (["--run_id", "a" * 300], "--run_id must have at most 200 characters, got 300."),
        (["--trainer.gradient_clip_val", "-1"], "trainer.gradient_clip_val must be at least 0, or null"),
        (["--trainer.limit_train_batches", "0"], "trainer.limit_train_batches must be greater than 0, got 0"),
        (["--model.frontend.sample_rate", "32000"], "model.frontend: sample_rate must be 16000, the rate of"),
        (
            ["--trainer.callbacks", "[{class_path: EarlyStopping, init_args: {monitor: val/none}}]"],
            "Early stopping conditioned on metric `val/none` which is not available.",
        ),
    ],
)  # fmt: skip
def test_fit__a_value_out_of_range_is_said_in_a_line(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo("pipe.ckpt")
    Path("folder").mkdir()
    Path("damaged.ckpt").write_bytes(b"PK\x03\x04" + b"x" * 100)
    torch.save({"state_dict": {"encoder.weight": torch.tensor([1.0, float("nan")])}}, "nan.ckpt")
    assert message in complaint(["fit", *SMOKE, *args], capsys)


def test_fit__a_mistake_in_a_worker_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch makes of it: the worker's traceback as a text."""
    folder = Path("recordings")
    folder.mkdir()
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", np.sin(np.arange(32000)), 16000)
    code = "import sys; from data_modules import base, clips; from sslam.__main__ import main\n"
    code += "def fail(*_): raise AssertionError\n"
    code += (
        "clips.AudioFileDataset.__getitem__ = lambda *_: base.require_folder('nowhere')\nsys.exit(main(sys.argv[1:]))"
    )
    data = ["--config", "experiments/data/folder.yaml", "--data.root", "recordings", "--data.num_workers", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, "fit", *SMOKE, *data], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "sslam fit: Audio folder 'nowhere' does not exist. Pass --data.root" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*SMOKE, "--model.encoder", "block.yaml"], "block.yaml: unknown key init_args.widht. Did you mean width?"),
        ([*SMOKE, "--model.encoder", "broken.yaml"], "broken.yaml, line 3: not valid YAML"),
        ([*SMOKE, "--model", "sslam.networks.AudioViT"], "model: sslam.networks.AudioViT does not fit"),
        ([*SMOKE[2:], *SMOKE[:2]], "give the --config that names it before the one that changes it."),
    ],
)
def test_fit__a_mistake_in_a_block_or_in_the_order(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("block.yaml").write_text("class_path: sslam.networks.AudioViT\ninit_args: {widht: 3}\n")
    Path("broken.yaml").write_text("class_path: sslam.networks.AudioViT\ninit_args: {width: [\n")
    assert message in complaint(["fit", *args], capsys)


def test_fit__without_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    expected = "sslam fit: Missing: data, model. Start from a file, such as --config experiments/pretrain.yaml."
    assert complaint(["fit"], capsys) == expected


def test_fit__null_is_a_value_where_the_class_takes_it() -> None:
    Path("mine.yaml").write_text("model: {init_args: {initial_checkpoint: null, stages: [{cls_target_layers: null}]}}")
    bare = [*SMOKE, "--trainer.callbacks", "[]", "--trainer.max_steps", "0"]
    assert main(["fit", *bare, "--config", "mine.yaml", "--model.initial_checkpoint", "null"]) == 0


def test_fit__an_unwritable_place_is_found_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unbuilt(*_: object, **__: object) -> None:
        raise AssertionError("the model was built")

    monkeypatch.setattr("sslam.methods.SSLAM.__init__", unbuilt)
    Path("file").touch()
    message = complaint(["fit", *SMOKE, "--trainer.default_root_dir", "file/runs"], capsys)
    assert message.startswith("sslam fit: The run folder file/runs/pretrain/")


def test_fit__a_mistake_leaves_no_empty_run(capsys: pytest.CaptureFixture[str]) -> None:
    complaint(["fit", *SMOKE, "--model.encoder.width", "30"], capsys)
    assert list(Path("runs/pretrain").iterdir()) == []


def test_fit__weights_and_biases_without_a_login(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import wandb

    wandb.teardown()  # it keeps what it was set to by a test before
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    args = ["fit", *SMOKE, "--trainer.callbacks", "[]", "--config", "experiments/overrides/wandb.yaml"]
    message = complaint(args, capsys)
    assert message.startswith("sslam fit: No API key configured.")
    assert message.endswith(
        "Run `wandb login` once, or keep the log on this machine: --trainer.logger.init_args.offline true."
    )


def test_fit__a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        int("x")  # a ValueError, but not of our own checks
        raise AssertionError

    monkeypatch.setattr("json.loads", broken)
    monkeypatch.setattr("sslam.methods.SSLAM.training_step", lambda *_: __import__("json").loads("1"))
    with pytest.raises(ValueError, match="invalid literal"):
        main(["fit", *SMOKE, "--trainer.callbacks", "[]"])
