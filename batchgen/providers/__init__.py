"""Codecs of the image APIs: pure functions between our records and their wire."""
