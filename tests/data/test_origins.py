"""Origins of the rows of several sources."""

from jaxtl.data import origins


def test_origins_of_several_sources_stay_those_of_their_rows():
    first = origins.of_lines([("a", [1, 5]), ("b", [2]), ("a", [9])])
    second = origins.of_lines([("c", [7])])
    whole = origins.concatenated([first, second])
    assert [*map(str, whole)] == ["a:1", "a:5", "b:2", "a:9", "c:7"]
    assert whole.counts_lines
    assert whole.source_row.tolist() == [0, 1, 2, 3, 4]
    elements = origins.of_elements([("d", 2)])
    mixed = origins.concatenated([second, elements])
    assert [*map(str, mixed)] == ["c:7", "d[0]", "d[1]"]
    files = origins.concatenated([origins.of_files(["e", "f"])] * 2)
    assert [*map(str, files)] == ["e", "f", "e", "f"]
    selected = origins.concatenated([first.select([3, 2]), second])
    assert [*map(str, selected)] == ["a:9", "b:2", "c:7"]
