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
