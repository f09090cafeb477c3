"""Separators of MixIT runs, converted files and TensorFlow checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from sslam.checkpoints import CheckpointError, load_encoder, load_separator, read_checkpoint
from sslam.checkpoints.architecture import state_networks
from sslam.checkpoints.loading import file_sha256
from sslam.checkpoints.separators import read_published_separator, read_separator
from sslam.checkpoints.tensorflow_bundle import bundle_files
from sslam.checkpoints.tensorflow_names import separator_state
from sslam.commands.convert import main
from sslam.networks import TDCN
from sslam.networks.separator import Consistency
from tests.checkpoints.published_files import fine_tuned, pre_trained, save_published
from tests.checkpoints.tensorflow_bundles import (
    Variables,
    separator_variables,
    with_training_state,
    write_bundle,
)
from tests.reference.mixit_formulas import formula_mixtures, formula_variables

REFERENCE = Path(__file__).parents[1] / "reference"
SMALL = {"num_basis": 6, "width": 4, "hidden_width": 5, "num_blocks": 3}
PREFIX = "improved_tdcn/conv_block_1/tdcn_block"


def small_separator(variables: Variables, num_sources: int = 3, **arguments: Any) -> TDCN:
    """The same weights without any file."""
    separator = TDCN(num_sources, **(SMALL | arguments))  # type: ignore[arg-type]
    separator.load_state_dict(separator_state({name: torch.from_numpy(value) for name, value in variables.items()}))
    return separator


def run_checkpoint(path: Path, separator: TDCN | None = None, **changes: Any) -> Path:
    """A checkpoint as a MixIT run writes it."""
    separator = separator or small_separator(separator_variables())
    root = {
        "state_dict": {f"separator.{name}": tensor for name, tensor in separator.state_dict().items()},
        "architecture": state_networks({"separator": separator}),
        "global_step": 5000,
        "epoch": 3,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    }
    torch.save(root | changes, path)
    return path


def stated(separator: TDCN, **changes: Any) -> dict[str, Any]:
    """What a run states of its separator, with other arguments."""
    architecture = state_networks({"separator": separator})
    architecture["separator"]["init_args"] |= changes
    return architecture


def mixture() -> Tensor:
    return torch.from_numpy(formula_mixtures(2, 1003))


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return dict(json.loads(file.metadata()["sslam"]))


def convert_error(capsys: Any, *args: object) -> str:
    assert main([str(arg) for arg in args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sslam convert: ")
    return str(captured.err)


# ---- TensorFlow checkpoints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("ending", ["", ".index"])
@torch.no_grad()
def test_convert__a_bundle_separates_as_its_variables(tmp_path: Path, ending: str, num_shards: int) -> None:
    variables = separator_variables()
    prefix = write_bundle(tmp_path / "model.ckpt-3223090", with_training_state(variables), num_shards)
    assert main([f"{prefix}{ending}", str(tmp_path / "ours.safetensors")]) == 0
    separator = load_separator(tmp_path / "ours.safetensors")
    assert not separator.training
    assert {parameter.dtype for parameter in separator.parameters()} == {torch.float32}
    assert all(parameter.requires_grad for parameter in separator.parameters())
    assert separator.architecture() == {
        "num_sources": 3, "sample_rate": 16_000, "consistency": "pred_source", "dilation_cycle": 8, **SMALL,
    }  # fmt: skip
    assert torch.equal(separator(mixture()), small_separator(variables)(mixture()))


def test_convert__prints_what_it_read(tmp_path: Path, capsys: Any) -> None:
    variables = separator_variables()
    prefix = write_bundle(tmp_path / "model.ckpt-3223090", with_training_state(variables), num_shards=2)
    output = tmp_path / "ours.safetensors"
    assert main([str(prefix), str(output)]) == 0
    parameters = sum(value.size for value in variables.values())
    digest = file_sha256(*bundle_files(prefix))
    printed = capsys.readouterr().out
    for line in (
        "kind: separator\n",
        "separator: num_sources 3, num_basis 6, width 4, hidden_width 5, num_blocks 3, sample_rate 16000, "
        "consistency pred_source, dilation_cycle 8\n",
        f"variables: {len(variables)} tensors, {parameters:,} parameters\n",
        "global step: 3,223,090\n",
        f"source SHA-256: {digest}\n",
        f"  {2 * len(variables) + 3} variables of the training, such as beta1_power\n",
        f"written: {output} (sslam)\n",
    ):
        assert line in printed
    assert header(output) == {
        "kind": "separator",
        "architecture": state_networks({"separator": load_separator(output)}),
        "global_step": 3_223_090,
        "source_sha256": digest,
    }
    assert len(load_file(output)) == len(variables)


def test_file_sha256__of_several_files_is_that_of_their_bytes_in_a_row(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("a", "b", "whole")]
    for path, content in zip(parts, (b"x" * 300_000, b"y", b"x" * 300_000 + b"y"), strict=True):
        path.write_bytes(content)
    assert file_sha256(*parts[:2]) == file_sha256(parts[2])


@torch.no_grad()
def test_convert__the_published_size_gives_the_published_outputs(tmp_path: Path) -> None:
    variables = {name: tensor.numpy() for name, tensor in formula_variables(2).items()}
    prefix = write_bundle(tmp_path / "model.ckpt-1", variables)
    assert main([str(prefix), str(tmp_path / "m2.safetensors")]) == 0
    separator = load_separator(tmp_path / "m2.safetensors")
    assert separator.architecture() == TDCN().architecture()
    assert sum(parameter.numel() for parameter in separator.parameters()) == 8_672_257
    estimates = separator(torch.from_numpy(formula_mixtures(2, 8037)))
    reference = np.load(REFERENCE / "mixit_models.npz")["m2_t8037_out"]
    np.testing.assert_allclose(estimates[..., ::13], reference, rtol=0, atol=5e-6)


@torch.no_grad()
@pytest.mark.parametrize("consistency", ["magsq", "uniform", "none"])
def test_convert__a_bird_model_without_shares(tmp_path: Path, consistency: Consistency) -> None:
    variables = separator_variables(4, window=55, shares=False, norm="global_layer_norm")
    prefix, output = write_bundle(tmp_path / "birds", variables), tmp_path / "ours.safetensors"
    assert main([str(prefix), str(output), "--consistency", consistency, "--dilation_cycle", "2"]) == 0
    separator = load_separator(output)
    assert (separator.sample_rate, separator.num_sources) == (22_050, 4)
    expected = small_separator(variables, 4, sample_rate=22_050, consistency=consistency, dilation_cycle=2)
    assert separator.architecture() == expected.architecture()
    assert torch.equal(separator(mixture()), expected(mixture()))
    assert read_separator(output).global_step is None


def test_convert__consistency_that_is_not_known_or_contradicts(tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "ours.safetensors"
    prefix = write_bundle(tmp_path / "without", separator_variables(shares=False))
    for options in ([], ["--consistency", "pred_source"]):
        error = convert_error(capsys, prefix, output, *options)
        assert "no weights for shares (mix_weights)" in error
        assert "magsq, uniform or none, got" in error
        assert "Give consistency." in error
    prefix = write_bundle(tmp_path / "with", separator_variables())
    error = convert_error(capsys, prefix, output, "--consistency", "magsq")
    assert "so its consistency is pred_source, not magsq. Leave consistency out." in error
    error = convert_error(capsys, prefix, output, "--dilation_cycle", "33")
    assert "dilation_cycle must be between 1 and 32, got 33" in error
    assert not output.exists()


def without(name: str) -> Callable[[Variables], Variables]:
    return lambda variables: {key: value for key, value in variables.items() if key != name}


def reshaped(name: str, *shape: int, dtype: type = np.float32) -> Callable[[Variables], Variables]:
    return lambda variables: variables | {name: np.ones(shape, dtype)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without(f"{PREFIX}/dense1/dense/kernel"),
            f"1 missing:\n  {PREFIX}/dense1/dense/kernel (ours: blocks.1.dense1.weight)",
        ),
        (without("conv_encoder/dense/kernel"), "has no conv_encoder/dense/kernel (ours: encoder.weight)"),
        (without("initial_dense/dense/bias"), "1 missing:\n  initial_dense/dense/bias"),
        (reshaped("dense/kernel", 4, 2), "num_sources must be at least 1, got 0."),
        (reshaped("dense/kernel", 4, 13), "dense/kernel (ours: mask.weight) (13, 4), expected (12, 4)"),
        (reshaped(f"{PREFIX}/normact1/instance_norm/gamma", 5), "(ours: blocks.1.norm1.weight) (5,), expected (1,)"),
        (reshaped("mix_weights/dense/kernel", 4, 2), "shares.weight) (2, 4), expected (3, 4)"),
        (reshaped("conv_encoder/dense/kernel", 64, 6), "has 64 samples, which is of no published sample rate: 40 (16"),
        (reshaped("dense/kernel", 2**20 + 1, 1), "it must have 2 axes of 1 to 1048576"),
        (reshaped("dense/kernel", 4, 18, dtype=np.int64), "weights must be floating-point"),
        (reshaped("layer_norm_on_mag/gamma", 1), "1 variables that a TDCN++ separator does not have"),
        (
            reshaped("improved_tdcn/conv_block_99999/tdcn_block/dense1/dense/kernel", 4, 5),
            "1 unknown:\n  improved_tdcn/conv_block_99999/tdcn_block/dense1/dense/kernel",
        ),
    ],
)
def test_read_published_separator__lists_what_does_not_fit(
    tmp_path: Path, change: Callable[[Variables], Variables], message: str
) -> None:
    prefix = write_bundle(tmp_path / "model.ckpt", change(separator_variables()))
    with pytest.raises(CheckpointError) as error:
        read_published_separator(prefix)
    assert message in str(error.value)
    assert str(prefix) in str(error.value)


def test_read_published_separator__float64_becomes_float32_and_a_strange_step_is_none(tmp_path: Path) -> None:
    variables: Variables = {name: value.astype(np.float64) for name, value in separator_variables().items()}
    prefix = write_bundle(tmp_path / "m", variables | {"global_step": np.array(np.nan)})
    checkpoint = read_published_separator(prefix)
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {torch.float32}
    assert checkpoint.global_step is None


# ---- runs and converted files ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_load_separator__of_a_run_and_of_its_conversion(tmp_path: Path, capsys: Any) -> None:
    expected = small_separator(separator_variables(), dilation_cycle=2)
    run = run_checkpoint(tmp_path / "last.ckpt", expected)
    output = tmp_path / "ours.safetensors"
    assert main([str(run), str(output)]) == 0
    printed = capsys.readouterr().out
    assert "global step: 5,000\n" in printed
    assert "entry optimizer_states" in printed
    assert header(output)["source_sha256"] == file_sha256(run)
    for path in (run, output):
        separator = load_separator(path)
        assert not separator.training
        assert separator.architecture() == expected.architecture()
        assert torch.equal(separator(mixture()), expected.eval()(mixture()))
        assert read_separator(path).global_step == 5000
    # Once more, of our own file: the same, with the first source.
    assert main([str(output), str(tmp_path / "again.safetensors")]) == 0
    assert header(tmp_path / "again.safetensors") == header(output)


def test_load_separator__leaves_other_parts_and_random_numbers_alone(tmp_path: Path) -> None:
    separator = small_separator(separator_variables())
    state = {f"separator.{name}": tensor for name, tensor in separator.state_dict().items()}
    run = run_checkpoint(tmp_path / "last.ckpt", separator, state_dict=state | {"loss.weight": torch.ones(2)})
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_separator(str(run))
    assert torch.equal(torch.get_rng_state(), before)
    assert "loss.weight" in read_separator(run).skipped


def test_load_separator__half_precision_becomes_float32(tmp_path: Path) -> None:
    run = run_checkpoint(tmp_path / "last.ckpt", small_separator(separator_variables()).half())
    assert {parameter.dtype for parameter in load_separator(run).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_blocks": 4}, "12 missing:\n  blocks.3."),
        ({"num_blocks": 2}, "12 unknown:\n  blocks.2."),
        ({"num_blocks": 10**12}, "The TDCN that the file states has far more weights than the file holds"),
        ({"width": 2**40}, "The TDCN that the file states has far more weights than the file holds"),
        ({"width": 10**30}, "The TDCN that the file states cannot be built: "),
        ({"num_sources": "3"}, "states num_sources = '3' for its separator, which must be int"),
        ({"sample_rate": 10**400}, "The TDCN that the file states cannot be built: int"),
        ({"sample_rate": 22_050}, "encoder.weight (6, 40), expected (6, 55)"),
        ({"dilation_cycle": 10**9}, "cannot be built: dilation_cycle must be at most 32, got 1000000000"),
        ({"dilation_cycle": True}, "states dilation_cycle = True for its separator, which must be int"),
        ({"consistency": "magsq"}, "1 unknown:\n  shares.weight"),
        ({"consistency": "magic"}, "consistency must be one of pred_source, magsq, uniform, none, got 'magic'"),
        ({"consistency": 3}, "consistency must be one of"),
        ({"depth": 3}, "unexpected keyword argument 'depth'"),
        ({"checkpoint_blocks": 1}, "states checkpoint_blocks = 1 for its separator, which must be bool"),
    ],
)
def test_load_separator__refuses_a_stated_architecture_that_does_not_fit(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    separator = small_separator(separator_variables())
    run = run_checkpoint(tmp_path / "r.ckpt", architecture=stated(separator, **changes))
    with pytest.raises(CheckpointError) as error:
        load_separator(run)
    assert message in str(error.value)
    assert str(run) in str(error.value)


def test_load_separator__names_missing_and_misshapen_tensors(tmp_path: Path) -> None:
    state = {
        f"separator.{name}": tensor for name, tensor in small_separator(separator_variables()).state_dict().items()
    }
    del state["separator.blocks.1.conv.bias"]
    state["separator.blocks.2.conv.weight"] = torch.ones(5, 4)
    run = run_checkpoint(tmp_path / "r.ckpt", state_dict=state)
    with pytest.raises(CheckpointError) as error:
        load_separator(run)
    assert "1 missing:\n  blocks.1.conv.bias" in str(error.value)
    assert "1 of another shape:\n  blocks.2.conv.weight (5, 4), expected (5, 3)" in str(error.value)


def test_load_separator__needs_the_architecture(tmp_path: Path) -> None:
    run = run_checkpoint(tmp_path / "r.ckpt", architecture={})
    with pytest.raises(CheckpointError, match="must state the arguments consistency, dilation_cycle, hidden_width"):
        load_separator(run)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x04N.", b"\x10" + bytes(7) + b"{broken}"])
def test_load_separator__damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_separator(path)
    assert str(path) in str(error.value)
    with pytest.raises(CheckpointError, match="There is no file .*nothing"):
        load_separator(tmp_path / "nothing")


# ---- the wrong kind of file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [pre_trained(), fine_tuned()], ids=["pre-trained", "fine-tuned"])
def test_load_separator__of_an_encoder(tmp_path: Path, model: dict[str, Any]) -> None:
    path = save_published(tmp_path / "p.pt", model)
    with pytest.raises(CheckpointError, match="p.pt: The file holds no separator: .* Give a checkpoint of a MixIT run"):
        load_separator(path)


def test_load_encoder__of_a_separator(tmp_path: Path) -> None:
    run = run_checkpoint(tmp_path / "last.ckpt")
    main([str(run), str(tmp_path / "ours.safetensors")])
    for path in (run, tmp_path / "ours.safetensors"):
        with pytest.raises(CheckpointError, match="holds a separator .*, no encoder. Load it with load_separator"):
            load_encoder(path)


def test_loading__of_a_bundle_names_the_command(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "m", separator_variables())
    for path in (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001"):
        for load in (load_separator, load_encoder, read_checkpoint):
            with pytest.raises(CheckpointError, match="is a TensorFlow checkpoint. Make .* with sslam convert"):
                load(path)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "published"], "--to published is not for"),
        (["--num_heads", "2"], "--num_heads 2 is not for"),
        (["--num_mel_bins", "128"], "--num_mel_bins 128 is not for"),
        (["--allow_unknown"], "--allow_unknown is not for"),
    ],
)
def test_convert__options_of_encoders_are_refused_for_separators(
    tmp_path: Path, capsys: Any, options: list[str], message: str
) -> None:
    bundle = write_bundle(tmp_path / "m", separator_variables())
    for path in (bundle, run_checkpoint(tmp_path / "last.ckpt")):
        error = convert_error(capsys, path, tmp_path / "out", *options)
        assert f"{message} {path}, which is a separator. Leave it out." in error


def test_convert__options_of_tensorflow_checkpoints_are_refused_for_others(tmp_path: Path, capsys: Any) -> None:
    run, encoder = run_checkpoint(tmp_path / "last.ckpt"), save_published(tmp_path / "p.pt", pre_trained())
    for path in (run, encoder):
        for options in (["--consistency", "magsq"], ["--dilation_cycle", "8"]):
            error = convert_error(capsys, path, tmp_path / "out", *options)
            assert f"{' '.join(options)} is not for {path}, which is no TensorFlow checkpoint" in error
