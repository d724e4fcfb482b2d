"""Rate-distortion benchmarks: data sets, anchor codecs, metrics, BD-rate, and the report."""
