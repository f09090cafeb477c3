"""Front ends: waveforms to features, batched, on the batch's device, in float32."""

from sslam.frontends.base import Frontend
from sslam.frontends.kaldi_fbank import KaldiFbank
from sslam.frontends.log_mel import LogMel
from sslam.frontends.mfcc import MFCC

__all__ = ["MFCC", "Frontend", "KaldiFbank", "LogMel"]
