"""The kit that judges a codec, ours or a package's. In a test file of pytest:

    from batchgen.testing import CodecKit


    class TestPaint(CodecKit):
        model = "paint-1"

Codec, models and emulator are found as a run finds them, by entry points. What does not hold fails with a sentence.
"""

from batchgen.testing.kit import CodecKit

__all__ = ["CodecKit"]
