"""Drawing pictures and videos from the prior of a model, or parts of pictures: `sample_frames`, `bsqcodec sample`."""
