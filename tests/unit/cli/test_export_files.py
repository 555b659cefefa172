"""What `headway export` writes into a file, by its name's end and the options."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.export_files import ExportFile, export_file


@pytest.mark.parametrize(
    ("name", "format_", "pictures", "expected"),
    [
        ("out.jsonl", None, None, ExportFile("headway", None, False)),
        ("out.jsonl.gz", None, "none", ExportFile("headway", "none", True)),
        ("out.parquet", None, None, ExportFile("parquet", None, False)),
        ("OUT.PARQUET", None, "none", ExportFile("parquet", "none", False)),
        ("out.parquet", "parquet", "files", ExportFile("parquet", "files", False)),
        ("out.tar", None, None, ExportFile("headway", "files", False)),
        ("out.tar.gz", "headway", "files", ExportFile("headway", "files", True)),
        ("out.jsonl", "trl", None, ExportFile("trl", None, False)),
        ("out.gz", "verl", None, ExportFile("verl", None, True)),
        ("out", None, "files", ExportFile("headway", "files", False)),
        ("out.data", "parquet", None, ExportFile("parquet", None, False)),
    ],
)
def test_the_end_of_a_name_decides_what_the_options_leave_open(name, format_, pictures, expected):
    assert export_file(Path(name), format_, pictures) == expected


@pytest.mark.parametrize(
    ("name", "format_", "pictures", "said"),
    [
        ("out.parquet", "headway", None, "out.parquet: --format headway is no .parquet file"),
        ("out.parquet", "trl", None, "--format trl is no .parquet file"),
        ("out.jsonl", "parquet", None, "--format parquet is no .jsonl file"),
        ("out.tar", "parquet", None, "--format parquet is no .tar file"),
        ("out.parquet.gz", None, None, "leave out .gz"),
        ("out.gz", "parquet", None, "leave out .gz"),
        ("out.tar", None, "none", "name the file .jsonl"),
        ("out.jsonl.gz", None, "files", "name the file .tar"),
    ],
)
def test_a_name_and_options_that_contradict_each_other_are_refused(name, format_, pictures, said):
    with pytest.raises(ValueError, match=said):
        export_file(Path(name), format_, pictures)
