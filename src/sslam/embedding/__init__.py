"""Use of a model: embeddings of clips of any length up to two minutes, and of files with ``sslam embed``."""

from sslam.embedding.embedder import AudioEmbedder, Embeddings

__all__ = ["AudioEmbedder", "Embeddings"]
