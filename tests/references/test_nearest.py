"""A reference that is not there is answered with the name that was meant, and a folder elsewhere only with its user's leave."""

from __future__ import annotations

import os
import unicodedata

import pytest

from batchgen.references.folders import FILE, VARIABLE, AllowedFolders
from batchgen.references.nearest import nearest_name
from batchgen.settings import Settings
from tests.support.manifest_folder import PNG

NFC, NFD = unicodedata.normalize("NFC", "café.png"), unicodedata.normalize("NFD", "café.png")


@pytest.mark.parametrize(
    ("there", "written", "meant"),
    [
        (NFD, NFC, f"{NFD!r}, whose letters are in another form of Unicode"),
        (NFC, NFD, f"{NFC!r}, whose letters are in another form of Unicode"),
        ("photos/Mug.PNG", "photos/mug.png", "'photos/Mug.PNG'"),
        ("photos/mug.png", "Photos\\mug.png", "'photos/mug.png'"),
        ("photos/mug.jpg", "photos/mug.jpeg", "'photos/mug.jpg'"),
        ("mug.png", "mug.jpg", "'mug.png'"),
        ("stoneware-mug.png", "stonewar-mug.png", "'stoneware-mug.png'"),
    ],
)
def test_the_nearest_name_is_in_the_complaint(folder, there, written, meant):
    folder.write(PNG, there)
    complaint = folder.complaint(f"items: [{{prompt: p, references: ['{written}']}}]")
    assert complaint.endswith(f"there is no such file (did you mean {meant}?)")


def test_all_names_that_are_not_there_are_said_at_once_each_with_its_nearest(folder):
    for n in range(3):
        folder.write(PNG, f"photos/{n}-mug.jpg")
    folder.write("n\n" + "".join(f"{n}\n" for n in range(3)), "rows.csv")
    entry = "items: [{id: 'a{{ n }}', prompt: p, from: rows.csv, references: ['photos/{{ n }}-mug.jpeg']}]"
    complaints = folder.complaints(entry)
    assert [f"(did you mean 'photos/{n}-mug.jpg'?)" in complaints[n] for n in range(3)] == [True] * 3


def test_nothing_like_it_is_not_guessed(folder):
    folder.write(PNG, "mug.png")
    assert folder.complaint("items: [{prompt: p, references: [horse.png]}]").endswith("there is no such file")


def test_a_name_never_leads_out_of_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "Mug.png").write_bytes(PNG)
    assert nearest_name(str(tmp_path / "in"), "../mug.png") == ""


def test_an_escape_of_yaml_in_a_path_is_explained(folder):
    assert "write / in a path" in folder.complaint('items: [{prompt: p, references: ["photos\\new.png"]}]')


def test_a_table_is_answered_in_the_same_way(folder):
    folder.write("a\n1\n", "Rows.csv")
    assert "(did you mean 'Rows.csv'?)" in folder.complaint("items: [{prompt: p, from: rows.csv}]")


# --- folders elsewhere


@pytest.fixture
def elsewhere(tmp_path_factory):
    path = tmp_path_factory.mktemp("elsewhere")
    (path / "mug.png").write_bytes(PNG)
    return path


def manifest(folder, *, name="mug.png"):
    return f"reference_folders: ['{folder}']\nitems: [{{prompt: p, references: ['{name}']}}]\n"


def test_a_folder_that_the_user_has_not_allowed_is_refused_with_the_line_to_add(folder, elsewhere, tmp_path):
    allowed = AllowedFolders(file=tmp_path / FILE)
    complaints = folder.complaints(manifest(elsewhere), allowed_folders=allowed)
    assert complaints[0].startswith("job.yaml:1:21: reference_folders.0: ")
    assert complaints[0].endswith(f"add the line {elsewhere} to {tmp_path / FILE}".replace(f"{folder.path}/", ""))


@pytest.mark.parametrize("name", ["mug.png", "*.png", "{folder}/mug.png"])
def test_an_allowed_folder_is_looked_into_after_the_manifests_own(folder, elsewhere, name):
    allowed = AllowedFolders((os.path.dirname(elsewhere),))
    text = manifest(elsewhere, name=name.format(folder=elsewhere))
    (item,) = folder.items(text, allowed_folders=allowed)
    assert item.references == (str(elsewhere / "mug.png"),)
    folder.write(PNG, "mug.png")
    if not os.path.isabs(name.format(folder=elsewhere)):
        (item,) = folder.items(text, allowed_folders=allowed)
        assert item.references == (str(folder.path / "mug.png"),)


@pytest.mark.parametrize("name", ["link.png", "{folder}/link.png", "{folder}/../mug.png", "../mug.png"])
def test_no_link_and_no_way_up_leads_out_of_an_allowed_folder(folder, elsewhere, tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside") / "key.png"
    outside.write_bytes(PNG)
    (elsewhere / "link.png").symlink_to(outside)
    (elsewhere.parent / "mug.png").write_bytes(PNG)
    allowed = AllowedFolders((str(elsewhere),))
    text = manifest(elsewhere, name=name.format(folder=elsewhere))
    assert "references[0]" in folder.complaint(text, allowed_folders=allowed)


def test_a_link_to_a_folder_that_is_not_allowed_is_refused(folder, elsewhere, tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    (root / "photos").symlink_to(elsewhere)
    complaints = folder.complaints(manifest(root / "photos"), allowed_folders=AllowedFolders((str(root),)))
    assert "your own settings do not allow it" in complaints[0]


def test_leave_is_given_by_the_environment_and_by_the_users_file_and_never_by_the_folder_of_the_manifest(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv(VARIABLE, f"/photos{os.pathsep}relative")
    file = tmp_path / "config" / FILE
    file.parent.mkdir(parents=True)
    file.write_text("# mine\n/pictures\n")
    (tmp_path / ".env").write_text(f"{VARIABLE}=/etc\n")
    assert AllowedFolders.load(Settings.load(tmp_path)) == AllowedFolders(("/photos", "/pictures"), file)
    assert AllowedFolders.load(Settings.load(tmp_path, {})) == AllowedFolders()
