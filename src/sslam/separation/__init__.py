"""Use of a separator: sources of waveforms of any rate and length, and of files with ``sslam separate``."""

from sslam.separation.processors import Cascade, Processors
from sslam.separation.waveform import separate_waveform

__all__ = ["Cascade", "Processors", "separate_waveform"]
