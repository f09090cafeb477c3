"""Data modules: one file per data set; every batch is waveforms at 16 kHz and what the task needs beside them."""

from data_modules.audioset import AudioSetDataModule
from data_modules.backgrounds import Background, ColoredNoise, Silence
from data_modules.base import AudioDataModule
from data_modules.class_folder import ClassFolderDataModule
from data_modules.clips import AudioFileDataset
from data_modules.desed_fl import IDMTDESEDFLDataModule
from data_modules.esc50 import ESC50DataModule
from data_modules.folder import FolderDataModule, ManifestDataModule
from data_modules.fuss import FUSSDataModule
from data_modules.labelled import LabelledDataModule
from data_modules.labelled_manifest import LabelledManifestDataModule
from data_modules.mixtures import MixturesDataModule
from data_modules.recorded_soundscapes import RecordedSoundscapesDataModule
from data_modules.rendered_soundscapes import RenderedSoundscapesDataModule
from data_modules.soundscapes import SoundscapesDataModule
from data_modules.spass import SPASSDataModule
from data_modules.speech_commands import SpeechCommandsDataModule
from data_modules.urban_sed import UrbanSEDDataModule

__all__ = [
    "AudioDataModule",
    "AudioFileDataset",
    "AudioSetDataModule",
    "Background",
    "ClassFolderDataModule",
    "ColoredNoise",
    "ESC50DataModule",
    "FUSSDataModule",
    "FolderDataModule",
    "IDMTDESEDFLDataModule",
    "LabelledDataModule",
    "LabelledManifestDataModule",
    "ManifestDataModule",
    "MixturesDataModule",
    "RecordedSoundscapesDataModule",
    "RenderedSoundscapesDataModule",
    "SPASSDataModule",
    "Silence",
    "SoundscapesDataModule",
    "SpeechCommandsDataModule",
    "UrbanSEDDataModule",
]
