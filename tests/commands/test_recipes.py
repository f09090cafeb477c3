"""Rows by task and method, recipes of a user's own, and the parts of the data that they run through."""

from pathlib import Path

import pytest

from sslam.commands.fitting.config_files import experiments_folder
from sslam.commands.recipes import Recipe, own_recipe, row_of
from sslam.errors import UsageError

EVALUATION = experiments_folder() / "evaluation"


def test_row_of__is_the_method_and_then_the_task() -> None:
    """A task is a data set, or what an evaluation of one needs."""
    method = str(EVALUATION / "methods/linear_probe.yaml")
    of_data = str(experiments_folder() / "data/urban_sed.yaml")
    files = (method, str(EVALUATION / "tasks/esc50.yaml"))
    assert row_of("esc50", "linear_probe") == Recipe("esc50_linear_probe", files)
    assert row_of("urban_sed", "shallow_classifier").files[1] == of_data


def test_row_of__is_a_file_of_its_own_where_it_differs_from_the_rule() -> None:
    assert row_of("esc50", "fine_tune") == Recipe("esc50_fine_tune", (str(EVALUATION / "esc50_fine_tune.yaml"),))


ALL_TASKS = (
    "audioset_20k, audioset_2m, class_folder, esc50, idmt_desed_fl, recorded_scenes, rendered_scenes, soundscapes, "
    "spass, speech_commands, speech_commands_12, urban_sed"
)
ALL_METHODS = (
    "attentive_probe, best_readout_probe, fine_tune, linear_probe, prototypical_probe, query_by_example, "
    "shallow_classifier"
)


@pytest.mark.parametrize(
    ("task", "method", "message"),
    [
        ("esc_50", "fine_tune", f"There is no task esc_50. Did you mean esc50? The tasks are: {ALL_TASKS}."),
        ("xyz", "fine_tune", f"There is no task xyz. The tasks are: {ALL_TASKS}."),
        ("folder", "fine_tune", "There is no task folder."),  # without labels
        ("esc50", "linear", f"There is no method linear. Did you mean linear_probe? The methods are: {ALL_METHODS}."),
        ("small", "esc50_fine_tune", "There is no method esc50_fine_tune. Did you mean fine_tune?"),
    ],
)
def test_row_of__unknown_names_are_clear_errors(task: str, method: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        row_of(task, method)
    assert str(raised.value).startswith(message)


def test_parts__are_all_parts_but_those_that_are_not_chosen() -> None:
    spass = row_of("spass", "fine_tune")
    scenes = ("market", "park", "square", "street", "waterfront")
    assert spass.parts({}, None) == [{"scene": scene} for scene in scenes]
    assert spass.parts({"scene": ["park", "street"]}, [1]) == [{"scene": "park"}, {"scene": "street"}]
    assert row_of("esc50", "linear_probe").parts({"scene": ["park"]}, [2, 5]) == [{"fold": 2}, {"fold": 5}]
    assert row_of("urban_sed", "linear_probe").parts({}, [1]) == [{}]


def test_parts__a_recipe_chooses_and_the_command_line_over_it(tmp_path: Path) -> None:
    retrieval = row_of("esc50", "query_by_example")  # says itself that nothing is held out
    assert retrieval.parts({}, None) == retrieval.parts({}, [3]) == [{}]
    assert retrieval.parts({"fold": ["3"]}, None) == [{"fold": 3}]
    (tmp_path / "mine.yaml").write_text(
        f"compose: [{EVALUATION / 'spass_fine_tune.yaml'}]\ndata: {{init_args: {{scene: park}}}}\n"
    )
    mine = own_recipe(str(tmp_path / "mine.yaml"))
    assert (mine.name, mine.subcommand, mine.parts({}, None)) == ("mine", "fit", [{}])


def test_parts__every_combination_of_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from data_modules import SPASSDataModule

    monkeypatch.setattr(SPASSDataModule, "variants", {"scene": ("park", "market"), "season": (1, 2)})
    parts = [tuple(part.values()) for part in row_of("spass", "fine_tune").parts({}, None)]
    assert parts == [("park", 1), ("park", 2), ("market", 1), ("market", 2)]


def test_parts__of_ones_own_folder_are_as_many_folds_as_are_made_or_given(tmp_path: Path) -> None:
    own = row_of("class_folder", "linear_probe")

    def folds(**given: str) -> list[int]:
        return [part["fold"] for part in own.parts({name: [value] for name, value in given.items()}, None)]

    assert folds() == folds(root="my_sounds") == folds(num_folds="many") == [1, 2, 3, 4, 5]
    assert folds(root="my_sounds", num_folds="3") == [1, 2, 3]
    table = tmp_path / "labels.csv"
    table.write_text("file,label,fold\na.wav,x,0\nb.wav,y,12\nc.wav,x,0\n")
    assert folds(root=str(table), num_folds="3") == folds(root=str(table), audio=str(tmp_path)) == [0, 12]
    assert own.parts({"root": [str(table)], "fold": ["12"]}, None) == [{"fold": 12}]
    table.write_text("file,label\na.wav,x\nb.wav,y\n")
    assert folds(root=str(table), num_folds="2") == [1, 2]
    with pytest.raises(UsageError, match=r"class_folder_linear_probe has no fold 6. Choose from 1, 2, 3, 4, 5, or"):
        own.parts({"root": ["my_sounds"]}, [6])
    assert row_of("class_folder", "query_by_example").parts({"num_folds": ["3"]}, None) == [{}]


def test_parts__a_part_that_is_not_there_is_a_clear_error() -> None:
    message = "esc50_linear_probe has no fold 7. Choose from 1, 2, 3, 4, 5, or leave it out for all of them."
    for given, folds in (({"fold": ["1", "7"]}, None), ({}, [1, 7])):
        with pytest.raises(UsageError) as raised:
            row_of("esc50", "linear_probe").parts(given, folds)
        assert str(raised.value) == message


def test_recipe__needs_a_method_and_data(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("trainer: {max_steps: 2}\n")
    mine = own_recipe(str(tmp_path / "mine.yaml"))
    for key in ("model", "data"):
        with pytest.raises(UsageError, match=rf"mine.yaml names no {key}. Give a recipe such as those of"):
            mine.named_class(key)


def test_recipe__what_trains_nothing_is_tested_only() -> None:
    assert row_of("esc50", "query_by_example").subcommand == "test"
    assert row_of("esc50", "shallow_classifier").subcommand == "fit"
