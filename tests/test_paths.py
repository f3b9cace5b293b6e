"""Which files a pattern leads to, with links that lead anywhere."""

from __future__ import annotations

import os

import pytest

from khuvcm_tf import paths


@pytest.fixture
def here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def _touch(*names: str) -> None:
  for name in names:
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    open(name, "x").close()


def _png(pattern: str) -> list[str]:
  return paths.list_files(pattern, (".png",)).files


def test_a_folder_that_links_to_itself_has_each_file_once(here):
  _touch("loop/a.png", "loop/sub/b.png")
  for link, target in (("loop/self", "."), ("loop/again", "."), ("loop/sub/up", "..")):
    os.symlink(target, link)
  for pattern in ("loop", "loop/**/*.png", "**/*.png", "loop/**/**/*.png"):
    assert _png(pattern) == ["loop/a.png", "loop/sub/b.png"], pattern
  assert paths.list_files("loop", (".png",)).left_out == {}


def test_a_file_and_links_to_it_count_once_under_its_own_name(here):
  _touch("z.png", "sub/y.png")
  for link, target in (("a.png", "z.png"), ("b.png", "/none.png"), ("c", "sub")):
    os.symlink(target, link)
  found = paths.list_files(".", (".png",))
  assert found.files == ["./sub/y.png", "./z.png"]
  assert found.left_out == {"links to others": 1, "no files, or links to none": 1}


def test_a_folder_of_links_elsewhere_is_followed(here):
  _touch("store/a.png", "store/more/b.png")
  os.mkdir("photos")
  os.symlink("../store/a.png", "photos/first.png")
  os.symlink("../store/more", "photos/more")
  assert _png("photos") == ["photos/first.png", "photos/more/b.png"]


def test_globs_cross_folders_by_two_stars_alone_and_start_anywhere(here):
  _touch("1.png", "x/2.png", "x/y/3.png", "b[1]/4.png", ".hidden/5.png")
  assert _png("*.png") == ["1.png"]
  assert _png("*/*.png") == ["b[1]/4.png", "x/2.png"]
  assert _png("x/**") == _png("x") == ["x/2.png", "x/y/3.png"]
  assert _png("**/y/*.png") == ["x/y/3.png"]
  assert _png(f"{here}/**/2.png") == [f"{here}/x/2.png"]
  assert _png("none/**/*.png") == _png("1.png/**") == []


def test_what_is_left_out_is_counted_by_reason(here):
  _touch("a.png", "B.PNG", "b.jpe", "c.AVIF", "d.avif", "notes", ".a.png.swp")
  found = paths.list_files(".", (".png",))
  assert found.files == ["./B.PNG", "./a.png"]
  assert found.left_out == {"of .avif": 2, "of .jpe": 1, "of no suffix": 1}
  assert paths.list_files("b.jpe", (".png",)) == (["b.jpe"], {})


def test_a_folder_that_cannot_be_read_is_counted(here, monkeypatch):
  _touch("a.png", "secret/b.png")
  scan = os.scandir

  def refuse(path):
    if path.endswith("secret"):
      raise PermissionError(13, "Permission denied", path)
    return scan(path)

  monkeypatch.setattr(os, "scandir", refuse)
  assert paths.list_files(".", (".png",)) == (["./a.png"], {"folders that cannot be read": 1})
