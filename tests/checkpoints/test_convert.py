"""Published files become ours and go back, and the features stay the published ones."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sslam.checkpoints import CheckpointError, load_encoder, load_pretraining_state, read_checkpoint
from sslam.checkpoints.published import PRE_TRAINED_PARTS, infer_networks
from sslam.commands.convert import main
from sslam.networks import AudioViT, ConvDecoder
from tests.checkpoints import published_files
from tests.checkpoints.published_files import fine_tuned, pre_trained, save_published
from tests.reference.formulas import input_formula

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small reference model as a published file."""
    path = tmp_path_factory.mktemp("small") / "checkpoint_last.pt"
    return save_published(path, pre_trained(width=192, depth=4, decoder_depth=2), num_heads=3)


def header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return dict(json.loads(file.metadata()["sslam"]))


@torch.no_grad()
def test_convert__features_of_the_student_are_the_published_ones(small: Path, tmp_path: Path) -> None:
    assert main([str(small), str(tmp_path / "ours.safetensors")]) == 0
    encoder = load_encoder(tmp_path / "ours.safetensors").eval()
    tokens = encoder(torch.from_numpy(input_formula(4)).squeeze(1))
    reference = np.load(REFERENCE / "sslam_stage1_small.npz")
    name = "extract_features_student_with_cls__"
    np.testing.assert_allclose(tokens[:, 0], reference["extract_features_student_cls_full"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tokens[:, :8, :16], reference[name + "head"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tokens[:, ::37, ::53], reference[name + "grid"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tokens.norm(dim=-1)[:, ::4], reference[name + "tokl2"], rtol=1e-4)
    assert tokens.norm().item() == pytest.approx(627.1015575, rel=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_convert__fine_tuned_features_and_logits_are_the_published_ones(tmp_path: Path) -> None:
    path = save_published(tmp_path / "finetuned.pt", fine_tuned(width=768, depth=12, num_classes=527))
    assert main([str(path), str(tmp_path / "ours.safetensors")]) == 0
    encoder = load_encoder(tmp_path / "ours.safetensors").eval()
    tensors = load_file(tmp_path / "ours.safetensors")
    tokens = encoder(torch.from_numpy(input_formula(2)).squeeze(1))
    normed = torch.nn.functional.layer_norm(tokens[:, 0], (768,), tensors["fc_norm.weight"], tensors["fc_norm.bias"])
    logits = torch.nn.functional.linear(normed, tensors["head.weight"], tensors["head.bias"])
    reference = np.load(REFERENCE / "checkpoint_fine_tuned.npz")
    np.testing.assert_allclose(tokens[:, 0], reference["features_cls"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tokens[:, :8, :16], reference["features_head"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits, reference["logits"], rtol=1e-4, atol=1e-5)


def test_convert__every_tensor_gets_its_name_in_the_lightning_module(small: Path, tmp_path: Path) -> None:
    main([str(small), str(tmp_path / "ours.safetensors")])
    encoder, decoder = AudioViT(width=192, depth=4, num_heads=3), ConvDecoder(192, 192, depth=2)
    expected = {f"{part}{name}" for part in ("student.", "teacher.encoder.") for name in encoder.state_dict()}
    expected |= {f"decoder.{name}" for name in decoder.state_dict()}
    tensors = load_file(tmp_path / "ours.safetensors")
    assert set(tensors) == expected
    model = pre_trained(width=192, depth=4, decoder_depth=2)
    pairs = {
        "student.cls_token": model["modality_encoders.IMAGE.extra_tokens"],
        "student.blocks.3.attn.qkv.weight": model["blocks.3.attn.qkv.weight"],
        "teacher.encoder.patch_embed.bias": model["_ema"]["modality_encoders.IMAGE.local_encoder.proj.bias"],
        "teacher.encoder.norm.weight": model["_ema"]["modality_encoders.IMAGE.context_encoder.norm.weight"],
        "decoder.blocks.1.0.weight": model["modality_encoders.IMAGE.decoder.blocks.1.0.weight"],
        "decoder.projection.bias": model["modality_encoders.IMAGE.decoder.proj.bias"],
    }
    assert all(torch.equal(tensors[name], tensor) for name, tensor in pairs.items())


def test_convert__prints_what_it_found_and_what_it_skipped(small: Path, tmp_path: Path, capsys: Any) -> None:
    before = set(sys.modules)  # omegaconf may be there already, for another package's sake
    assert main([str(small), str(tmp_path / "ours.safetensors")]) == 0
    printed = capsys.readouterr().out
    for line in (
        "kind: pre_trained",
        "encoder: width 192, depth 4, num_heads 3, mlp_ratio 4, patch_size 16, num_mel_bins 128",
        "student: 53 tensors, 1,829,376 parameters",
        "entry last_optimizer_state",
        "class fairseq.logging.meters.AverageMeter (not run)",
        "class omegaconf.dictconfig.DictConfig (not run)",
        "class argparse.Namespace (not run)",
    ):
        assert line in printed
    assert not any(name.startswith(("fairseq", "omegaconf")) for name in set(sys.modules) - before)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_read_checkpoint__reads_both_formats_of_torch_save(tmp_path: Path, legacy: bool) -> None:
    model = pre_trained()
    checkpoint = read_checkpoint(save_published(tmp_path / "published.pt", model, legacy=legacy))
    assert torch.equal(checkpoint.tensors["student.blocks.1.mlp.fc2.weight"], model["blocks.1.mlp.fc2.weight"])
    assert torch.equal(
        checkpoint.tensors["teacher.encoder.norm.bias"],
        model["_ema"][published_files.IMAGE + "context_encoder.norm.bias"],
    )
    assert "class fairseq.logging.meters.AverageMeter (not run)" in checkpoint.skipped


@pytest.mark.parametrize("model", [pre_trained(), fine_tuned()], ids=["pre-trained", "fine-tuned"])
def test_convert__to_published_and_back_changes_nothing(tmp_path: Path, model: dict[str, Any]) -> None:
    source = save_published(tmp_path / "published.pt", model)
    ours, back, again = tmp_path / "ours.safetensors", tmp_path / "back.pt", tmp_path / "again.safetensors"
    assert main([str(source), str(ours)]) == 0
    assert main(["--to", "published", str(ours), str(back)]) == 0
    assert main([str(back), str(again)]) == 0

    written = torch.load(back, weights_only=True)
    assert list(written) == ["model"]
    nested, expected_nested = written["model"].pop("_ema", {}), dict(model).get("_ema", {})
    for state, expected in (
        (written["model"], {k: v for k, v in model.items() if k != "_ema"}),
        (nested, expected_nested),
    ):
        assert set(state) == set(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-6 if "positions" in name else 0)

    first, second = load_file(ours), load_file(again)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert header(ours)["architecture"] == header(again)["architecture"]


def test_read_checkpoint__takes_a_lightning_checkpoint_of_a_run(tmp_path: Path) -> None:
    encoder, decoder = AudioViT(width=48, depth=1, num_heads=4), ConvDecoder(48, 32, depth=2, groups=8)
    state = {f"student.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {f"teacher.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    state |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
    architecture = {"encoder": {"width": 48, "num_heads": 4}}
    root = {"state_dict": state | {"frontend.window": torch.ones(3)}, "architecture": architecture, "epoch": 1}
    torch.save(root, tmp_path / "last.ckpt")
    checkpoint = read_checkpoint(tmp_path / "last.ckpt")
    assert checkpoint.networks["encoder"].arguments["num_heads"] == 4
    assert checkpoint.networks["decoder"].arguments == {
        "width": 48, "decoder_width": 32, "depth": 2, "kernel_size": 3, "groups": 8,
    }  # fmt: skip
    assert "frontend.window" in checkpoint.skipped
    pre_training = load_pretraining_state(tmp_path / "last.ckpt")
    assert set(pre_training) == set(state)
    assert all(torch.equal(pre_training[name], tensor) for name, tensor in state.items())


def test_load_pretraining_state__is_the_same_from_published_and_converted_files(tmp_path: Path) -> None:
    source = save_published(tmp_path / "published.pt", pre_trained())
    main([str(source), str(tmp_path / "ours.safetensors")])
    direct, converted = load_pretraining_state(source), load_pretraining_state(tmp_path / "ours.safetensors")
    assert direct.keys() == converted.keys()
    assert all(torch.equal(direct[name], converted[name]) for name in direct)


def test_load_pretraining_state__refuses_fine_tuned_files(tmp_path: Path) -> None:
    path = save_published(tmp_path / "finetuned.pt", fine_tuned())
    with pytest.raises(CheckpointError, match=r"fine_tuned checkpoint without student, decoder, teacher\.encoder"):
        load_pretraining_state(path)


def test_load_encoder__gives_student_or_teacher(tmp_path: Path) -> None:
    model = pre_trained()
    path = save_published(tmp_path / "published.pt", model)
    assert torch.equal(load_encoder(path).state_dict()["blocks.0.norm1.weight"], model["blocks.0.norm1.weight"])
    teacher = load_encoder(path, weights="teacher")
    assert torch.equal(teacher.state_dict()["blocks.0.norm1.weight"], model["_ema"]["blocks.0.norm1.weight"])
    with pytest.raises(CheckpointError, match="holds no teacher"):
        load_encoder(save_published(tmp_path / "finetuned.pt", fine_tuned()), weights="teacher")


def test_read_checkpoint__half_precision_becomes_float32(tmp_path: Path) -> None:
    model = {
        name: tensor.half() for name, tensor in pre_trained().items() if name not in ("_ema", published_files.POSITIONS)
    }
    checkpoint = read_checkpoint(save_published(tmp_path / "half.pt", model))
    qkv = checkpoint.tensors["student.blocks.0.attn.qkv.weight"]
    assert qkv.dtype == torch.float32
    assert torch.equal(qkv, model["blocks.0.attn.qkv.weight"].float())


def test_infer_networks__of_the_large_model() -> None:
    tensors = {f"student.{name}": torch.empty(shape, device="meta") for name, shape in large_encoder().items()}
    network = infer_networks(tensors, PRE_TRAINED_PARTS, {})["encoder"]
    sizes = {"width": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4.0, "patch_size": 16, "num_mel_bins": 128}
    assert (network.network_class, network.arguments) == (AudioViT, sizes)
    built = network.build_empty(sum(tensor.numel() for tensor in tensors.values())).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in built.items()} == large_encoder()


def large_encoder() -> dict[str, tuple[int, ...]]:
    """Shapes of our encoder at width 1024 and depth 24, from one real block of a narrow one."""
    narrow = AudioViT(width=64, depth=1, num_heads=1, max_columns=1).state_dict()
    wide = {64: 1024, 192: 3072, 256: 4096}
    shapes = {
        name: tensor.shape if name == "patch_embed.weight" else tuple(wide.get(size, size) for size in tensor.shape)
        for name, tensor in narrow.items()
    }
    shapes["patch_embed.weight"] = (1024, 1, 16, 16)
    blocks = {name: shape for name, shape in shapes.items() if name.startswith("blocks.0.")}
    shapes |= {name.replace(".0.", f".{i}.", 1): shape for i in range(1, 24) for name, shape in blocks.items()}
    return {name: tuple(shape) for name, shape in shapes.items()}


# ---- what is refused, and in which words ----------------------------------------------------------------------------


def convert_error(capsys: Any, *args: object) -> str:
    assert main([str(arg) for arg in args]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sslam convert: ")
    assert "Traceback" not in captured.err
    return str(captured.err)


def test_convert__lists_missing_unknown_and_misshapen_tensors(tmp_path: Path, capsys: Any) -> None:
    model = pre_trained()
    del model["blocks.1.norm2.bias"], model["_ema"]["blocks.0.mlp.fc1.bias"]
    model["blocks.0.attn.qkv.bias"] = torch.zeros(7)
    model["blocks.0.gamma"] = model["center"] = torch.zeros(3)
    output = tmp_path / "ours.safetensors"
    error = convert_error(capsys, save_published(tmp_path / "p.pt", model), output)
    assert "2 missing:\n  blocks.1.norm2.bias\n  _ema.blocks.0.mlp.fc1.bias" in error
    assert "1 of another shape:\n  blocks.0.attn.qkv.bias (7,), expected (192,)" in error
    assert "2 unknown:\n  blocks.0.gamma\n  center" in error
    assert not output.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "p.pt"]


def test_convert__unknown_tensors_are_left_out_on_request(tmp_path: Path, capsys: Any) -> None:
    model = pre_trained()
    model["center"] = torch.zeros(3)
    source, output = save_published(tmp_path / "p.pt", model), tmp_path / "ours.safetensors"
    assert "Leave the unknown ones out with allow_unknown" in convert_error(capsys, source, output)
    assert main([str(source), str(output), "--allow_unknown"]) == 0
    assert "unknown, left out:\n  center" in capsys.readouterr().out
    assert not any("center" in name for name in load_file(output))


def test_convert__keeps_an_existing_output(tmp_path: Path, capsys: Any) -> None:
    source, output = save_published(tmp_path / "p.pt", pre_trained()), tmp_path / "ours.safetensors"
    output.write_bytes(b"precious")
    assert f"{output} exists already. Choose another name or add --overwrite." in convert_error(capsys, source, output)
    assert output.read_bytes() == b"precious"
    assert main([str(source), str(output), "--overwrite"]) == 0
    assert header(output)["kind"] == "pre_trained"


def test_convert__refuses_other_positions(tmp_path: Path, capsys: Any) -> None:
    model = pre_trained()
    model[published_files.POSITIONS][0, 100, 3] += 0.01
    error = convert_error(capsys, save_published(tmp_path / "p.pt", model), tmp_path / "ours")
    assert "fixed_positional_encoder.positions differs by up to 0.01 from the sine-cosine table of 8 rows" in error


def test_convert__asks_for_heads_that_the_width_does_not_tell(tmp_path: Path, capsys: Any) -> None:
    source = save_published(tmp_path / "p.pt", pre_trained(width=48))
    assert "Give num_heads." in convert_error(capsys, source, tmp_path / "ours")
    assert "width must be a multiple of num_heads, got width=48 and num_heads=5" in convert_error(
        capsys, source, tmp_path / "ours", "--num_heads", 5
    )
    assert main([str(source), str(tmp_path / "ours"), "--num_heads", "4"]) == 0
    assert load_encoder(tmp_path / "ours").num_heads == 4


def test_convert__names_a_missing_file_and_folder(tmp_path: Path, capsys: Any) -> None:
    missing = tmp_path / "nothing.pt"
    assert f"There is no file {missing}" in convert_error(capsys, missing, tmp_path / "ours")
    assert "There is no folder" in convert_error(capsys, missing, tmp_path / "folder" / "ours")


def test_convert__wrong_options_are_answered_in_one_line(capsys: Any) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["in.pt", "out", "--num_heads", "none"])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "must be a whole number of at least 1, got 'none'" in error
