"""The parts of a data set that `sslam evaluate` runs through."""

from typing import Any

import pytest

import data_modules
from data_modules import AudioDataModule, ClassFolderDataModule, RecordedSoundscapesDataModule

CLASSES = [getattr(data_modules, name) for name in data_modules.__all__]
MODULES = [found for found in CLASSES if issubclass(found, AudioDataModule)]
VARIANTS = [(module, name, value) for module in MODULES for name, values in module.variants.items() for value in values]


def test_variants__are_the_published_parts() -> None:
    assert {module.__name__: dict(module.variants) for module in MODULES if module.variants} == {
        "ClassFolderDataModule": {"fold": (1, 2, 3, 4, 5)},
        "ESC50DataModule": {"fold": (1, 2, 3, 4, 5)},
        "RecordedSoundscapesDataModule": {"fold": (1, 2, 3, 4, 5)},
        "SPASSDataModule": {"scene": ("market", "park", "square", "street", "waterfront")},
        "SpeechCommandsDataModule": {"classes": (12, 35)},
    }


@pytest.mark.parametrize(("module", "name", "value"), VARIANTS)
def test_variants__are_arguments_and_have_titles_of_their_own(module: Any, name: str, value: Any) -> None:
    own_data = (ClassFolderDataModule, RecordedSoundscapesDataModule)
    needed = {"root": "my_sounds"} if module in own_data else {}
    assert {key: tuple(values) for key, values in module.variants_of(needed).items()} == module.variants
    data = module(**needed, **{name: value})
    assert getattr(data, name) == value
    others = [module(**needed, **{name: other}).title_and_fold for other in module.variants[name] if other != value]
    assert data.title_and_fold not in others
    assert getattr(module(**needed), name) in module.variants[name]
