"""Front ends: waveforms to features, batched, on the batch's device, in float32."""

from sslam.frontends.base import Frontend
from sslam.frontends.kaldi_fbank import KaldiFbank
from sslam.frontends.log_mel import LogMel

__all__ = ["Frontend", "KaldiFbank", "LogMel"]
