"""The catalog of sources."""

from jaxtl import data


def test_the_catalog_lists_sources_with_the_fields_they_need():
    rows = {row["name"]: row for row in data.available()}
    assert rows["Digits"]["kind"] == "bundled"
    assert rows["CSV"]["needed"] == ("path", "target")
    assert all(row["summary"].endswith(".") for row in rows.values())
    assert set(rows) <= set(dir(data))
