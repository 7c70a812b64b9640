"""The kit that judges a codec, ours or a package's. To use it, write in a test file of pytest:

    from batchgen.testing import CodecKit


    class TestPaint(CodecKit):
        model = "paint-1"

Codec, models and emulator are found as a run finds them, by entry points. Each requirement that is not met fails a test
with a sentence that says so.
"""

from batchgen.testing.kit import CodecKit

__all__ = ["CodecKit"]
