"""The page of a report: what it says, in which order, with everything escaped and nothing from outside."""

import base64
import html.parser
import json
import re

import pytest
import xarray as xr

from critjax.report import Content, Row, render

HOSTILE = "<b> & 'single' \"double\""
ROWS = [
    Row("critical noise", "9.000", "4.02", "0.03", "closure"),
    Row("   as t_ou", "2.20", "1.42", "0.01"),
    Row("   as log-SNR", "-4.39", "-2.78", "0.01"),
    Row("order", "1", "0.97", "0.01", HOSTILE),
]
PAGE = Content(
    "Patches, and 5 % of them",
    ["First ± 2.", "Second.", f"Third {HOSTILE}."],
    1,
    ROWS,
    "Legend.",
    ["Quick run."],
)
PICTURES = {"one": (b"\x89PNG one", f"Caption {HOSTILE}."), "two": (b"two", "Other.")}


class Reader(html.parser.HTMLParser):
    """Visible text in the order of the page, and the tags."""

    def __init__(self):
        super().__init__()
        self.text, self.tags, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style" and data.strip():
            self.text.append(data.strip())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def dataset(**more):
    attrs = {
        "study": "freeze-out",
        "title": f"critjax freeze-out: {HOSTILE}",
        "settings": json.dumps({"size": 3, "sizes": [1, 2], "data": HOSTILE, "open": None}),
        "versions": json.dumps({"jax": "0.10"}),
        "seconds": json.dumps({"theory": 1.26, "simulation": 12.0}),
        "created": "2024-01-01",
    }
    return xr.Dataset(attrs=attrs | more)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def page():
    return render(dataset(), PAGE, PICTURES)


def test_everything_is_there_in_its_order(page):
    found = read(page).text
    assert found == [
        f"critjax freeze-out: {HOSTILE}",  # of the window
        f"critjax freeze-out: {HOSTILE}",
        "Patches, and 5 % of them",
        "Quick run.",
        "First\u00a0±\u00a02.",
        "Second.",
        f"Third {HOSTILE}.",
        "Theory and measurement",
        *("quantity", "theory", "measured", "error"),
        *("critical noise", "9.000", "4.02", "0.03", "closure"),
        *("as t_ou", "2.20", "1.42", "0.01"),
        *("as log-SNR", "-4.39", "-2.78", "0.01"),
        *("order", "1", "0.97", "0.01", HOSTILE),
        "Legend.",
        "Figures",
        f"Caption {HOSTILE}.",
        "Other.",
        "Repeat this run",
        "critjax freeze-out --from results.nc --out another-folder",
        "or, in Python:",
        "import xarray as xr\nfrom critjax.studies import freeze_out\n"
        'old = xr.load_dataset("results.nc", engine="h5netcdf")\n'
        "new = freeze_out.run(freeze_out.settings_of(old))",
        *("Settings", "size", "3", "sizes", "[1, 2]", "data", HOSTILE, "open", "None"),
        *("Versions", "jax", "0.10"),
        "Cost",
        "theory 1.3 s, simulation 12.0 s; finished 2024-01-01.",
    ]


def test_numbers_stay_with_their_units_on_one_line():
    text = read(render(dataset(), PAGE._replace(sentences=["5 % of it ± 1 %."]), {})).text
    assert "5\u00a0% of it\u00a0±\u00a01\u00a0%." in text


def test_units_are_set_off_from_the_number_they_belong_to(page):
    rows = [attrs.get("class") for attrs in read(page).all("tr")]
    assert rows[:5] == [None, "group", "unit group", "unit", None]


def test_pictures_are_inside_and_nothing_comes_from_outside(page):
    reader = read(page)
    figures, images = reader.all("figure"), reader.all("img")
    assert [f["id"] for f in figures] == ["one", "two"] and images[0]["alt"] == f"Caption {HOSTILE}."
    for image, (png, _) in zip(images, PICTURES.values(), strict=True):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64" and base64.b64decode(data) == png
    assert not reader.all("script") and not reader.all("link") and not re.search(r"https?://", page)
    assert not reader.all("b")  # what came in as text went out as text


def test_a_result_that_says_little_has_a_page_all_the_same():
    bare = Content("", [], 0, [], "", [])
    found = read(render(xr.Dataset(attrs={"study": "toy"}), bare, {}, result_name="a & b.nc")).text
    assert found[0] == "critjax toy" and "critjax toy --from a & b.nc --out another-folder" in found
    assert "; finished ." in found
