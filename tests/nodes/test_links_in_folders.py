"""Links and special files inside a chosen folder: never another's text or picture, never a wait for ever."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import folder_paths
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a right there, and there are no pipes among files")
SECRET = "the private key of the artist"


@pytest.fixture
def cats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """input/cats with one picture, beside private files outside of the input folder."""
    for name in ("input/cats", "private", "disk/photos"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    for number, name in enumerate(("input/cats/a.png", "private/p.png", "disk/photos/d.png"), start=1):
        Image.new("RGB", (40, 40), (40 * number, 0, 0)).save(tmp_path / name)
    (tmp_path / "private" / "id_rsa").write_text(SECRET)
    return tmp_path / "input" / "cats"


def read(pack: ModuleType, folder: str = "cats") -> Any:
    began = time.monotonic()
    pictures = pack.B4MPictures.execute(folder, "snq", "cat", "a photo of a {trigger} {class}", True).result[0]
    assert time.monotonic() - began < 5
    return pictures


def linked(target: Path) -> Any:
    return lambda place: os.symlink(target, place)


def a_socket(place: Path) -> None:
    before = os.getcwd()
    os.chdir(place.parent)  # the path of a socket may be no longer than 107 bytes
    try:
        socket.socket(socket.AF_UNIX).bind(place.name)
    finally:
        os.chdir(before)


SPECIAL: dict[str, Any] = {
    "pipe": os.mkfifo,
    "socket": a_socket,
    "device": linked(Path("/dev/zero")),
    "folder": os.mkdir,
    "circle": lambda place: os.symlink(place, place),
    "nothing": linked(Path("/no/such/file")),
    "process": linked(Path("/proc/self/environ")),
}


@pytest.mark.parametrize("name", ["b.png", "a.txt", "a_mask.png", "b_mask.png"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_file_costs_neither_the_folder_nor_the_node(pack: ModuleType, cats: Path, kind: str, name: str) -> None:
    SPECIAL[kind](cats / name)
    pictures = read(pack)
    assert [picture.name for picture in pictures.pictures] == ["a.png"] and pictures.pictures[0].mask is None
    assert pictures.pictures[0].caption == "a photo of a snq cat"
    assert pack.B4MPictures.fingerprint_inputs("cats")
    assert kind == "folder" or any(name in note for note in pictures.notes)


@pytest.mark.parametrize("name,target", [("a.txt", "id_rsa"), ("b.png", "p.png"), ("a_mask.png", "p.png")])
def test_what_a_link_leads_to_outside_of_the_folder_is_neither_read_nor_shown(
    pack: ModuleType, cats: Path, name: str, target: str
) -> None:
    os.symlink(cats.parents[1] / "private" / target, cats / name)
    pictures = read(pack)
    assert [picture.name for picture in pictures.pictures] == ["a.png"] and pictures.pictures[0].mask is None
    assert SECRET not in repr((pictures.notes, pictures.prompts())) and "private" not in repr(pictures.notes)
    assert any(name in note and "link to a file outside of the folder" in note for note in pictures.notes)


def test_what_the_artist_s_own_library_keeps_behind_links_is_read(pack: ModuleType, cats: Path) -> None:
    """A folder on another disk, as a whole; a picture of another folder; a picture of that disk."""
    os.symlink(cats.parents[1] / "disk" / "photos", cats.parent / "photos")
    assert [picture.name for picture in read(pack, "photos").pictures] == ["d.png"]
    (cats.parent / "dogs").mkdir()
    os.symlink(cats / "a.png", cats.parent / "dogs" / "same.png")
    os.symlink(cats.parents[1] / "disk" / "photos" / "d.png", cats.parent / "dogs" / "far.png")
    pictures = read(pack, "dogs")
    assert [picture.name for picture in pictures.pictures] == ["far.png", "same.png"]
    assert not any("left out" in note for note in pictures.notes)


def test_a_caption_of_gigabytes_is_named_and_not_read(pack: ModuleType, cats: Path) -> None:
    with open(cats / "a.txt", "wb") as file:
        file.truncate(8 << 30)
    pictures = read(pack)
    assert pictures.pictures[0].caption == "a photo of a snq cat" and any("a.txt" in note for note in pictures.notes)


def test_own_auxiliary_pictures_are_looked_at_in_the_same_way(pack: ModuleType, cats: Path) -> None:
    import importlib

    auxiliary = importlib.import_module(f"{pack.__name__.rpartition('.')[0]}.b4m_core.auxiliary")
    os.symlink(cats.parents[1] / "private" / "id_rsa", cats / "a.txt")
    os.mkfifo(cats / "b.png")
    (found,) = auxiliary.own_auxiliary(cats, "styles")
    assert SECRET not in repr(found.prompts()) and [picture.name for picture in found.pictures] == ["a.png"]


def test_a_pipe_or_a_device_among_the_loras_is_neither_waited_for_nor_listed(
    pack: ModuleType, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    folder_paths.filename_list_cache.clear()
    os.mkfifo(tmp_path / "pipe.safetensors")
    os.symlink("/dev/zero", tmp_path / "device.safetensors")
    options = next(each.options for each in pack.B4MLoadAdapter.define_schema().inputs if each.id == "filename")
    assert "pipe.safetensors" not in options and "device.safetensors" not in options
    for name in ("pipe.safetensors", "device.safetensors"):
        with pytest.raises(error, match=name):
            pack.B4MLoadAdapter.execute(name)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(pack: ModuleType, cats: Path) -> None:
    Image.new("RGB", (40, 40)).save(cats / "b.png")
    os.chmod(cats / "b.png", 0)
    assert any("b.png was left out" in note for note in read(pack).notes)
