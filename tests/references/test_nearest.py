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


def test_links_that_lead_nowhere_are_neither_meant_nor_in_the_way(folder, tmp_path):
    (tmp_path / "gone.png").symlink_to("nothing.png")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("gone.png", "photos/mug.png"):
        complaint = folder.complaint(f"items: [{{prompt: p, references: ['{name}']}}]")
        assert ("there is no" in complaint, "did you mean" in complaint) == (True, False), complaint


def test_all_names_that_are_not_there_are_said_at_once_each_with_its_nearest(folder):
    for n in range(3):
        folder.write(PNG, f"photos/{n}-mug.jpg")
    folder.write("n\n" + "".join(f"{n}\n" for n in range(3)), "rows.csv")
    entry = "items: [{id: 'a{{ n }}', prompt: p, from: rows.csv, references: ['photos/{{ n }}-mug.jpeg']}]"
    complaints = folder.complaints(entry)
    assert [f"(did you mean 'photos/{n}-mug.jpg'?)" in complaints[n] for n in range(3)] == [True] * 3


@pytest.mark.parametrize(("there", "written"), [(NFD, NFC), (NFC, NFD)])
def test_a_name_is_found_in_the_other_form_of_unicode(folder, there, written):
    folder.write(PNG, f"{there}/{written}/{there}")
    (item,) = folder.items(f"items: [{{prompt: p, references: ['{written}/{written}/{written}']}}]")
    assert item.references == (str(folder.path / there / written / there),)
    folder.write(f"{written}\n1\n", f"{there}.csv")
    assert folder.items(f"items: [{{prompt: p, from: '{written}.csv'}}]")


def test_the_picture_of_another_number_is_not_guessed(folder):
    folder.write(PNG, "mug-0046.jpg")
    folder.write(PNG, "mug-0145.jpg")
    entry = "items: [{prompt: p, references: ['%s']}]"
    assert folder.complaint(entry % "mug-0045.jpg").endswith("there is no such file")
    assert folder.complaint(entry % "mugs-46.jpg").endswith("(did you mean 'mug-0046.jpg'?)")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("bilder", "there is no folder 'bilder' beside the manifest; the folders there are 'more', 'photos'"),
        ("photo", "there is no folder 'photo' (did you mean 'photos'?)"),
    ],
)
def test_a_folder_that_is_not_there_is_one_mistake_for_all_rows(folder, written, says):
    folder.write(PNG, "photos/0.jpg")
    folder.write(PNG, "more/0.jpg")
    folder.write("n\n" + "".join(f"{n}\n" for n in range(30)), "rows.csv")
    entry = f"items: [{{id: 'a{{{{ n }}}}', prompt: p, from: rows.csv, references: ['{written}/{{{{ n }}}}.jpg']}}]"
    (complaint,) = folder.complaints(entry)
    assert says in complaint
    assert complaint.endswith("(row rows.csv:2, row rows.csv:3, row rows.csv:4, row rows.csv:5, and 26 more items)")


def test_a_reference_outside_a_list_is_one_mistake_for_all_rows(folder):
    folder.write("n\n1\n2\n3\n", "rows.csv")
    entry = "items: [{id: 'a{{ n }}', prompt: p, from: rows.csv, references: '{{ n }}.jpg'}]"
    (complaint,) = folder.complaints(entry)
    assert "references: must be a list, not '1.jpg'; write ['1.jpg'] (row rows.csv:2" in complaint


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
