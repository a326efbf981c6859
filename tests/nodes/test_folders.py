"""Names from the graph cannot leave the host's folders."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import folder_paths
import pytest
from PIL import Image

ESCAPES = [
    "", ".", "..", "../secrets", "cats/../../secrets", "cats/..", "/etc", "//server/share", "\\\\server\\share", "..\\secrets",
    "C:\\Windows",
    "C:/Windows", "c:cats", "cats\x00", "\x00", "cats//studio", "./cats", "cats/", "~", "~/cats", "file:///etc", "cats/./studio",
    "cats/link_up", "cats/link_up/secrets", "cats/link_up/input/cats", "%2e%2e/secrets", "$HOME", "cats\n../..",
    "x" * 300, "é" * 200, "\ud83d", "cats/\udcff", "a/" * 600 + "a", "cats/con\x00", "\u2024\u2024/secrets", "cats/\u2215etc",
]  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An input folder with pictures, a loras folder, and secrets beside them that links lead to."""
    (tmp_path / "secrets" / "inner").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "secrets" / "x.png")
    (tmp_path / "secrets" / "x.safetensors").write_bytes(b"secret")
    for name in ("input/cats/studio", "input/empty", "input/.hidden", "loras/sub", "user"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("cats/studio/a.PNG", "cats/b.jpg", "top.png", ".hidden/c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / "input" / name)
    os.symlink(tmp_path / "secrets", tmp_path / "input" / "link_out")
    os.symlink(tmp_path, tmp_path / "input" / "cats" / "link_up")
    os.symlink(tmp_path / "secrets" / "x.safetensors", tmp_path / "loras" / "link.safetensors")
    for name in ("a.safetensors", "sub/b.safetensors", "c.pt"):
        (tmp_path / "loras" / name).write_bytes(b"x")
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors", ".pt"}))
    folder_paths.filename_list_cache.clear()
    return tmp_path


def test_the_list_has_the_folders_with_pictures_below_the_input_folder(host: ModuleType, folders: Path) -> None:
    assert host.input_subfolders() == ["cats", "cats/studio", "link_out"]
    places = [folders / "input/cats", folders / "input/cats/studio", folders / "secrets"]
    assert [host.safe_input_folder(name) for name in host.input_subfolders()] == places


def test_a_folder_on_another_disk_is_listed_with_what_lies_in_it_and_links_in_a_circle_end(host: ModuleType, folders: Path) -> None:
    disk = folders / "disk"
    (disk / "dogs").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(disk / "dogs" / "rex.png")
    os.symlink(disk, disk / "dogs" / "again")
    os.symlink(disk, folders / "input" / "photos")
    os.symlink(folders / "input", folders / "input" / "myself")
    assert host.input_subfolders() == ["cats", "cats/studio", "link_out", "photos/dogs"]
    assert host.safe_input_folder("photos/dogs") == disk / "dogs"


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_leads_out_of_the_input_folder_is_refused(host: ModuleType, error: type[Exception], folders: Path, name: str) -> None:
    with pytest.raises(error) as caught:
        host.safe_input_folder(name)
    assert "\n" not in str(caught.value) and str(folders) not in str(caught.value)


@pytest.mark.parametrize("name", [None, b"cats", 5, 1.5, True, ["cats"], {"cats": 1}, Path("cats")], ids=repr)
def test_a_name_that_is_no_text_is_refused_everywhere(host: ModuleType, error: type[Exception], folders: Path, name: object) -> None:
    for ask in (host.safe_input_folder, host.safe_lora_path, host.safe_new_lora_path):
        with pytest.raises(error, match="something else than text"):
            ask(name)


def test_an_input_folder_that_is_itself_a_link_still_works(host: ModuleType, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.symlink(folders / "input", folders / "input_link")
    monkeypatch.setattr(folder_paths, "input_directory", str(folders / "input_link"))
    assert host.safe_input_folder("cats") == folders / "input" / "cats"


def test_lora_files_are_read_from_the_hosts_list_alone(host: ModuleType, error: type[Exception], folders: Path) -> None:
    sub = os.path.join("sub", "b.safetensors")
    assert host.lora_files() == ["a.safetensors", "link.safetensors", sub]
    assert host.safe_lora_path(sub) == folders / "loras" / "sub" / "b.safetensors"
    assert host.safe_lora_path("link.safetensors").read_bytes() == b"secret"
    for name in ("../secrets/x.safetensors", "c.pt", str(folders / "secrets" / "x.safetensors"), *ESCAPES):
        with pytest.raises(error):
            host.safe_lora_path(name)


def test_loras_on_another_disk_and_from_another_entry_are_listed_and_found_as_the_host_does(
    host: ModuleType, error: type[Exception], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "disk" / "deep").mkdir(parents=True)
    (folders / "more").mkdir()
    for name in ("disk/one.safetensors", "disk/deep/two.safetensors", "more/a.safetensors", "more/three.safetensors"):
        (folders / name).write_bytes(name.encode())
    os.symlink(folders / "disk", folders / "loras" / "disk")
    os.symlink(folders / "nowhere", folders / "loras" / "gone.safetensors")
    roots = [str(folders / "loras"), str(folders / "more")]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", (roots, {".safetensors"}))
    folder_paths.filename_list_cache.clear()
    listed = host.lora_files()
    assert {os.path.join("disk", "one.safetensors"), os.path.join("disk", "deep", "two.safetensors"), "three.safetensors"} <= set(listed)
    for name in listed:
        if (place := folder_paths.get_full_path("loras", name)) is None:
            with pytest.raises(error, match="no longer"):
                host.safe_lora_path(name)
        else:
            assert host.safe_lora_path(name) == Path(place)
    assert [name for name, *_ in host.lora_stamps()] == [name for name in listed if name != "gone.safetensors"]
    assert host.safe_lora_path("a.safetensors").read_bytes() == b"x"  # of two, the first entry's


def test_a_lora_name_that_leads_out_is_refused_even_if_it_is_in_the_list(
    host: ModuleType, error: type[Exception], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["../secrets/x.safetensors", str(folders / "secrets" / "x.safetensors")]
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda kind: names)
    for name in names:
        with pytest.raises(error):
            host.safe_lora_path(name)


@pytest.mark.parametrize("name", ["my_style", "my_style.safetensors", "Käse 2", "v1.2"])
def test_a_plain_name_is_saved_directly_in_the_loras_folder(host: ModuleType, folders: Path, name: str) -> None:
    assert host.safe_new_lora_path(name) == folders / "loras" / (name.removesuffix(".safetensors") + ".safetensors")


BAD_NAMES = [
    "sub/x",
    "a:b",
    "a*b",
    "con",
    "NUL",
    "com1.x",
    "x.",
    " x",
    "x ",
    ".hidden",
    "a\tb",
    "link",
    "x" * 200,
    "a|b",
    "a?b",
    '"a"',
    "<a>",
    "con ",
    "con .x",
    "CONIN$",
    "com²",
    "猫" * 80,
]


@pytest.mark.parametrize("name", [*BAD_NAMES, *(name for name in ESCAPES if name not in ("~", "$HOME"))])
def test_a_name_that_no_system_should_write_is_refused(host: ModuleType, error: type[Exception], folders: Path, name: str) -> None:
    with pytest.raises(error):
        host.safe_new_lora_path(name)
    assert sorted(os.listdir(folders / "secrets")) == ["inner", "x.png", "x.safetensors"]


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "lpt9.x", "aux", "cats/prn", "cats.", "cats ", "cats/studio. ", "conin$", "com¹"])
def test_as_on_windows_a_folder_that_windows_takes_for_something_else_is_refused(
    host: ModuleType, error: type[Exception], folders: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "input" / name).mkdir(parents=True, exist_ok=True)
    assert host.safe_input_folder(name) == folders / "input" / name
    monkeypatch.setattr(importlib.import_module(f"{host.__name__}.folders"), "_WINDOWS", True)
    with pytest.raises(error, match="on Windows"):
        host.safe_input_folder(name)


def test_a_long_name_that_is_not_latin_is_saved_or_refused_before_anything_is_trained(host: ModuleType, folders: Path) -> None:
    path = host.safe_new_lora_path("猫" * 70)
    path.with_name(path.stem + "_99.safetensors").write_bytes(b"x")
    assert len(os.fsencode(path.name)) < 255


def test_what_killed_saves_left_is_gone_after_the_start(host: ModuleType, folders: Path) -> None:
    stray = ".b4m-0123456789abcdef.partial"
    places = [folders / "loras", folders / "user" / "b4m" / "runs" / "a", folders / "user" / "b4m" / "auxiliary"]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / stray).write_bytes(b"x")
    (folders / "loras" / "sub" / stray).write_bytes(b"x")
    host.sweep_folders()
    assert not any((place / stray).exists() for place in places)
    assert (folders / "loras" / "sub" / stray).exists()  # B4M writes no files there


def test_a_saved_file_is_listed_at_once_after_the_list_is_refreshed(host: ModuleType, folders: Path) -> None:
    folder = folders / "loras"
    times = (folder.stat().st_atime, folder.stat().st_mtime)
    assert "new.safetensors" not in host.lora_files()
    host.safe_new_lora_path("new").write_bytes(b"x")
    os.utime(folder, times)  # a file system with coarse times: the host's own check sees no change
    host.refresh_lora_list()
    assert "new.safetensors" in host.lora_files()


def test_the_run_store_lies_in_the_users_folder(host: ModuleType, folders: Path) -> None:
    assert host.run_store_folder() == folders / "user" / "b4m" and host.run_store_folder().is_dir()


def test_a_folder_that_cannot_be_made_is_a_sentence(
    host: ModuleType, error: type[Exception], folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folders / "disk").write_text("a file where the disk was")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folders / "disk" / "loras")], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "user_directory", str(folders / "disk"))
    for call in (host.loras_folder, host.run_store_folder, lambda: host.safe_new_lora_path("x")):
        with pytest.raises(error, match="cannot be made .*: check that its disk is there and writable"):
            call()
