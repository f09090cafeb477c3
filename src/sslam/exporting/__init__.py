"""Models to be given away: a folder with weights, configuration and a model card; ONNX; a repository of the Hub."""
