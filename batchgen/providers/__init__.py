"""Codecs of the image APIs: pure functions between batchgen's records and the vendors' wire formats."""
