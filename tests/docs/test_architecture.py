"""The page about the architecture names floors, rooms and files that are there."""

from __future__ import annotations

import re

from tests.house.modules import FLOORS, PACKAGE

PAGE = (PACKAGE / "manual" / "architecture.md").read_text(encoding="utf-8")


def test_every_file_that_it_names_is_there():
    names = re.findall(r"`([\w/]+\.py)`", PAGE)
    assert len(names) > 15
    assert [name for name in names if not (PACKAGE / name).is_file()] == []


def test_its_picture_shows_every_floor_and_every_room():
    picture = PAGE.split("```")[1]
    lines = {words[0]: set(words) for line in picture.splitlines() if (words := line.split())}
    rooms = {
        floor: {name for name in names if "." not in name and name != "__main__"} for floor, names in FLOORS.items()
    }
    assert {floor: names - lines[floor] for floor, names in rooms.items()} == {floor: set() for floor in FLOORS}
