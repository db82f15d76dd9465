"""The comparison of two checkouts sees what a reader would see, and nothing else."""

import base64
import io
from pathlib import Path

import guard
import nbformat
import pytest
from nbformat import v4
from PIL import Image

VIEW = "application/vnd.jupyter.widget-{}+json".format


def write_tree(root: Path, *, stdout="a\nb\n", red=0, alt="A dot.", tip="Turn.", ident="1", **book):
    """Write a checkout of one notebook: two printed lines, a picture, a table and a slider."""
    pixels = io.BytesIO()
    Image.new("RGB", (2, 1), (red, 0, 0)).save(pixels, "png")
    png = base64.b64encode(pixels.getvalue()).decode()
    state = {"description": "Lag", "value": 3, "tooltip": tip, "layout": f"IPY_MODEL_{ident}0"}
    models = {f"{ident}a": {"model_name": "IntSliderModel", "state": state}}
    box = {"children": [f"IPY_MODEL_{ident}a"]}
    models[f"{ident}b"] = {"model_name": "VBoxModel", "state": box}
    shown = [v4.new_output("stream", text=part) for part in book.get("parts", [stdout])]
    shown += [
        v4.new_output(
            "display_data", data={"image/png": png}, metadata={"image/png": {"alt": alt}}
        ),
        v4.new_output("display_data", data={"text/html": "<p>x<td>y<img alt='z'></p>"}),
        v4.new_output("display_data", data={VIEW("view"): {"model_id": f"{ident}b"}}),
    ]
    cells = [v4.new_markdown_cell(book.get("prose", "Why?")), v4.new_code_cell(outputs=shown)]
    notebook = v4.new_notebook(
        cells=cells, metadata={"widgets": {VIEW("state"): {"state": models}}}
    )
    for folder in ("notebooks", "figures", "data/runs", "data/models/toy"):
        (root / folder).mkdir(parents=True)
    nbformat.write(notebook, root / "notebooks" / "01_a.ipynb")
    (root / "README.md").write_text("<!-- results: begin -->\n1.2\n<!-- results: end -->\nend")
    (root / "data" / "runs" / "a.jsonl").write_text(book.get("runs", "{}\n"))
    return root


def compare(tmp_path, *options, **change):
    trees = [write_tree(tmp_path / "before"), write_tree(tmp_path / "after", **change)]
    return guard.main([*map(str, trees), *options])


@pytest.mark.parametrize("change", [{"ident": "2"}, {"parts": ["a\n", "b\n"]}])
def test_ids_and_borders_do_not_matter(tmp_path, change):
    assert compare(tmp_path, **change) == 0


CHANGES = {"stdout": "a\nc\n", "red": 9, "alt": "Dots.", "tip": "", "prose": "How?", "runs": ""}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_a_reader_sees_is_reported(tmp_path, name, capsys):
    assert compare(tmp_path, "--pictures", str(tmp_path / "p"), **{name: CHANGES[name]}) == 1
    assert capsys.readouterr().out.endswith("1 differences and 0 allowed in 4 places\n")
    assert len(list(tmp_path.glob("p/*.png"))) == (2 if name == "red" else 0)


def test_an_allowed_difference_needs_a_reason(tmp_path):
    rules = tmp_path / "rules.txt"
    rules.write_text("01*:stdout:^c  # a letter that the plan changes\n")
    assert compare(tmp_path, "--allow", str(rules), stdout="a\nc\n") == 0
    rules.write_text("01*:stdout:^c\n")
    with pytest.raises(SystemExit, match="reason"):
        guard.read_allowed(rules)
