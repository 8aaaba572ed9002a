"""What names the slides of a collection, and what is refused."""

import pytest

from engine.collection.manifest import entries_of
from engine.errors import CollectionError


def test_a_manifest_names_slides_from_its_own_folder_with_what_it_says_of_them(tmp_path):
    (tmp_path / "m.csv").write_text("slide,id,mpp,patient\na.svs,first,0.25;0.5,p1\nsub/b.ome.tiff,,,p2\n")
    first, second = entries_of([str(tmp_path / "m.csv")])
    assert (first.id, first.url) == ("first", f"{tmp_path}/a.svs#spacing=0.25,0.5")
    assert (second.id, second.url, second.others) == ("b", f"{tmp_path}/sub/b.ome.tiff", {"patient": "p2"})


def test_a_folder_and_a_pattern_name_the_slides_in_them(tmp_path):
    for name in ("b.svs", "a.ndpi", "notes.txt"):
        (tmp_path / name).touch()
    assert [e.id for e in entries_of([str(tmp_path)])] == ["a", "b"]
    assert [e.id for e in entries_of([f"{tmp_path}/*.svs"])] == ["b"]
    assert [e.id for e in entries_of([f"{tmp_path}/*.svs", f"{tmp_path}/b.svs"])] == ["b"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("path\na.svs\n", "needs the column 'slide', and .* has path"),
        ("slide,mpp\n,0.5\n", "line 2 of .* does not"),
        ("slide\na/x.svs\nb/x.svs\n", "are both 'x'"),
        ("", "has none"),
        ("slide\n", "names none"),
    ],
)
def test_a_manifest_that_names_no_slides_is_refused_in_one_line(tmp_path, text, wanted):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(CollectionError, match=wanted) as caught:
        entries_of([str(tmp_path / "m.csv")])
    assert "\n" not in str(caught.value)


def test_a_manifest_as_spreadsheets_save_it_is_read(tmp_path):
    text = '\ufeffslide,note,\r\na.svs,"two\r\nlines \u2028 here",\r\n,,\r\n'
    (tmp_path / "m.csv").write_bytes(text.encode())
    (entry,) = entries_of([str(tmp_path / "m.csv")])
    assert entry.id == "a"
    assert entry.others["note"].startswith("two")
    assert set(entry.others) == {"note"}


def test_paths_in_a_manifest_count_from_its_folder_and_one_slide_may_be_named_twice(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/regions.geojson").touch()
    (tmp_path / "m.csv").write_text(
        "slide,tissue\ndeep/a.svs,deep/regions.geojson\ndeep/../deep/a.svs,\nb.svs,none\nc.svs,auto\n"
    )
    monkeypatch.chdir(tmp_path / "deep")
    entries = entries_of(["../m.csv", "a.svs"])
    assert [entry.id for entry in entries] == ["a", "b", "c"]
    assert all(entry.path.startswith("/") for entry in entries)
    assert entries[0].tissue.startswith("/")
    assert [entry.tissue for entry in entries[1:]] == ["none", "auto"]


@pytest.mark.parametrize("name", ["../../etc/x", "a/b", "a\\b", "x#mpp=1", "tab\there", "n" * 300])
def test_a_name_that_leads_out_of_the_folder_of_results_is_refused(tmp_path, name):
    (tmp_path / "m.tsv").write_text(f'slide\tid\na.svs\t"{name}"\n')
    with pytest.raises(CollectionError, match="a slide's name becomes a file's") as caught:
        entries_of([str(tmp_path / "m.tsv")])
    assert "\n" not in str(caught.value)


def test_a_slide_that_is_not_there_has_no_size_and_no_folder_hides_it(tmp_path):
    (tmp_path / "array.zarr").mkdir()
    (tmp_path / "array.zarr/.zarray").touch()
    (entry,) = entries_of([f"{tmp_path}/array.zarr"])
    assert entry.id == "array"
    (gone,) = entries_of([f"{tmp_path}/gone.svs"])
    assert gone.n_bytes == 0
