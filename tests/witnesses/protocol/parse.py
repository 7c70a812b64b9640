"""Parses JSON strictly as messages of Google's published protocol: a line [message, body] on stdin, its complaint on stdout."""

from __future__ import annotations

import json
import sys

from google.ai import generativelanguage_v1beta as protocol
from google.protobuf import json_format

for line in sys.stdin:
    name, body = json.loads(line)
    complaint = ""
    try:
        json_format.ParseDict(body, getattr(protocol, name).pb()())
    except json_format.ParseError as error:
        complaint = str(error)
    print(json.dumps(complaint), flush=True)
