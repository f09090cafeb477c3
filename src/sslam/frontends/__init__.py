"""Front ends: waveforms to features, batched, on the batch's device, in float32."""

from sslam.frontends.kaldi_fbank import Frontend, KaldiFbank

__all__ = ["Frontend", "KaldiFbank"]
