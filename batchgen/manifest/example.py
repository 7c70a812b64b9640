"""The manifest that `batchgen init` writes: small, valid, and its comments say what to change."""

from __future__ import annotations

_TEXT = """\
# yaml-language-server: $schema=./batchgen.schema.json
# What should exist. `batchgen plan` says what it costs, `batchgen run` makes it, and running again makes only what is
# missing or has changed. `batchgen schema > batchgen.schema.json` gives your editor completion for the line above.
version: 1

defaults:
  model: flash              # flash, pro, lite or the id of a model; see `batchgen models`
  aspect_ratio: "1:1"

vars:
  brand: Nordlicht          # for templates such as {{ brand }}

limits:
  budget_usd: 5             # a run stops before it spends more

items:
  - id: mug-hero            # names the picture; keep it, and the picture is never bought twice
    prompt: A {{ brand }} stoneware mug on oiled oak, window light, shallow depth of field
    image_size: 2K

  - id: mug-{{ colour }}    # one entry, three pictures
    matrix:
      colour: [sand, moss, slate]
    prompt: A {{ brand }} stoneware mug glazed in {{ colour }}, plain background

  # One picture for each row of a table, with a photograph to start from:
  # - from: products.csv
  #   id: "{{ sku }}"
  #   prompt: Studio photo of {{ title }}
  #   references: ["photos/{{ sku }}.jpg"]
"""


def starter() -> str:
    """A commented manifest that validates as it is."""
    return _TEXT
