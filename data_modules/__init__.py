"""Data modules: one file per data set; every batch is waveforms at 16 kHz and what the task needs beside them."""

from data_modules.base import AudioDataModule, AudioFileDataset
from data_modules.esc50 import ESC50DataModule
from data_modules.folder import FolderDataModule
from data_modules.manifest import ManifestDataModule
from data_modules.soundscapes import SoundscapesDataModule

__all__ = [
    "AudioDataModule",
    "AudioFileDataset",
    "ESC50DataModule",
    "FolderDataModule",
    "ManifestDataModule",
    "SoundscapesDataModule",
]
